"""scheduler: one job scheduler. Its script is scheduler.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey
    from heavyq.bullmq.ops.schedulers import Scheduler


def scheduler(q: QueueKey, scheduler_id: str) -> Op[Scheduler | None]:
    """Read one scheduler; None: there is none of that id."""
    raise NotImplementedError
