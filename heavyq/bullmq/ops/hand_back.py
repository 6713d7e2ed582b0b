"""hand_back: the job returns to the head of those that wait. Its script is hand_back.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.job_hash import STRIKES
from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import NOTHING, Settled, field_args, lease_args, meta, read_settled

if TYPE_CHECKING:
    from heavyq.bullmq.lease import Lease


def hand_back(
    lease: Lease, *, now_ms: int, usage: bytes | None, limit_ms: int | None = None, strikes: int | None = None
) -> Op[Settled]:
    """Settle a lease: the job runs next, wherever a worker is free, and no attempt is burnt.

    usage: JSON text of `hq:usage`, None if the job did not run. limit_ms: for so long no worker that heeds a rate
    limit, its own or the queue's, takes a job; without either limit it holds nobody back. strikes: how often
    the job has died of its memory by now, None to leave that.
    """
    del now_ms  # every settle has it; this one's script needs no clock
    return Op(
        verb="hand_back",
        keys=meta(lease.queue),
        args=(
            *lease_args(lease),
            NOTHING if limit_ms is None else limit_ms,
            *field_args(("hq:usage", usage), (STRIKES, strikes)),
        ),
        read=read_settled,
        replayable=True,
    )
