"""Finding and listing a queue's jobs, as talks."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from heavyq.bullmq.ops.counts import counts
from heavyq.bullmq.ops.find import find
from heavyq.bullmq.ops.page import PAGE_MAX, STATES, page
from heavyq.config.arguments import text, whole
from heavyq.errors import BadValue
from heavyq.queue.talk import run, run_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heavyq.bullmq.job_hash import JobRecord
    from heavyq.bullmq.keys import QueueKey
    from heavyq.queue.talk import Talk


def get_job(q: QueueKey, job_id: str) -> Talk[JobRecord | None]:
    """Read a job; None if there is none."""
    text(job_id, "get_job(): the job's id")
    return run(find(q, job_id))


def count(q: QueueKey) -> Talk[dict[str, int]]:
    """Count the jobs of each state, at one moment."""
    return (yield from run(counts(q))).by_state()


def list_jobs(q: QueueKey, states: Sequence[str], offset: int, limit: int) -> Talk[list[JobRecord]]:
    """Read jobs of these states, one after the other; of all if none is named. offset, limit: through them all."""
    whole(offset, "jobs(): offset")
    whole(limit, "jobs(): limit")
    wanted = [check_state(state, "jobs()") for state in states] or STATES
    return _pages(q, wanted, offset, limit)


def _pages(q: QueueKey, wanted: Sequence[str], offset: int, limit: int) -> Talk[list[JobRecord]]:
    size = yield from count(q)
    pages = []
    for state in dict.fromkeys(wanted):
        here = max(0, min(limit, size[state] - offset))
        for start in range(offset, offset + here, PAGE_MAX):
            most = min(PAGE_MAX, offset + here - start)
            newest_first = state in ("completed", "failed")
            pages.append(page(q, state, offset=start, limit=most, newest_first=newest_first))
        offset, limit = max(0, offset - size[state]), limit - here
    found = yield from run_all(pages)
    return [record for records in found for record in records]


def check_state(state: object, where: str, states: Sequence[str] = STATES) -> str:
    """Return a state's name. where: for messages. Raises BadValue for what is none of `states`."""
    if state not in states:
        close = difflib.get_close_matches(str(state), states, n=1)
        hint = f' (did you mean "{close[0]}"?)' if close else ""
        raise BadValue(f"{where}: no state is called {state!r}{hint}; the states are: {', '.join(states)}")
    return str(state)
