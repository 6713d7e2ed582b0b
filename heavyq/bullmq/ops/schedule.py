"""schedule: make or change a job scheduler and plan its next job. Its script is schedule.lua."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey
    from heavyq.bullmq.op import Op
    from heavyq.bullmq.schedule import Repeat


@dataclass(frozen=True, slots=True)
class Scheduled:
    """job_id: the scheduler's next job. delay_ms: how long until it is due."""

    job_id: str
    delay_ms: int


def schedule(
    q: QueueKey,
    *,
    scheduler_id: str,
    repeat: Repeat,
    name: str | None = None,
    data: bytes | None = None,
    opts: bytes = b"{}",
    now_ms: int,
) -> Op[Scheduled]:
    """Make a scheduler, or change the one of that id.

    name: of its jobs; None: the scheduler's id. data: JSON text; None: none. opts: JSON of the options of each
    of its jobs, as `pack_options` makes it.
    Raises BadValue for a schedule that makes no sense.
    """
    raise NotImplementedError
