"""counts: how many jobs are in each state. Its script is counts.lua."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


@dataclass(frozen=True, slots=True)
class Counts:
    """Jobs in each of BullMQ's states, at one moment. paused: nothing is leased until the queue is resumed."""

    paused: bool
    waiting: int
    active: int
    delayed: int
    prioritized: int
    waiting_children: int
    completed: int
    failed: int

    def by_state(self) -> dict[str, int]:
        """Return the numbers under BullMQ's names for the states."""
        return {
            "waiting": self.waiting,
            "active": self.active,
            "delayed": self.delayed,
            "prioritized": self.prioritized,
            "waiting-children": self.waiting_children,
            "completed": self.completed,
            "failed": self.failed,
        }


def counts(q: QueueKey) -> Op[Counts]:
    """Count a queue's jobs. A queue that does not exist has none."""
    return Op(verb="counts", keys=meta(q), args=(), read=_read, replayable=True)


def _read(reply: Any) -> Counts:
    paused, *numbers = reply
    return Counts(paused == 1, *numbers)
