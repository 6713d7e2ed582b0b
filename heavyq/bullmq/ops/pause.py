"""pause: nothing is leased from the queue until it is resumed. Its script is pause.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, read_nothing

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def pause(q: QueueKey) -> Op[None]:
    """Stop the leasing of jobs, by workers of every kind. Jobs in work go on."""
    return Op(verb="pause", keys=meta(q), args=(), read=read_nothing, replayable=True)
