"""A thread of the supervisor, and the inbox through which it talks to the control loop.

Owns how threads end and how their events reach the one loop that owns all state. A thread never touches that
state: it posts a function and its arguments, and control calls it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

Call = tuple[Callable[..., None], tuple[Any, ...]]


class Inbox:
    """Calls posted by threads, for the control loop to make. `fd` is readable while some wait."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._calls: queue.SimpleQueue[Call] = queue.SimpleQueue()

    def post(self, call: Callable[..., None], *args: Any) -> None:
        """Have control call `call(*args)` in its next round. From any thread."""
        self.post_all([(call, args)])

    def post_all(self, calls: Iterable[Call]) -> None:
        """Have control make these calls, in this order, and wake it once for all of them."""
        for call in calls:
            self._calls.put(call)
        os.eventfd_write(self.fd, 1)

    def deliver(self) -> None:
        """Make the calls that wait. From the control loop only."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        with contextlib.suppress(queue.Empty):
            while True:
                call, args = self._calls.get_nowait()
                call(*args)


class Part(threading.Thread, ABC):
    """One thread. `work` returns when it was asked to stop; if it raises, control hears of it.

    vital: its death ends the supervisor; another's only drains it.
    """

    vital = False

    def __init__(self, name: str, inbox: Inbox, died: Callable[[Part, BaseException], None]) -> None:
        super().__init__(name=name, daemon=True)
        self.inbox = inbox
        self.stopping = threading.Event()
        self._died = died

    def run(self) -> None:
        try:
            self.work()
        except BaseException as error:  # noqa: BLE001 - the top of a thread: report, control decides
            self.inbox.post(self._died, self, error)

    @abstractmethod
    def work(self) -> None:
        """Do the thread's work until `stopping` is set."""

    def stop(self) -> None:
        """Ask the thread to end; does not wait."""
        self.stopping.set()
