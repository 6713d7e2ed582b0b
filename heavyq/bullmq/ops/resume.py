"""resume: jobs are leased from the queue again. Its script is resume.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, read_nothing

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def resume(q: QueueKey) -> Op[None]:
    """Let jobs be leased again, in the order in which they waited."""
    return Op(verb="resume", keys=meta(q), args=(), read=read_nothing, replayable=True)
