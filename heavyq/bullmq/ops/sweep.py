"""sweep: give back the jobs whose holder let their lock expire. Its script is sweep.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, read_ids

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def sweep(q: QueueKey, *, now_ms: int, stalled_interval_ms: int, max_stalled_count: int) -> Op[tuple[str, ...]]:
    """Look for stalled jobs, unless somebody did within the interval.

    max_stalled_count: a job that stalls more often is failed by the worker that leases it next (`defa`).
    Returns the ids of the jobs that wait again.
    """
    return Op(
        verb="sweep",
        keys=meta(q),
        args=(now_ms, stalled_interval_ms, max_stalled_count),
        read=read_ids,
        replayable=True,
    )
