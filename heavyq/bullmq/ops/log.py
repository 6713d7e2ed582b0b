"""log: rows for the log of the job in work. Its script is log.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import NOTHING, lease_args, meta, read_written

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heavyq.bullmq.lease import Lease


def log(lease: Lease, rows: Sequence[str], *, keep: int | None) -> Op[bool]:
    """Append rows to a job's log.

    keep: how many rows stay, the newest; None: all. Returns False if the job is not ours any more; nothing is
    written then. Not safe to repeat: the rows would stand there twice.
    """
    return Op(
        verb="log",
        keys=meta(lease.queue),
        args=(*lease_args(lease), NOTHING if keep is None else keep, *rows),
        read=read_written,
        replayable=False,
    )
