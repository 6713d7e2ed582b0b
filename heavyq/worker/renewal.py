"""Renews the leases: each second, one script per queue, on a connection of its own.

Owns when a lease is due. Renews only what control vouches for, and only while control's counter moves: a
wedged supervisor lets its locks go. Never touches a job's process; a lost lease is an event for control.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.lease import Lease
from heavyq.bullmq.ops.renew import renew
from heavyq.errors import RedisError
from heavyq.linux.clock import monotonic_s
from heavyq.store.client import Client
from heavyq.worker.part import Inbox, Part

TICK_S = 1.0
_RENEW_AFTER_MAX_S = 5.0
_CONTROL_STUCK_TICKS = 5


@dataclass(slots=True)
class _Held:
    lease: Lease
    lock_ms: int
    trusted_from_s: float  # the start of the last call that was answered

    @property
    def due_after_s(self) -> float:
        """A third of the lock: two calls may fail before the lock is in danger."""
        return min(self.lock_ms / 3000, _RENEW_AFTER_MAX_S) - TICK_S / 2


@dataclass
class Vouched:
    """The leases that control stands for, shared with the renewal thread. `rounds` is control's counter."""

    rounds: int = 0
    _held: dict[str, _Held] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, lease: Lease, lock_ms: int, asked_s: float) -> None:
        """Stand for a lease whose lock was set by a call that began at `asked_s` (monotonic)."""
        with self._lock:
            self._held[lease.token] = _Held(lease, lock_ms, asked_s)

    def drop(self, token: str) -> None:
        """Stop standing for a lease."""
        with self._lock:
            self._held.pop(token, None)

    def due(self, now_s: float) -> dict[tuple[QueueKey, int], list[_Held]]:
        """Return what must be renewed now, by queue and lock time."""
        by_queue: dict[tuple[QueueKey, int], list[_Held]] = defaultdict(list)
        with self._lock:
            for held in self._held.values():
                if now_s - held.trusted_from_s >= held.due_after_s:
                    by_queue[held.lease.queue, held.lock_ms].append(held)
        return by_queue


class Renewal(Part):
    """The renewal thread."""

    vital = True

    def __init__(
        self,
        client: Client,
        vouched: Vouched,
        lost: Callable[[str], None],
        cancelled: Callable[[str, str], None],
        inbox: Inbox,
        died: Callable[[Part, BaseException], None],
    ) -> None:
        super().__init__("renewal", inbox, died)
        self._client, self._vouched = client, vouched
        self._lost, self._cancelled = lost, cancelled
        self._log = structlog.get_logger().bind(thread="renewal")

    def work(self) -> None:
        next_s = monotonic_s()
        seen, stuck_ticks = -1, 0
        while not self.stopping.wait(max(0.0, next_s - monotonic_s())):
            now_s = monotonic_s()
            if now_s - next_s > TICK_S:
                self._log.warning("renewal was late: the machine slept, or is starved", late_s=round(now_s - next_s, 1))
            next_s = max(next_s + TICK_S, now_s + TICK_S / 2)
            stuck_ticks = stuck_ticks + 1 if self._vouched.rounds == seen else 0
            seen = self._vouched.rounds
            if stuck_ticks < _CONTROL_STUCK_TICKS:
                self._renew_due(now_s)

    def _renew_due(self, now_s: float) -> None:
        for (queue, lock_ms), held in self._vouched.due(now_s).items():
            try:
                renewed = self._client.run(renew(queue, [h.lease for h in held], lock_ms=lock_ms))
            except RedisError as error:
                self._log.warning("leases were not renewed; trying again", queue=queue.name, error=str(error))
                continue
            for one in held:
                if one.lease.token in renewed.lost:
                    self.inbox.post(self._lost, one.lease.token)
                    continue
                one.trusted_from_s = now_s
                if one.lease.token in renewed.cancelled:
                    self.inbox.post(self._cancelled, one.lease.token, renewed.cancelled[one.lease.token])
