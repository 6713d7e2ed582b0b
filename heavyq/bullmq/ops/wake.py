"""wake: put back the markers of a queue. Its script is wake.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, read_nothing

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def wake(q: QueueKey) -> Op[None]:
    """Wake another worker: a marker was popped here and is not acted on."""
    return Op(verb="wake", keys=meta(q), args=(), read=read_nothing, replayable=True)
