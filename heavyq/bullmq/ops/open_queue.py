"""open_queue: what a queue needs before its first use. Its script is open_queue.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, read_nothing

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def open_queue(q: QueueKey) -> Op[None]:
    """Set the length of the event stream if nobody did."""
    return Op(verb="open_queue", keys=meta(q), args=(), read=read_nothing, replayable=True)
