"""retry_jobs: many jobs that are over wait again. Its script is retry_jobs.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import NOTHING, meta, to_bytes
from heavyq.bullmq.ops.replies import read_more
from heavyq.errors import UsageError

RETRY_MAX: Final = 1000  # jobs in one call, as in the script

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heavyq.bullmq.keys import QueueKey


def retry_jobs(
    q: QueueKey,
    *,
    state: Literal["failed", "completed"],
    count: int = RETRY_MAX,
    until_ms: int | None = None,
    ids: Sequence[str] | None = None,
    reset_attempts: bool = False,
) -> Op[bool]:
    """Put finished jobs back among those that wait, each by its priority, those that were over first before others.

    state: where they are. count: how many (1..1000); until_ms: of those that were over by then; both, or ids: these,
    but those that are not there. reset_attempts: as in reprocess.
    Returns True if there are more of them: call again. (By ids: always False.)
    """
    if not 1 <= count <= RETRY_MAX or len(ids or ()) > RETRY_MAX:
        raise UsageError(f"{len(ids) if ids else count} jobs at once: 1 to {RETRY_MAX}")
    return Op(
        verb="retry_jobs",
        keys=meta(q),
        args=(
            state,
            int(reset_attempts),
            count,
            NOTHING if until_ms is None else until_ms,
            int(ids is not None),
            *map(to_bytes, ids or ()),
        ),
        read=read_more,
        replayable=ids is not None,
    )
