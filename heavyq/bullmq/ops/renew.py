"""renew: push back the expiry of many leases. Its script is renew.lua."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import lease_args, meta, read_ids, to_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from heavyq.bullmq.keys import QueueKey
    from heavyq.bullmq.lease import Lease


@dataclass(frozen=True, slots=True)
class Renewed:
    """What became of many leases, by token: a worker may hold an old and a new lease of one job at once.

    lost: their jobs may already run elsewhere. cancelled: still held, but somebody wants the job to stop, and why.
    """

    lost: tuple[str, ...]
    cancelled: Mapping[str, str]


def renew(q: QueueKey, leases: Sequence[Lease], *, lock_ms: int) -> Op[Renewed]:
    """Push back the expiry of each lease that is still ours; an expired lock is made anew.

    lock_ms: new time to live, counted by the server from its own clock.
    """
    return Op(
        verb="renew",
        keys=meta(q),
        args=(lock_ms, *(arg for lease in leases for arg in lease_args(lease))),
        read=_read,
        replayable=True,
    )


def _read(reply: Any) -> Renewed:
    lost, cancelled = reply
    told = zip(cancelled[::2], cancelled[1::2], strict=True)
    return Renewed(read_ids(lost), {to_text(token): reason.decode("utf-8", "replace") for token, reason in told})
