"""fail: the job failed for good. Its script is fail.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import Settled, field_args, keep_args, lease_args, meta, read_settled

if TYPE_CHECKING:
    from heavyq.bullmq.lease import Lease
    from heavyq.bullmq.options import Keep


def fail(
    lease: Lease,
    *,
    now_ms: int,
    failed_reason: str,
    stacktrace: bytes,
    keep: Keep,
    attempts: int,
    failure: bytes,
    usage: bytes,
    metrics_points: int = 0,
) -> Op[Settled]:
    """Settle a lease: the job is failed and is not tried again; its parent is told, as the job's own rule says.

    failed_reason: text, not JSON. stacktrace: JSON array of all attempts' traces. failure, usage: JSON text of
    `hq:failure` and `hq:usage`. attempts: what the job's options say, 0 if they say nothing.
    metrics_points: minutes for which the queue's metrics are kept, 0 for none.
    """
    return Op(
        verb="fail",
        keys=meta(lease.queue),
        args=(
            *lease_args(lease),
            now_ms,
            failed_reason,
            *keep_args(keep),
            attempts,
            metrics_points,
            *field_args(("stacktrace", stacktrace), ("hq:failure", failure), ("hq:usage", usage)),
        ),
        read=read_settled,
        replayable=True,
    )
