"""Waits for work in one queue: blocks on its marker while control has a free seat for it.

Owns the blocking connection, named as BullMQ's workers name theirs. A marker that was popped goes to control,
which leases or puts it back; the waiter itself decides nothing and leases nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from heavyq.bullmq.keys import QueueKey
from heavyq.errors import RedisError
from heavyq.store.client import Client
from heavyq.worker.part import Inbox, Part

_PAUSE_S = 0.5
_SHOW_EVERY_S = 15.0  # while nothing is waited for: after a restart of Redis nobody else would reconnect


class Waiter(Part):
    """The waiter thread of one queue. Armed once per `arm`; answers with one call of `woken`."""

    def __init__(
        self,
        queue: QueueKey,
        client: Client,
        woken: Callable[[QueueKey, bool], None],
        inbox: Inbox,
        died: Callable[[Part, BaseException], None],
    ) -> None:
        super().__init__(f"waiter-{queue.name}", inbox, died)
        self._queue, self._client, self._woken = queue, client, woken
        self._armed = threading.Event()
        self._timeout_s = 1.0
        self._log = structlog.get_logger().bind(thread=self.name)
        self.busy = False

    def arm(self, timeout_s: float) -> None:
        """Block for the queue's marker, for `timeout_s` seconds at the most; then call `woken(queue, popped)`."""
        self.busy = True
        self._timeout_s = timeout_s
        self._armed.set()

    def stop(self) -> None:
        super().stop()
        self._armed.set()

    def close(self) -> None:
        """Cut the connection, so that the server forgets a block that is under way."""
        self._client.close()

    def work(self) -> None:
        self._show()
        while True:
            if not self._armed.wait(_SHOW_EVERY_S):
                self._show()
                continue
            self._armed.clear()
            if self.stopping.is_set():
                return
            popped = False
            try:
                popped = self._client.pop_marker(self._queue, self._timeout_s) is not None
            except RedisError as error:
                self._log.debug("waiting for redis", error=str(error))
                self.stopping.wait(_PAUSE_S)
            self.inbox.post(self._woken, self._queue, popped)

    def _show(self) -> None:
        """Be seen by BullMQ as a worker of the queue: one that is busy from its start never blocks."""
        try:
            self._client.show()
        except RedisError as error:
            self._log.debug("waiting for redis", error=str(error))
