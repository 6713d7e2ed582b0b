"""renew: push back the expiry of many leases. Its script is renew.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import lease_args, meta, read_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heavyq.bullmq.keys import QueueKey
    from heavyq.bullmq.lease import Lease


def renew(q: QueueKey, leases: Sequence[Lease], *, lock_ms: int) -> Op[tuple[str, ...]]:
    """Push back the expiry of each lease that is still ours; an expired lock is made anew.

    lock_ms: new time to live, counted by the server from its own clock.
    Returns the tokens of the leases that are lost; their jobs may already run elsewhere. Tokens, not ids: a worker
    may hold an old and a new lease of one job at once.
    """
    return Op(
        verb="renew",
        keys=meta(q),
        args=(lock_ms, *(arg for lease in leases for arg in lease_args(lease))),
        read=read_ids,
        replayable=True,
    )
