"""delay: the job goes to `delayed`. Its script is delay.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.job_hash import STRIKES
from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import DUE_MS_MAX, Settled, field_args, lease_args, meta, read_settled

if TYPE_CHECKING:
    from heavyq.bullmq.lease import Lease


def delay(
    lease: Lease,
    *,
    now_ms: int,
    delay_ms: int,
    burn_attempt: bool,
    failed_reason: str | None,
    stacktrace: bytes | None,
    failure: bytes | None,
    usage: bytes | None,
    strikes: int | None = None,
) -> Op[Settled]:
    """Settle a lease: the job waits for `delay_ms`, as the backoff of a failed attempt or with none burnt.

    delay_ms: 0 or more; cut where BullMQ's scores end (2039), for a backoff may double without end.
    What is None stays as it is in the hash. failed_reason: text, not JSON. stacktrace: JSON array of all
    attempts' traces. failure, usage: JSON text of `hq:failure` and `hq:usage`. strikes: how often the
    job has died of its memory by now.
    """
    return Op(
        verb="delay",
        keys=meta(lease.queue),
        args=(
            *lease_args(lease),
            now_ms,
            min(delay_ms, DUE_MS_MAX - now_ms),
            int(burn_attempt),
            *field_args(
                ("failedReason", failed_reason),
                ("stacktrace", stacktrace),
                ("hq:failure", failure),
                ("hq:usage", usage),
                (STRIKES, strikes),
            ),
        ),
        read=read_settled,
        replayable=True,
    )
