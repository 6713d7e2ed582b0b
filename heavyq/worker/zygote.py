"""The supervisor's end of the zygote: starting it, asking it for children, hearing their names.

Owns the zygote's process, its socket, its log pipe and the requests that it has not answered. Never imports
user code: what the modules declare comes as the catalogue, one JSON frame.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from heavyq.job import wire
from heavyq.linux.clock import monotonic_s
from heavyq.linux.frames import Frame, FrameReader, pack
from heavyq.linux.process import close_quietly, kill_pid
from heavyq.worker.lines import LineCutter
from heavyq.worker.loop import Loop, read_ready
from heavyq.worker.process import ChildProcess

_READ_BUDGET = 1 << 20
_START = "from heavyq.job.zygote import start; start()"
_THREAD_CAPS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


@dataclass(frozen=True, slots=True)
class ZygoteEvents:
    """What control is told. Each is called on the control loop.

    checked: what is wrong with forking from this zygote, None if nothing is; a stack that shows it; and what may go
    wrong, None if nothing is known.
    """

    catalogue: Callable[[Mapping[str, Any]], None]
    broken: Callable[[str, str], None]
    forked: Callable[[int, int], None]
    not_forked: Callable[[int, str], None]
    checked: Callable[[str | None, str, str | None], None]
    line: Callable[[str], None]


class Zygote:
    """One zygote process. It may be replaced; `closed` tells when nothing more can come from it.

    config: the head of CONFIGURE; a zygote that is bare there never tells a catalogue, nor that it is broken.
    """

    def __init__(self, loop: Loop, config: Mapping[str, Any], events: ZygoteEvents, *, threads: int) -> None:
        self._loop, self._events = loop, events
        self._bare = bool(config.get("bare"))
        self._reader = FrameReader()
        self._lines = LineCutter(monotonic_s())
        self.unanswered: dict[int, ChildProcess] = {}
        self.closed = False
        self.born_s = monotonic_s()
        self.imported_s: float | None = None
        self._sock, theirs = socket.socketpair()
        self._sock.setblocking(False)
        self._log_read, log_write = os.pipe()
        os.set_blocking(self._log_read, False)
        caps = {name: str(threads) for name in _THREAD_CAPS if name not in os.environ}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log_write,
                stderr=log_write,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **caps},
                process_group=0,
            )
        except OSError:
            self._sock.close()
            os.close(self._log_read)
            raise
        finally:
            theirs.close()
            os.close(log_write)
        self.pid = self._process.pid
        loop.watch(self._sock.fileno(), self.drain)
        loop.watch(self._log_read, self._read_lines)
        with contextlib.suppress(OSError):  # dead already: `reap` will tell
            self._sock.sendall(pack(wire.CONFIGURE, config))

    def fork(self, child: ChildProcess, options: Mapping[str, Any]) -> bool:
        """Ask for a child; `forked` or `not_forked` answers. False if it did not take the request."""
        head = {"child": child.number, "slot": child.slot, "workdir": str(child.workdir), **options}
        try:
            socket.send_fds(self._sock, [pack(wire.FORK, head)], [child.theirs.fileno(), child.their_log])
        except OSError:  # it is dead, or its socket is full
            return False
        self.unanswered[child.number] = child
        return True

    def check(self) -> None:
        """Ask whether its forks can work; `checked` answers, after a limit of its own at the latest."""
        with contextlib.suppress(OSError):  # dead already: `reap` will tell
            self._sock.sendall(pack(wire.CHECK))

    def reap(self) -> int | None:
        """Return its exit code once it is dead (negative: a signal), else None."""
        return self._process.poll()

    def drain(self) -> None:
        """Hear every answer that is there. EOF means that no middle process is left to answer either."""
        while not self.closed:
            data, ended = read_ready(self._sock.fileno(), _READ_BUDGET)
            try:
                for frame in self._reader.feed(data):
                    self._hear(frame)
            except Exception as error:  # noqa: BLE001 - a module's code can write to the socket: the next zygote, then
                self._events.line(f"heavyq: the zygote sent what makes no sense, it is killed: {error!r}"[:500])
                kill_pid(self.pid)
                ended = True
            if ended:
                self._close()
            if not data:
                return

    def _close(self) -> None:
        self._read_lines()
        self.closed = True
        self._loop.unwatch(self._sock.fileno())
        self._sock.close()
        if self._log_read >= 0:
            self._loop.unwatch(self._log_read)
            close_quietly(self._log_read)
            self._log_read = -1

    def _hear(self, frame: Frame) -> None:
        match frame.kind:
            case wire.FORKED:
                if self.unanswered.pop(frame.head["child"], None):
                    self._events.forked(frame.head["child"], frame.head["pid"])
            case wire.NOT_FORKED:
                if self.unanswered.pop(frame.head["child"], None):
                    self._events.not_forked(frame.head["child"], frame.head["error"])
            case wire.CATALOGUE:
                self.imported_s = self._loop.now_s
                if not self._bare:  # it has none: nothing was imported
                    self._events.catalogue(json.loads(frame.body))
            case wire.CHECKED:
                head = frame.head
                self._events.checked(head["problem"], frame.body.decode("utf-8", "replace"), head["warning"])
            case wire.BROKEN:
                self._events.broken(frame.head["error"], frame.body.decode("utf-8", "replace"))

    def _read_lines(self) -> None:
        if self._log_read < 0:
            return
        data, ended = read_ready(self._log_read, _READ_BUDGET)
        for line in self._lines.feed(data, monotonic_s()) + (self._lines.end() if ended else []):
            self._events.line(line)
        if ended:
            self._loop.unwatch(self._log_read)
            close_quietly(self._log_read)
            self._log_read = -1
