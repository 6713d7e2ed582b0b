"""When a job scheduler's jobs are due, and what a worker owes a scheduler whose job it has leased. Pure.

Owns the reading of a schedule and the choice of the next moment. Never talks to Redis: `duty_of` returns the
operation that does. The cron engine is imported when the first pattern is read, for most producers have none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heavyq.bullmq.keys import QueueKey
    from heavyq.bullmq.op import Op

__all__ = ["Repeat", "duty_of", "next_cron_ms"]


@dataclass(frozen=True, slots=True)
class Repeat:
    """When a scheduler makes its jobs: every so many ms, or by a cron pattern.

    every_ms: the period. pattern: cron, 5 fields or 6 (seconds first). tz: an IANA zone for the pattern.
    limit: how many jobs it makes at most. start_ms, end_ms: none before, none after (epoch ms).
    offset_ms: shifts the period's grid. immediately: the first job is due now, whatever the pattern says.
    """

    every_ms: int | None = None
    pattern: str | None = None
    tz: str | None = None
    limit: int | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    offset_ms: int | None = None
    immediately: bool = False


def next_cron_ms(pattern: str, tz: str | None, after_ms: int) -> int:
    """Return the first moment after `after_ms` that a cron pattern names. Raises BadValue."""
    raise NotImplementedError


def duty_of(fields: Mapping[bytes, bytes], job_id: str, now_ms: int, q: QueueKey) -> Op[Any] | None:
    """Return the operation that plans a scheduler's next job, to be run before the leased one is.

    fields: the leased job's hash. None: nothing to plan (no scheduler's job, or its limit or end is reached).
    Raises Unreadable, and nothing else, for a schedule that heavyq cannot follow; the job itself can be run.
    """
    raise NotImplementedError
