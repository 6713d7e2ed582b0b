"""detach: the job is its parent's child no longer. Its script is detach.lua."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, to_bytes
from heavyq.errors import NoSuchJob, NoSuchParent

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def detach(q: QueueKey, job_id: str, *, now_ms: int) -> Op[bool]:
    """Take a job out of what its parent waits for; if it was the last, the parent runs.

    now_ms: the base of the parent's own delay. Returns False if the parent did not wait for it (any more).
    Raises NoSuchJob, or NoSuchParent if the parent is gone.
    """
    return Op(
        verb="detach",
        keys=meta(q),
        args=(to_bytes(job_id), now_ms),
        read=partial(_read, q, job_id),
        replayable=False,
    )


def _read(q: QueueKey, job_id: str, reply: Any) -> bool:
    if reply == b"no job":
        raise NoSuchJob(f"queue {q.name!r} has no job {job_id!r}")
    if reply == b"no parent":
        raise NoSuchParent(f"the parent of job {job_id!r} does not exist any more")
    return bool(reply == 1)
