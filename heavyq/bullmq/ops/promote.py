"""promote: a delayed job waits no longer for its moment. Its script is promote.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, to_bytes
from heavyq.bullmq.ops.replies import read_done

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def promote(q: QueueKey, job_id: str) -> Op[None]:
    """Let a delayed job run as soon as it may. Raises NoSuchJob, and WrongState if it is not delayed."""
    return Op(
        verb="promote", keys=meta(q), args=(to_bytes(job_id),), read=read_done(job_id, "promote"), replayable=False
    )
