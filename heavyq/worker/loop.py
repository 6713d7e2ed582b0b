"""The control loop: one selector over sockets, pidfds, signals and the threads' inbox; and one clock.

Owns the waiting and the dispatch, and nothing else: what an event means stands with whoever registered it.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

from heavyq.worker.part import Inbox

TICK_S = 0.5


class Loop:
    """Waits for readiness and calls back, on the main thread."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.inbox = Inbox()
        self.watch(self.inbox.fd, self.inbox.deliver)

    def watch(self, fd: int, readable: Callable[[], object]) -> None:
        """Call `readable()` whenever the descriptor can be read."""
        self._selector.register(fd, selectors.EVENT_READ, (readable, None))

    def watch_writes(self, fd: int, readable: Callable[[], object], writable: Callable[[], object] | None) -> None:
        """Change a watched descriptor: also call `writable()` when it can be written, or no more."""
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if writable else 0)
        self._selector.modify(fd, mask, (readable, writable))

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor; it may be closed afterwards."""
        self._selector.unregister(fd)

    def turn(self) -> None:
        """Wait for at most a tick; call back for everything that is ready."""
        for key, mask in self._selector.select(TICK_S):
            readable, writable = key.data
            if mask & selectors.EVENT_READ:
                readable()
            if writable and mask & selectors.EVENT_WRITE:
                writable()


class SignalPipe:
    """Signals as events of the loop. The handlers do nothing: the number arrives through the wake-up socket."""

    def __init__(self, loop: Loop, signals: tuple[int, ...], received: Callable[[int], None]) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._received = received
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for signum in signals:
            signal.signal(signum, _nothing)
        loop.watch(self._read.fileno(), self._drain)

    def _drain(self) -> None:
        try:
            numbers = self._read.recv(4096)
        except BlockingIOError:
            return
        for signum in dict.fromkeys(numbers):  # a storm of SIGCHLD is one event; order is kept
            self._received(signum)


def _nothing(_signum: int, _frame: FrameType | None) -> None:
    return


def read_ready(fd: int, budget: int) -> tuple[bytes, bool]:
    """Read what is there now, at most `budget` bytes; return it and whether the end was seen."""
    chunks: list[bytes] = []
    while budget > 0:
        try:
            data: Any = os.read(fd, min(budget, 65536))
        except BlockingIOError:
            break
        except OSError:
            return b"".join(chunks), True
        if not data:
            return b"".join(chunks), True
        chunks.append(data)
        budget -= len(data)
    return b"".join(chunks), False
