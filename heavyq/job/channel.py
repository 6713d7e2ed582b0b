"""The child's end of its socket: the only way in which user code's process talks to the supervisor.

Owns the socket in the child. Never opens Redis. Every send is whole: a lock keeps the job's own threads apart,
and a process that the job forks finds the channel closed.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

from heavyq.errors import NotInJobProcess
from heavyq.linux.frames import Frame, FrameReader, pack
from heavyq.linux.process import signals_held


class Channel:
    """A blocking, framed connection to the supervisor."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._sock = sock
        self._reader = FrameReader()
        self._whole: deque[Frame] = deque()
        self._lock = threading.Lock()
        self._closed = False
        os.register_at_fork(after_in_child=self._forked)

    def check(self) -> None:
        """Raise NotInJobProcess in a process that the job forked."""
        if self._closed:
            raise NotInJobProcess(
                "the job's API works only in the job's own process; return the value from the forked process instead"
            )

    def send(self, kind: bytes, head: Mapping[str, Any] | None = None, body: bytes = b"") -> None:
        """Send one frame. Blocks while the supervisor does not read, which slows a job that floods it.

        Raises NotInJobProcess in a process that the job forked.
        """
        self.check()
        data = pack(kind, head, body)
        # A handler of the user's must not raise in the middle of a frame, nor send one of its own there.
        with signals_held(), self._lock:
            self._send_whole(data)

    def _send_whole(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except BaseException:  # noqa: BLE001 - the supervisor is gone; or a signal that came in before it was held
            os._exit(1)

    def receive(self) -> Frame | None:
        """Wait for the next frame; None when the supervisor is gone."""
        while not self._whole:
            data = self._sock.recv(1 << 20)
            if not data:
                return None
            self._whole.extend(self._reader.feed(data))
        return self._whole.popleft()

    def fileno(self) -> int:
        """Return the socket's descriptor, for a loop that tells when `receive_ready` has something to do."""
        return self._sock.fileno()

    def receive_ready(self) -> list[Frame] | None:
        """Return the frames that have come in, without waiting; None when the supervisor is gone."""
        try:
            data = self._sock.recv(1 << 20, socket.MSG_DONTWAIT)
        except BlockingIOError:
            data = b""
        else:
            if not data:
                return None
        self._whole.extend(self._reader.feed(data))
        frames = list(self._whole)
        self._whole.clear()
        return frames

    def _forked(self) -> None:
        self._closed = True
        self._sock.close()
        self._lock = threading.Lock()
