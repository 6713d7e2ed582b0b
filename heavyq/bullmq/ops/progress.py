"""progress: the job in work says how far it is. Its script is progress.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import lease_args, meta, read_written

if TYPE_CHECKING:
    from heavyq.bullmq.lease import Lease


def progress(lease: Lease, value: bytes) -> Op[bool]:
    """Write a job's progress and its event.

    value: JSON text, always valid: it stands in an event that kills BullMQ's readers if it is not.
    Returns False if the job is not ours any more; nothing is written then.
    """
    return Op(
        verb="progress",
        keys=meta(lease.queue),
        args=(*lease_args(lease), value),
        read=read_written,
        replayable=True,
    )
