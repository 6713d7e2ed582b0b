"""rate_limit: workers with a limit start nothing for a while. Its script is rate_limit.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, read_nothing
from heavyq.errors import BadValue

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def rate_limit(q: QueueKey, ms: int) -> Op[None]:
    """Stop the start of jobs for `ms`. Only where a limit is set, the queue's or the worker's: others do not look."""
    if ms < 1:
        raise BadValue(f"a rate limit for {ms} ms: from 1 on")
    return Op(verb="rate_limit", keys=meta(q), args=(ms,), read=read_nothing, replayable=True)
