"""complete: the job ended well. Its script is complete.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import Settled, field_args, keep_args, lease_args, meta, read_settled

if TYPE_CHECKING:
    from heavyq.bullmq.lease import Lease
    from heavyq.bullmq.options import Keep


def complete(
    lease: Lease, *, now_ms: int, returnvalue: bytes, keep: Keep, usage: bytes, metrics_points: int = 0
) -> Op[Settled]:
    """Settle a lease: the job is completed, and stays or is deleted as `keep` says; its parent gets the value.

    returnvalue: JSON text, always valid: it stands in an event that kills BullMQ's readers if it is not.
    usage: JSON text of `hq:usage`. metrics_points: minutes for which the queue's metrics are kept, 0 for none.
    Refused while children of the job pend, or when one has failed it.
    """
    return Op(
        verb="complete",
        keys=meta(lease.queue),
        args=(
            *lease_args(lease),
            now_ms,
            returnvalue,
            *keep_args(keep),
            metrics_points,
            *field_args(("hq:usage", usage)),
        ),
        read=read_settled,
        replayable=True,
    )
