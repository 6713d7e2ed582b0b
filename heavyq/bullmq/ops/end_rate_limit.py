"""end_rate_limit: the present window of the rate limit is over. Its script is end_rate_limit.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, read_nothing

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def end_rate_limit(q: QueueKey) -> Op[None]:
    """Forget what was started in this window, or that `rate_limit` stopped the start of jobs. The limit stays."""
    return Op(verb="end_rate_limit", keys=meta(q), args=(), read=read_nothing, replayable=True)
