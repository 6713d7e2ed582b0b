"""The control loop: one selector over sockets, pidfds, signals and the threads' inbox; and one clock.

Owns the waiting and the dispatch, and nothing else: what an event means stands with whoever registered it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
from collections.abc import Callable
from types import FrameType

from heavyq.linux.clock import monotonic_s
from heavyq.worker.part import Inbox

TICK_S = 0.5
_READ_BYTES = 64 * 1024
_GAP_S = 3 * TICK_S  # of one turn no more than this counts: the rest is a sleep of the whole machine


class Loop:
    """Waits for readiness and calls back, on the main thread.

    now_s: the time that deadlines are counted in. It stands still while the machine sleeps or we are stopped: a
    deadline that passed in that gap kills nobody when we wake.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.inbox = Inbox()
        self._turned_s = self.now_s = monotonic_s()
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
        ready = self._selector.select(TICK_S)
        turned_s = monotonic_s()
        self.now_s += min(turned_s - self._turned_s, _GAP_S)
        self._turned_s = turned_s
        for key, mask in ready:
            if self._selector.get_map().get(key.fd) is not key:
                continue  # an earlier callback closed it, and its number may be somebody else's by now
            readable, writable = key.data
            if mask & selectors.EVENT_READ:
                readable()
            if writable and mask & selectors.EVENT_WRITE:
                writable()


class SignalPipe:
    """Signals as events of the loop.

    The handler notes the number; the wake-up socket only wakes. Its bytes do not count: a storm of SIGCHLD fills
    the socket, and a TERM after it must not be lost.
    """

    def __init__(self, loop: Loop, signals: tuple[int, ...], received: Callable[[int], None]) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._received = received
        self._pending: dict[int, None] = {}
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for signum in signals:
            signal.signal(signum, self._note)
        loop.watch(self._read.fileno(), self._drain)

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        self._pending[signum] = None

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._read.recv(4096):
                pass
        while self._pending:
            signum = next(iter(self._pending))  # in the order in which they came
            del self._pending[signum]
            self._received(signum)


def read_ready(fd: int, budget: int) -> tuple[bytes, bool]:
    """Read what is there now, at most `budget` bytes; return it and whether the end was seen.

    After a short read nothing is left for now: to ask once more would cost an exception.
    """
    chunks: list[bytes] = []
    short = False
    while budget > 0 and not short:
        wanted = min(budget, _READ_BYTES)
        try:
            data = os.read(fd, wanted)
        except BlockingIOError:
            break
        except OSError:
            return b"".join(chunks), True
        if not data:
            return b"".join(chunks), True
        chunks.append(data)
        budget -= len(data)
        short = len(data) < wanted
    return b"".join(chunks), False
