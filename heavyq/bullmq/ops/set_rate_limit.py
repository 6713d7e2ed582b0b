"""set_rate_limit: how many jobs of the queue may start in a window, in all. Its script is set_rate_limit.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import NOTHING, meta, read_nothing
from heavyq.errors import BadValue

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def set_rate_limit(q: QueueKey, max_started: int | None, window_ms: int = 0) -> Op[None]:
    """Let at most `max_started` jobs start in each window, by workers of every kind together; None: any number."""
    if max_started is not None and (max_started < 1 or window_ms < 1):
        raise BadValue(f"{max_started} jobs in {window_ms} ms: both from 1 on, or None")
    return Op(
        verb="set_rate_limit",
        keys=meta(q),
        args=(NOTHING, NOTHING) if max_started is None else (max_started, window_ms),
        read=read_nothing,
        replayable=True,
    )
