"""wait_children: the job waits for its children. Its script is wait_children.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import Settled, field_args, lease_args, meta, read_settled

if TYPE_CHECKING:
    from heavyq.bullmq.lease import Lease


def wait_children(lease: Lease, *, now_ms: int, usage: bytes | None) -> Op[Settled]:
    """Settle a lease: the job runs again, from the start, when none of its children pends; no attempt is burnt.

    With none pending now it runs next. usage: JSON text of `hq:usage`.
    Refused when a child has failed the job.
    """
    return Op(
        verb="wait_children",
        keys=meta(lease.queue),
        args=(*lease_args(lease), now_ms, *field_args(("hq:usage", usage))),
        read=read_settled,
        replayable=True,
    )
