"""clean: jobs of one state that are old enough go. Its script is clean.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, read_ids
from heavyq.errors import UsageError

CLEANABLE: Final = ("completed", "failed", "waiting", "active", "delayed", "prioritized")
CLEAN_MAX: Final = 1000  # jobs that one call removes, as in the script

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def clean(q: QueueKey, *, state: str, grace_ms: int, limit: int, now_ms: int) -> Op[tuple[str, ...]]:
    """Remove the jobs of one state that are at least `grace_ms` old, 1,000 of them in one call; return their ids.

    Age counts from the end of a job that is over; of others from their last start, else from their adding (delayed
    and prioritized: see the script). Spared are an active job that a worker has, and a scheduler's next job.
    limit: how many may go; 0: any number. Of jobs that are not over only so many are looked at, those that run next
    (of the active: those that started first). Call again, with what is left of the limit, until fewer come back than
    could.
    Raises UsageError for a state that cannot be cleaned.
    """
    if state not in CLEANABLE:
        raise UsageError(f'jobs in state "{state}" cannot be cleaned (but: {", ".join(CLEANABLE)})')
    if grace_ms < 0 or limit < 0:
        raise UsageError(f"grace {grace_ms} ms, limit {limit}: from 0 on")
    return Op(verb="clean", keys=meta(q), args=(state, now_ms, grace_ms, limit), read=read_ids, replayable=False)
