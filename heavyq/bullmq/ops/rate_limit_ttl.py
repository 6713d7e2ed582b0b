"""rate_limit_ttl: how long the rate limit lets no job start. Its script is rate_limit_ttl.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import NOTHING, meta
from heavyq.bullmq.ops.replies import read_count

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def rate_limit_ttl(q: QueueKey, max_started: int | None = None) -> Op[int]:
    """Return for how many ms no job may start; 0: now.

    max_started: the limit of the worker that asks, without it the queue's. With neither there is nothing to compare:
    what is left of the window then, -2 if there is none.
    """
    return Op(
        verb="rate_limit_ttl",
        keys=meta(q),
        args=(NOTHING if max_started is None else max_started,),
        read=read_count,
        replayable=True,
    )
