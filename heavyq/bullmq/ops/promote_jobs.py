"""promote_jobs: delayed jobs wait no longer for their moments. Its script is promote_jobs.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta
from heavyq.bullmq.ops.replies import read_more
from heavyq.errors import UsageError

PROMOTE_MAX: Final = 1000  # jobs in one call, as in the script

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def promote_jobs(q: QueueKey, *, count: int = PROMOTE_MAX) -> Op[bool]:
    """Let the first `count` (1..1000) of the delayed jobs run as soon as they may. True: there are more, call again."""
    if not 1 <= count <= PROMOTE_MAX:
        raise UsageError(f"{count} jobs at once: 1 to {PROMOTE_MAX}")
    return Op(verb="promote_jobs", keys=meta(q), args=(count,), read=read_more, replayable=False)
