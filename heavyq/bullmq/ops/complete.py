"""complete: the job ended well. Its script is complete.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import Settled, field_args, keep_args, lease_args, meta, read_settled

if TYPE_CHECKING:
    from heavyq.bullmq.lease import Lease
    from heavyq.bullmq.options import Keep


def complete(lease: Lease, *, now_ms: int, returnvalue: bytes, keep: Keep, usage: bytes) -> Op[Settled]:
    """Settle a lease: the job is completed, and stays or is deleted as `keep` says.

    returnvalue: JSON text, always valid: it stands in an event that kills BullMQ's readers if it is not.
    usage: JSON text of `hq:usage`.
    """
    return Op(
        verb="complete",
        keys=meta(lease.queue),
        args=(
            *lease_args(lease),
            now_ms,
            returnvalue,
            *keep_args(keep),
            *field_args(("hq:usage", usage)),
        ),
        read=read_settled,
        replayable=True,
    )
