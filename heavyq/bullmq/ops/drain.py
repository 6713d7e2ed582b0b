"""drain: all that waits goes. Its script is drain.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta
from heavyq.bullmq.ops.replies import read_count

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def drain(q: QueueKey, *, delayed: bool = False, now_ms: int) -> Op[int]:
    """Remove up to 1,000 of the jobs that wait, with `delayed` of the delayed ones too; return how many.

    Call again until it is 0. A scheduler's next job stays, and no event tells of it. What waited for a removed child,
    and for nothing else, goes with it in the same queue, and is released in another.
    """
    return Op(verb="drain", keys=meta(q), args=(now_ms, int(delayed)), read=read_count, replayable=True)
