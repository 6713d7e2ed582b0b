"""unschedule: remove a job scheduler. Its script is unschedule.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, read_written, to_bytes

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def unschedule(q: QueueKey, scheduler_id: str) -> Op[bool]:
    """Remove a scheduler and the job it has planned, if that is not due yet. False: there was none of that id."""
    return Op(verb="unschedule", keys=meta(q), args=(to_bytes(scheduler_id),), read=read_written, replayable=True)
