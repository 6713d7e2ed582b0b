"""update_data: a job gets another payload. Its script is update_data.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, to_bytes
from heavyq.bullmq.ops.replies import read_done

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def update_data(q: QueueKey, job_id: str, data: bytes) -> Op[None]:
    """Write a job's payload anew, wherever the job is.

    data: JSON text, always valid: BullMQ's workers break on any other. Raises NoSuchJob.
    """
    return Op(
        verb="update_data",
        keys=meta(q),
        args=(to_bytes(job_id), data),
        read=read_done(job_id, "change the payload of"),
        replayable=True,
    )
