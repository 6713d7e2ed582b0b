"""What is done to one job from outside, as talks: both kinds of handle hold them.

Owns what several operations are together: reading a job to learn what it allows, and asking again where a script does
its work in parts. Every talk raises NoSuchJob for a job that is not there, but where its words say otherwise, and
WrongState where the job is no place for it; then nothing was changed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from heavyq.bullmq import ops
from heavyq.bullmq.options import Keep
from heavyq.config.arguments import text, whole
from heavyq.errors import BadValue, JobError, NoSuchJob, WrongState
from heavyq.linux.clock import epoch_ms
from heavyq.queue.adding import check_size
from heavyq.queue.link import QueueLink
from heavyq.queue.snapshot import milliseconds
from heavyq.queue.talk import run

if TYPE_CHECKING:
    from heavyq.bullmq.job_hash import JobRecord
    from heavyq.bullmq.keys import QueueKey
    from heavyq.config.units import Duration
    from heavyq.queue.talk import Talk

_OVER: Final = ("completed", "failed")
_KEPT: Final = Keep(count=-1)


def find(q: QueueKey, job_id: str) -> Talk[JobRecord]:
    """Read a job."""
    record = yield from run(ops.find(q, job_id))
    if record is None:
        raise NoSuchJob(f"queue {q.name!r} has no job {job_id}")
    return record


def cancel(q: QueueKey, job_id: str, reason: str) -> Talk[bool]:
    """Fail a job that waits: True. Ask the worker of one that runs to stop it: False."""
    text(reason, "cancel(): the reason")
    return _cancel(q, job_id, reason)


def _cancel(q: QueueKey, job_id: str, reason: str) -> Talk[bool]:
    record = yield from find(q, job_id)
    keep = record.opts.remove_on_fail or _KEPT
    match (yield from run(ops.cancel(q, job_id, reason=reason, now_ms=epoch_ms(), keep=keep))):
        case "gone":
            raise NoSuchJob(f"queue {q.name!r} has no job {job_id}")
        case "over":
            state = record.state if record.state in _OVER else "over"
            raise WrongState(job_id, str(state), f"cannot cancel job {job_id}: it has ended already")
        case word:
            return word == "failed"


def retry(q: QueueKey, job_id: str, *, reset_attempts: bool) -> Talk[None]:
    """Put a job that has ended back among those that wait."""
    record = yield from find(q, job_id)
    match record.state:
        case "completed" | "failed" as state:
            yield from run(ops.reprocess(q, job_id, state=state, reset_attempts=reset_attempts))
        case state:
            raise WrongState(job_id, str(state), f"cannot retry job {job_id}: it is {state}")


def promote(q: QueueKey, job_id: str) -> Talk[None]:
    """Let a delayed job run as soon as it may."""
    return run(ops.promote(q, job_id))


def remove(q: QueueKey, job_id: str, *, children: bool) -> Talk[None]:
    """Remove a job, and its children before it. One that is not there is no error."""
    while (removed := (yield from run(ops.remove(q, job_id, children=children, now_ms=epoch_ms())))) is None:
        continue  # a part of a large family
    if not removed:
        what = "it, or a child of it, is" if children else "it is"
        raise WrongState(job_id, "locked", f"cannot remove job {job_id}: {what} in work")


def remove_pending_children(q: QueueKey, job_id: str) -> Talk[None]:
    """Remove a job's children that have not ended; those in work stay."""
    yield from find(q, job_id)
    while (yield from run(ops.remove_pending_children(q, job_id, epoch_ms()))):
        continue


def detach(q: QueueKey, job_id: str) -> Talk[bool]:
    """Take a job away from its parent. False: the parent did not wait for it (any more)."""
    return run(ops.detach(q, job_id, now_ms=epoch_ms()))


def change_priority(q: QueueKey, job_id: str, priority: int, *, lifo: bool) -> Talk[None]:
    """Give a job another priority."""
    whole(priority, "change_priority(): priority (1 runs first, 0 is none)", None)
    return run(ops.change_priority(q, job_id, priority=priority, lifo=lifo))


def change_delay(q: QueueKey, job_id: str, delay: Duration) -> Talk[None]:
    """Let a delayed job come due another time from now."""
    delay_ms = milliseconds(delay, "change_delay()")
    return run(ops.change_delay(q, job_id, delay_ms=delay_ms, now_ms=epoch_ms()))


def update_data(link: QueueLink, q: QueueKey, job_id: str, name: str | None, payload: object) -> Talk[bytes]:
    """Write a job's payload anew, and return its JSON. name: the job's, which says the type; None: not known yet."""
    if name is None:
        name = (yield from find(q, job_id)).name
    data = link.types(name).payload.encode(payload)
    check_size(link, data, f"update_data of job {job_id} of queue {link.name!r}")
    yield from run(ops.update_data(q, job_id, data))
    return data


def logs(q: QueueKey, job_id: str, start: int, stop: int) -> Talk[list[str]]:
    """Read rows of a job's log; of a job that is not there, none."""
    whole(start, "logs(): start", None)
    whole(stop, "logs(): stop", None)
    return _logs(q, job_id, start, stop)


def _logs(q: QueueKey, job_id: str, start: int, stop: int) -> Talk[list[str]]:
    page = yield from run(ops.logs(q, job_id, start=start, stop=stop))
    return list(page.rows)


def log(q: QueueKey, job_id: str, row: str, keep: int | None) -> Talk[int]:
    """Append a row to a job's log, and return how many it has."""
    text(row, "log(): the row")
    whole(keep, "log(): keep", optional=True)
    return run(ops.add_log(q, job_id, row, keep=keep))


def clear_logs(q: QueueKey, job_id: str, keep: int | None) -> Talk[None]:
    """Drop a job's log."""
    whole(keep, "clear_logs(): keep", optional=True)
    return run(ops.clear_logs(q, job_id, keep=keep))


def children_values(q: QueueKey, job_id: str, queue: object) -> Talk[dict[str, Any]]:
    """Read what a job's completed children have returned, by their keys. queue: only its, in its type; None: all."""
    of = getattr(queue, "_link", None)
    if queue is not None and not isinstance(of, QueueLink):
        raise BadValue(f"children_values(): queue is a Queue, or None for all children; not {queue!r}")
    return _children_values(q, job_id, of)


def _children_values(q: QueueKey, job_id: str, of: QueueLink | None) -> Talk[dict[str, Any]]:
    found = yield from run(ops.children(q, job_id))
    base = "" if of is None else of.key().key("")
    decode = json.loads if of is None else of.types().result.decode
    values = {}
    for key, raw in found.processed.items():
        if key.startswith(base):
            try:
                values[key] = decode(raw)
            except (ValueError, RecursionError) as error:
                raise JobError(f"the result of the child {key}: {error}") from None
    return values


def failed_children_values(q: QueueKey, job_id: str) -> Talk[dict[str, str]]:
    """Read why children have failed that a job goes on without, by their keys."""
    return dict((yield from run(ops.children(q, job_id))).ignored)


def pending_children(q: QueueKey, job_id: str) -> Talk[list[str]]:
    """Read the keys of the children that a job still waits for."""
    return list((yield from run(ops.children(q, job_id))).pending)
