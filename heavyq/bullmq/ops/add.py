"""add: store a job and put it where it waits. Its script is add.lua."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from heavyq.bullmq.keys import why_not_an_id
from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import DUE_MS_MAX, NOTHING, meta, to_bytes, to_text
from heavyq.errors import HasAnotherParent, NoSuchParent, UsageError

if TYPE_CHECKING:
    from heavyq.bullmq.dedup import Dedup
    from heavyq.bullmq.keys import QueueKey
    from heavyq.bullmq.op import Arg
    from heavyq.bullmq.parent import Parent

PRIORITY_MAX: Final = 2**21 - 1
_TTL_MAX: Final = 2**53
_EXISTED: Final = 1
_DEDUPLICATED: Final = 2
_NO_SUCH_PARENT: Final = -5
_HAS_ANOTHER_PARENT: Final = -7


@dataclass(frozen=True, slots=True)
class Added:
    """What came of an add.

    id: the job's, or of the job that holds the deduplication id. existed: a job of that id was there, and nothing
    was stored. deduplicated: the add was refused for the job that holds its deduplication id.
    """

    id: str
    existed: bool
    deduplicated: bool = False


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
    parent: Parent | None = None,
    dedup: Dedup | None = None,
    waits_for_children: bool = False,
    in_flow: bool = False,
) -> Op[Added]:
    """Add one job.

    data, opts: JSON text, stored as it is. timestamp_ms: its creation, the base of its delay.
    priority: 1 runs first, 0 is none and runs before all that have one. lifo: it runs next.
    parent: it waits for this job too; a job of the id that is there already becomes its child. waits_for_children:
    they are added after it, each with this job as parent. in_flow: the parent belongs to the same flow, and
    `close_flow` follows for it; a job that is the child of another one is then left alone without an error.
    Raises UsageError for an id, a priority or a moment that BullMQ could not hold, and for a deduplication of a
    child or of a parent, which BullMQ does not take.
    The reply raises NoSuchParent (nothing was added) or HasAnotherParent (nothing was changed).
    Only with a `job_id` is it safe to repeat.
    """
    _check_id(q, job_id, parent)
    _check_numbers(timestamp_ms, delay_ms, priority)
    if dedup is not None:
        _check_dedup(dedup, has_family=parent is not None or waits_for_children)
    return Op(
        verb="add",
        keys=meta(q),
        args=(
            *(name, data, opts, timestamp_ms, delay_ms, priority, int(lifo), job_id or NOTHING),
            *(int(waits_for_children), int(in_flow)),
            *_parent_args(parent),
            *_dedup_args(dedup),
        ),
        read=partial(_read, parent=parent, in_flow=in_flow),
        replayable=job_id is not None,
    )


def _check_id(q: QueueKey, job_id: str | None, parent: Parent | None) -> None:
    if job_id is not None and (problem := why_not_an_id(job_id)):
        raise UsageError(f"job id {job_id!r}: {problem}")
    if parent is None:
        return
    if not parent.id:
        raise UsageError("a parent has an id")
    if (parent.queue, parent.id) == (q, job_id):
        raise UsageError(f"job {job_id!r} cannot be its own parent")


def _check_numbers(timestamp_ms: int, delay_ms: int, priority: int) -> None:
    if not 0 <= priority <= PRIORITY_MAX:
        raise UsageError(f"priority {priority} is not in 0..{PRIORITY_MAX}")
    if delay_ms < 0:
        raise UsageError(f"a delay of {delay_ms} ms lies in the past")
    if not 0 <= timestamp_ms <= timestamp_ms + delay_ms <= DUE_MS_MAX:
        raise UsageError(f"the moment {timestamp_ms + delay_ms} ms is later than BullMQ can hold (September 2039)")


def _check_dedup(dedup: Dedup, *, has_family: bool) -> None:
    if not dedup.id:
        raise UsageError("a deduplication has an id")
    if dedup.ttl_ms is not None and not 0 < dedup.ttl_ms <= _TTL_MAX:
        raise UsageError(f"a deduplication lives for 1 ms to {_TTL_MAX} ms, and not for {dedup.ttl_ms}")
    if has_family:
        raise UsageError("a job that has a parent or children cannot be deduplicated: the other would wait in vain")


def _parent_args(parent: Parent | None) -> tuple[Arg, ...]:
    return (NOTHING, NOTHING) if parent is None else (to_bytes(parent.key), parent.to_field())


def _dedup_args(dedup: Dedup | None) -> tuple[Arg, ...]:
    if dedup is None:
        return (NOTHING, NOTHING, 0, 0, 0, 0)
    return (
        to_bytes(dedup.id),
        NOTHING if dedup.ttl_ms is None else dedup.ttl_ms,
        int(dedup.extend),
        int(dedup.replace),
        int(dedup.keep_last_if_active),
        int(dedup.reschedule),
    )


def _read(reply: Any, *, parent: Parent | None, in_flow: bool) -> Added:
    job_id, outcome = to_text(reply[0]), reply[1]
    key = parent.key if parent else ""
    if outcome == _NO_SUCH_PARENT:
        raise NoSuchParent(f"there is no job {key}, which was named as parent: nothing was added")
    if outcome == _HAS_ANOTHER_PARENT and not in_flow:
        raise HasAnotherParent(f"job {job_id} is the child of another job, and stays so: not of {key}")
    existed = outcome in (_EXISTED, _HAS_ANOTHER_PARENT)
    return Added(id=job_id, existed=existed, deduplicated=outcome == _DEDUPLICATED)
