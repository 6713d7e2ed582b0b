"""clear_logs: rows of a job's log go. Its script is clear_logs.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, read_nothing, to_bytes

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def clear_logs(q: QueueKey, job_id: str, *, keep: int | None) -> Op[None]:
    """Drop a job's log but for the newest `keep` rows; None: all of it."""
    return Op(verb="clear_logs", keys=meta(q), args=(to_bytes(job_id), keep or 0), read=read_nothing, replayable=True)
