"""schedulers: some of a queue's job schedulers, in the order in which they are due. Its script is schedulers.lua."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey
    from heavyq.bullmq.options import WireOptions


@dataclass(frozen=True, slots=True)
class Scheduler:
    """One job scheduler, as last read.

    every_ms, pattern, tz, limit, start_ms, end_ms, offset_ms: as in `Repeat`. next_ms: when its next job is due.
    iteration_count: how many jobs it has planned; None: one of BullMQ 5's repeatable jobs, which do not count.
    data: JSON text of its jobs' payload, None if they have none. opts: the options of its jobs.
    job_id: its next job's.
    """

    id: str
    name: str
    every_ms: int | None
    pattern: str | None
    tz: str | None
    limit: int | None
    start_ms: int | None
    end_ms: int | None
    offset_ms: int | None
    next_ms: int
    iteration_count: int | None
    data: bytes | None
    opts: WireOptions
    job_id: str


def schedulers(q: QueueKey, *, offset: int, limit: int, newest_first: bool = False) -> Op[tuple[Scheduler, ...]]:
    """Read schedulers, `limit` of them (0..1000) from the `offset`-th on; the next due one first.

    newest_first: the one that is due last first, as BullMQ's getter does by default.
    """
    raise NotImplementedError
