"""Looks after jobs whose worker is gone: the stalled sweep of each queue, at its own interval.

Owns the clock of the sweeps and a connection. Never judges a lease itself: the script does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.ops.sweep import sweep
from heavyq.errors import RedisError
from heavyq.linux.clock import epoch_ms, monotonic_s
from heavyq.store.client import Client
from heavyq.worker.part import Inbox, Part

_RETRY_S = 1.0


@dataclass(slots=True)
class Watched:
    """One queue to sweep."""

    queue: QueueKey
    interval_s: float
    max_stalled_count: int
    next_s: float = 0.0


class Janitor(Part):
    """The janitor thread."""

    def __init__(
        self,
        client: Client,
        queues: Sequence[Watched],
        swept: Callable[[QueueKey, Sequence[str]], None],
        inbox: Inbox,
        died: Callable[[Part, BaseException], None],
    ) -> None:
        super().__init__("janitor", inbox, died)
        self._client, self._queues, self._swept = client, queues, swept
        self._log = structlog.get_logger().bind(thread="janitor")

    def work(self) -> None:
        while not self.stopping.wait(self._sleep_s()):
            for watched in self._queues:
                if watched.next_s <= monotonic_s():
                    watched.next_s = monotonic_s() + self._sweep(watched)

    def _sleep_s(self) -> float:
        return max(0.0, min(w.next_s for w in self._queues) - monotonic_s())

    def _sweep(self, watched: Watched) -> float:
        """Sweep one queue; return the seconds until its next turn."""
        op = sweep(
            watched.queue,
            now_ms=epoch_ms(),
            stalled_interval_ms=int(watched.interval_s * 1000),
            max_stalled_count=watched.max_stalled_count,
        )
        try:
            recovered = self._client.run(op)
        except RedisError as error:
            self._log.warning("no stalled sweep; trying again", queue=watched.queue.name, error=str(error))
            return _RETRY_S
        if recovered:
            self._log.warning("stalled jobs went back to wait", queue=watched.queue.name, jobs=list(recovered))
            self.inbox.post(self._swept, watched.queue, recovered)
        return watched.interval_s
