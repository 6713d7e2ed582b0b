"""The supervisor's end of one child: its socket, its log pipe, its pidfd.

Owns these descriptors and the bytes on them. Decides nothing: frames and lines go to control as they come, the
state machine of `core.child` says what is done. A child's death is known by its pidfd, never by EOF.
"""

from __future__ import annotations

import itertools
import os
import socket
from collections import deque
from collections.abc import Callable, Hashable
from pathlib import Path

from heavyq.core.child import ChildLimits, ChildState, Starting
from heavyq.linux.clock import monotonic_s
from heavyq.linux.frames import Frame, FrameReader
from heavyq.linux.groups import Group
from heavyq.linux.process import close_quietly
from heavyq.worker.lines import LineCutter
from heavyq.worker.loop import Loop, read_ready
from heavyq.worker.meter import ChildMeter

_READ_BUDGET = 128 * 1024  # a turn's share of one child: a flood of progress must not starve the neighbours
_PIPE_BYTES = 64 * 1024  # what a pipe holds
_BODY_MAX = 1 << 30  # far above any max_result that makes sense; the child itself checks max_result
_PIECES_MAX = 64  # of one sendmsg


class ChildProcess:
    """One child as the supervisor holds it.

    number: ours, never reused. slot: 0..N-1. kind: the child options it was made with. state: `core.child`'s. seats:
    how many jobs it can have at once. culprit: the run for which we have killed it, if it was for one.
    """

    def __init__(
        self,
        number: int,
        slot: int,
        kind: Hashable,
        limits: ChildLimits,
        workdir: Path,
        now_s: float,
        *,
        seats: int = 1,
    ) -> None:
        self.number, self.slot, self.kind, self.limits, self.workdir = number, slot, kind, limits, workdir
        self.state: ChildState = Starting(now_s)
        self.pid: int | None = None
        self.pidfd: int | None = None
        self.killed_by_us: str | None = None
        self.seats = seats
        self.culprit: int | None = None
        self.zygote_pid: int | None = None  # of which it is a copy
        self.dead = False  # reaped; what is made of it may have to wait
        self.told_slow = False
        self.kill_came_first = False  # `killed_by_us` says what was decided; this, set by the sweeper, that we did it
        self.meter: ChildMeter | None = None  # once it is ready
        self.group: Group | None = None  # the kernel's, where it may have one of its own
        self.group_limit: int | None = None
        self.group_kills = 0  # the group's count of kernel kills when its job began
        self.group_hits = 0  # and how often it had hit its own limit
        self.cpu_told_s = 0.0  # up to its last report: what it used since then is its present job's
        self.start_error: str | None = None
        self.asked_s = now_s  # when the zygote was last asked for it
        self.open_channel()

    def open_channel(self) -> None:
        """Make the socketpair and the log pipe.

        A fork request that went unanswered is repeated with new ones, or two children would read one socket.
        """
        self._sock, self.theirs = socket.socketpair()
        self._sock.setblocking(False)
        self._log_read, self.their_log = os.pipe()
        os.set_blocking(self._log_read, False)
        self._reader = FrameReader(_BODY_MAX)
        self._out: deque[memoryview] = deque()
        self._lines = LineCutter(monotonic_s())
        self._watched: set[int] = set()
        self._writing = False
        self.channel_closed = False
        self.ticks_closed = 0

    def watch(
        self,
        loop: Loop,
        frame: Callable[[ChildProcess, Frame], None],
        line: Callable[[ChildProcess, str], None],
        broken: Callable[[ChildProcess, Exception], None],
    ) -> None:
        """Begin to read: `frame` and `line` are called for whatever comes, `broken` when it makes no sense."""
        self._loop, self._frame, self._line, self._broken = loop, frame, line, broken
        loop.watch(self._sock.fileno(), self._read_frames)
        loop.watch(self._log_read, self._read_lines)
        self._watched = {self._sock.fileno(), self._log_read}

    def close_their_ends(self) -> None:
        """The child has its ends now, or never will."""
        if self.their_log >= 0:
            self.theirs.close()
            close_quietly(self.their_log)
            self.their_log = -1

    def close_channel(self) -> None:
        """Stop reading and close our ends."""
        for fd in tuple(self._watched):
            self._unwatch(fd)
        self._sock.close()
        close_quietly(self._log_read)
        self._log_read = -1
        self.close_their_ends()

    def send(self, *pieces: bytes) -> None:
        """Queue a frame for the child, in pieces that follow one another; never blocks."""
        was_waiting = bool(self._out)
        self._out.extend(memoryview(piece) for piece in pieces if piece)
        if not was_waiting:
            self._write()

    def drain(self) -> None:
        """After its death: take all that it had written, frames first, then what it printed."""
        while self._read_frames():
            pass
        self.drain_lines()

    def drain_lines(self) -> None:
        """Take what it printed so far, so that a job's last lines stand in its log before it is settled.

        No more than the pipe can hold: a process that the job left behind may be writing without an end.
        """
        self._read_lines(_PIPE_BYTES)
        self._tell(self._lines.end())

    def release_lines(self) -> None:
        """Pass on what a flood of lines held back, once it is over."""
        self._tell(self._lines.release(monotonic_s()))

    def _read_frames(self) -> bool:
        data, ended = read_ready(self._sock.fileno(), _READ_BUDGET)
        if ended and not data:
            self.channel_closed = True
            self._unwatch(self._sock.fileno())  # its pidfd tells of its death; an EOF must not spin the loop
        try:
            for frame in self._reader.feed(data):
                self._frame(self, frame)
        except Exception as error:  # noqa: BLE001 - whatever a child sends costs that child, never the worker
            self._unwatch(self._sock.fileno())
            self._broken(self, error)
            return False
        return bool(data)

    def _read_lines(self, budget: int = _READ_BUDGET) -> None:
        if self._log_read < 0:
            return
        data, ended = read_ready(self._log_read, budget)
        if ended and not data:
            self._unwatch(self._log_read)
        if data:
            self._tell(self._lines.feed(data, monotonic_s()))

    def _tell(self, lines: list[str]) -> None:
        for line in lines:
            self._line(self, line)

    def _unwatch(self, fd: int) -> None:
        if fd in self._watched:
            self._watched.discard(fd)
            self._loop.unwatch(fd)

    def _write(self) -> None:
        while self._out:
            try:
                sent = self._sock.sendmsg(list(itertools.islice(self._out, _PIECES_MAX)))
            except BlockingIOError:
                break
            except OSError:  # it is dead or dying: its pidfd tells the story
                self._out.clear()
                break
            while self._out and sent >= len(self._out[0]):
                sent -= len(self._out.popleft())
            if sent:
                self._out[0] = self._out[0][sent:]
        pending = bool(self._out)
        if pending != self._writing and self._sock.fileno() in self._watched:
            self._writing = pending
            self._loop.watch_writes(self._sock.fileno(), self._read_frames, self._write if pending else None)
