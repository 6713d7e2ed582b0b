"""retry: this attempt failed, the next one may start at once. Its script is retry.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import Settled, field_args, lease_args, meta, read_settled

if TYPE_CHECKING:
    from heavyq.bullmq.lease import Lease


def retry(
    lease: Lease,
    *,
    now_ms: int,
    failed_reason: str,
    stacktrace: bytes,
    lifo: bool,
    failure: bytes,
    usage: bytes,
) -> Op[Settled]:
    """Settle a lease: the job waits again, behind the others (before them with `lifo`), one attempt made.

    failed_reason: text, not JSON. stacktrace: JSON array of all attempts' traces. failure, usage: JSON text of
    `hq:failure` and `hq:usage`.
    """
    return Op(
        verb="retry",
        keys=meta(lease.queue),
        args=(
            *lease_args(lease),
            now_ms,
            int(lifo),
            *field_args(
                ("failedReason", failed_reason),
                ("stacktrace", stacktrace),
                ("hq:failure", failure),
                ("hq:usage", usage),
            ),
        ),
        read=read_settled,
        replayable=True,
    )
