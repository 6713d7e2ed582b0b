"""checkpoint: what the job in work needs to go on after a stop. Its script is checkpoint.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import lease_args, meta, read_written

if TYPE_CHECKING:
    from heavyq.bullmq.lease import Lease


def checkpoint(lease: Lease, value: bytes) -> Op[bool]:
    """Write a job's checkpoint, which the next run gets, until the job is completed.

    value: JSON text. Returns False if the job is not ours any more; nothing is written then.
    """
    return Op(
        verb="checkpoint",
        keys=meta(lease.queue),
        args=(*lease_args(lease), value),
        read=read_written,
        replayable=True,
    )
