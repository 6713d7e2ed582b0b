"""The worker's log: structured lines on stdout, written by a thread of their own.

Owns the format and the bounded queue between the supervisor and stdout. A terminal that is stopped, or a pipe
that nobody reads, must not stop jobs: lines are dropped and counted instead.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sys
import threading
from typing import Any

import structlog

_LINES_MAX = 10_000
_LINES_A_WRITE = 256
_CLOSE_LIMIT_S = 2.0


class LogThread(threading.Thread):
    """Writes rendered lines to a descriptor; never blocks whoever logs."""

    def __init__(self, fd: int = 1) -> None:
        super().__init__(name="log", daemon=True)
        self._fd = fd
        self._lines: queue.Queue[str | None] = queue.Queue(_LINES_MAX)
        self._dropped = 0

    def msg(self, line: str) -> None:
        """Take one line; structlog calls this."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    debug = info = warning = error = critical = msg

    def run(self) -> None:
        while (line := self._lines.get()) is not None:
            lines = [line]
            with contextlib.suppress(queue.Empty):
                while len(lines) < _LINES_A_WRITE and (more := self._lines.get_nowait()) is not None:
                    lines.append(more)
            if self._dropped:
                lines.append(f"heavyq: {self._dropped} log lines were dropped: stdout did not take them in time")
                self._dropped = 0
            self._write("".join(text + "\n" for text in lines).encode("utf-8", "replace"))

    def close(self) -> None:
        """Write what waits, for two seconds at the most."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        self.join(_CLOSE_LIMIT_S)

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # stdout is gone: jobs go on without a log
            while data:
                data = data[os.write(self._fd, data) :]


def open_log(log_format: str, level: str) -> LogThread:
    """Start the log thread and point structlog at it. log_format: "text" or "json"."""
    thread = LogThread()
    thread.start()
    render: Any = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), pad_event_to=0, sort_keys=False)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=lambda *_: thread,
        cache_logger_on_first_use=False,
    )
    return thread
