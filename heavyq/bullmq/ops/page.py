"""page: some of the jobs in one state, in order. Its script is page.lua."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from heavyq.bullmq.job_hash import JobRecord, fields_of
from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, to_text
from heavyq.errors import UsageError

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey

State = Literal["waiting", "active", "delayed", "prioritized", "waiting-children", "completed", "failed"]
STATES: Final[tuple[str, ...]] = get_args(State)
PAGE_MAX: Final = 1000  # jobs; the server does nothing else while it reads them


def page(q: QueueKey, state: str, *, offset: int, limit: int, newest_first: bool) -> Op[tuple[JobRecord, ...]]:
    """Read the jobs of one state, `limit` of them (0..1000) from the `offset`-th on.

    newest_first: lists (waiting, active) from where jobs enter, the others from the highest score: finished last,
    due last, lowest priority. Else: what runs next first, finished first, due first.
    Ids whose job is gone are left out, so a page may be short before the end.
    Raises UsageError for a state that is none of BullMQ's.
    """
    if state not in STATES:
        raise UsageError(f'no state is called "{state}" (the states: {", ".join(STATES)})')
    if offset < 0 or not 0 <= limit <= PAGE_MAX:
        raise UsageError(f"offset {offset}, limit {limit}: from 0 on, at most {PAGE_MAX} jobs at once")
    return Op(
        verb="page",
        keys=meta(q),
        args=(state, offset, limit, int(newest_first)),
        read=partial(_read, state),
        replayable=True,
    )


def _read(state: str, reply: Any) -> tuple[JobRecord, ...]:
    return tuple(JobRecord.read(to_text(job_id), fields_of(flat), state) for job_id, flat in reply)
