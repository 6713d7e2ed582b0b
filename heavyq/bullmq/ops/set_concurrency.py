"""set_concurrency: how many jobs of the queue may be in work, in all. Its script is set_concurrency.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import NOTHING, meta, read_nothing
from heavyq.errors import BadValue

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def set_concurrency(q: QueueKey, limit: int | None) -> Op[None]:
    """Set how many jobs workers of every kind may run at a time, all together; None: any number."""
    if limit is not None and limit < 1:
        raise BadValue(f"a concurrency of {limit}: from 1 on, or None")
    return Op(
        verb="set_concurrency",
        keys=meta(q),
        args=(NOTHING if limit is None else limit,),
        read=read_nothing,
        replayable=True,
    )
