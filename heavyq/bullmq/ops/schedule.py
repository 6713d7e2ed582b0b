"""schedule: make or change a job scheduler and plan its next job. Its script is schedule.lua."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import DUE_MS_MAX, NOTHING, meta, to_bytes, to_text
from heavyq.bullmq.ops.next_iteration import placing_args, text_inside_json
from heavyq.bullmq.schedule import Repeat, pattern_moments
from heavyq.errors import BadValue, WrongState

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey

_JOB_LIKE: Final = re.compile(r".*:\d+", re.DOTALL)
# What each job gets from its scheduler, or what BullMQ does not do for a scheduler's jobs.
_NOT_IN_TEMPLATE: Final = ("de", "delay", "jobId", "parent", "repeat", "timestamp")


@dataclass(frozen=True, slots=True)
class Scheduled:
    """job_id: the scheduler's next job. delay_ms: how long until it is due."""

    job_id: str
    delay_ms: int


def schedule(
    q: QueueKey,
    *,
    scheduler_id: str,
    repeat: Repeat,
    name: str | None = None,
    data: bytes | None = None,
    opts: bytes = b"{}",
    now_ms: int,
) -> Op[Scheduled]:
    """Make a scheduler, or change the one of that id: its planned job is replaced, and it goes on from there.

    name: of its jobs; None: the scheduler's id. data: JSON text; None: none. opts: JSON of the options of each of
    its jobs, as `pack_options` makes it.
    Raises BadValue for a schedule, an id or options that make no sense. The result raises WrongState, and nothing
    is written, if the next moments all have a job already.
    """
    _check_id(scheduler_id)
    _check(repeat, now_ms)
    template = _template(opts)
    job_opts = {**template, "repeat": repeat.to_opts(1), "repeatJobKey": scheduler_id, "timestamp": now_ms}
    return Op(
        verb="schedule",
        keys=meta(q),
        args=(
            to_bytes(scheduler_id),
            text_inside_json(scheduler_id),
            now_ms,
            scheduler_id if name is None else name,
            NOTHING if data is None or data == b"{}" else data,
            _packed(template) if template else NOTHING,
            _packed(job_opts),
            *placing_args(template),
            *(
                NOTHING if value is None else value
                for value in (
                    repeat.every_ms,
                    repeat.pattern,
                    repeat.tz,
                    repeat.limit,
                    repeat.start_ms,
                    repeat.end_ms,
                    repeat.offset_ms or None,
                )
            ),
            *_moments(repeat, now_ms),
        ),
        read=partial(_read, scheduler_id),
        replayable=False,
    )


def _check_id(scheduler_id: str) -> None:
    if not scheduler_id:
        raise BadValue("a scheduler's id cannot be empty")
    if _JOB_LIKE.fullmatch(scheduler_id):
        raise BadValue(f'scheduler id "{scheduler_id}" ends as the ids of scheduled jobs do: it cannot end in :number')


def _check(repeat: Repeat, now_ms: int) -> None:
    """Refuse what makes no sense, each with what to do about it."""
    if (repeat.every_ms is None) == (repeat.pattern is None):
        raise BadValue("a scheduler takes either every or cron")
    if repeat.limit is not None and repeat.limit < 1:
        raise BadValue(f"limit {repeat.limit}: a scheduler makes at least 1 job")
    if repeat.immediately and repeat.start_ms is not None:
        raise BadValue("a scheduler takes either immediately or start")
    if repeat.end_ms is not None and repeat.end_ms <= max(now_ms, repeat.start_ms or 0):
        raise BadValue("a scheduler's end must come after now and after its start")
    if repeat.start_ms is not None and not 0 <= repeat.start_ms <= DUE_MS_MAX:
        raise BadValue("a scheduler's start must lie before September 2039: BullMQ holds no later moment")
    if repeat.every_ms is not None:
        _check_period(repeat, repeat.every_ms)
    elif repeat.offset_ms is not None:
        raise BadValue("offset goes with every, not with cron")


def _check_period(repeat: Repeat, every_ms: int) -> None:
    if not 1 <= every_ms <= DUE_MS_MAX:
        raise BadValue(f"every {every_ms} ms: a period is at least 1 ms and at most {DUE_MS_MAX}")
    if repeat.tz is not None:
        raise BadValue("tz goes with cron, not with every")
    if repeat.offset_ms is not None and not 0 <= repeat.offset_ms < every_ms:
        raise BadValue(f"offset {repeat.offset_ms} ms: it lies inside the period, from 0 on below {every_ms}")


def _moments(repeat: Repeat, now_ms: int) -> tuple[int, ...]:
    if repeat.pattern is None:
        return ()
    from heavyq.bullmq.cron import check_count

    check_count(repeat.pattern)
    moments = pattern_moments(repeat.pattern, repeat.tz, max(now_ms, repeat.start_ms or 0), repeat.end_ms)
    if repeat.immediately:
        return (now_ms, *moments)
    if not moments:
        before = "its end" if repeat.end_ms is not None else "September 2039, the last moment that BullMQ holds"
        raise BadValue(f'cron "{repeat.pattern}" names no moment before {before}')
    return moments


def _template(opts: bytes) -> dict[str, Any]:
    template: dict[str, Any] = json.loads(opts)
    for name in _NOT_IN_TEMPLATE:
        if name in template:
            raise BadValue(f'the option "{name}" cannot be set for a scheduler\'s jobs')
    if not template.get("attempts"):
        template.pop("attempts", None)  # 0 is BullMQ's way to say nothing
    return template


def _packed(opts: dict[str, Any]) -> bytes:
    return json.dumps(opts, allow_nan=False, separators=(",", ":")).encode()


def _read(scheduler_id: str, reply: Any) -> Scheduled:
    if reply == b"taken":
        message = f'scheduler "{scheduler_id}": its next moments all have a job already; remove those, or wait'
        raise WrongState(scheduler_id, "scheduled", message)
    return Scheduled(job_id=to_text(reply[0]), delay_ms=int(reply[1]))
