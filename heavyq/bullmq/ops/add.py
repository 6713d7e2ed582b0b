"""add: store a job and put it where it waits. Its script is add.lua."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from heavyq.bullmq.keys import why_not_an_id
from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import DUE_MS_MAX, NOTHING, meta, to_text
from heavyq.errors import UsageError

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey

PRIORITY_MAX: Final = 2**21 - 1


@dataclass(frozen=True, slots=True)
class Added:
    """id: the job's. existed: a job of that id was there, and nothing was stored."""

    id: str
    existed: bool


def add(
    q: QueueKey,
    *,
    name: str,
    data: bytes,
    opts: bytes,
    timestamp_ms: int,
    delay_ms: int = 0,
    priority: int = 0,
    lifo: bool = False,
    job_id: str | None = None,
) -> Op[Added]:
    """Add one job.

    data, opts: JSON text, stored as it is. timestamp_ms: its creation, the base of its delay.
    priority: 1 runs first, 0 is none and runs before all that have one. lifo: it runs next.
    Raises UsageError for an id, a priority or a moment that BullMQ could not hold.
    Only with a `job_id` is it safe to repeat.
    """
    if job_id is not None and (problem := why_not_an_id(job_id)):
        raise UsageError(f"job id {job_id!r}: {problem}")
    if not 0 <= priority <= PRIORITY_MAX:
        raise UsageError(f"priority {priority} is not in 0..{PRIORITY_MAX}")
    if delay_ms < 0:
        raise UsageError(f"a delay of {delay_ms} ms lies in the past")
    if not 0 <= timestamp_ms <= timestamp_ms + delay_ms <= DUE_MS_MAX:
        raise UsageError(f"the moment {timestamp_ms + delay_ms} ms is later than BullMQ can hold (September 2039)")
    return Op(
        verb="add",
        keys=meta(q),
        args=(name, data, opts, timestamp_ms, delay_ms, priority, int(lifo), job_id or NOTHING),
        read=_read,
        replayable=job_id is not None,
    )


def _read(reply: Any) -> Added:
    return Added(id=to_text(reply[0]), existed=reply[1] == 1)
