"""remove_pending_children: a parent's children that are not over. Its script is remove_pending_children.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, to_bytes
from heavyq.bullmq.ops.replies import read_more

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def remove_pending_children(q: QueueKey, job_id: str, now_ms: int) -> Op[bool]:
    """Remove the children of a job that are not over, and theirs; those that a worker has stay.

    The job itself is released if it waits for nothing else now. Returns True if there may be more: 1,000 were
    removed, call again.
    """
    return Op(
        verb="remove_pending_children",
        keys=meta(q),
        args=(to_bytes(job_id), now_ms),
        read=read_more,
        replayable=True,
    )
