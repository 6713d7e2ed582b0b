"""The worker of the demo: `heavyq run heavyq.demo.processors`, started as a shell would start it.

Owns that process, its log, and the finding of its children by what `ps` shows of them. Ends it whatever happens to
the demo: when the demo itself is killed, the kernel tells the worker.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

CHILDREN = 2
_TITLE = "heavyq child "
_STOP_S = 20.0
_TAIL_LINES = 40


class Worker:
    """One worker with two children, on the Redis that the environment names.

    log: the file that its output goes to. queues: the names of those that it serves.
    """

    def __init__(self, log: Path, queues: Sequence[str]) -> None:
        command = [sys.executable, "-m", "heavyq", "run", "heavyq.demo.processors", "--concurrency", str(CHILDREN)]
        for name in queues:
            command += ["--queue", name]
        command += ["--worker-type", "all", "--drain-timeout", "1s"]
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the demo, which then ends the worker
                preexec_fn=_end_with_demo,  # noqa: PLW1509 - it is one system call
            )

    @property
    def ended(self) -> int | None:
        """The exit code if the worker has ended, else None."""
        return self._process.poll()

    def children(self) -> dict[str, psutil.Process]:
        """Return what runs now: a child's process by `<queue> <job id>`, from its title."""
        return dict(self._titled())

    def stop(self) -> None:
        """End the worker: what still runs is handed back to its queue."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # when the guard is gone, the supervisor kills everything and ends
            self._process.wait()

    def tail(self) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])

    def _titled(self) -> Iterator[tuple[str, psutil.Process]]:
        try:
            below = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return
        for process in below:
            try:
                title = " ".join(process.cmdline()).strip()
            except psutil.Error:  # it has just ended
                continue
            if title.startswith(_TITLE):
                yield title.removeprefix(_TITLE), process


_libc = ctypes.CDLL(None)  # loaded before the fork
_PR_SET_PDEATHSIG = 1


def _end_with_demo() -> None:
    """Between fork and exec: let the kernel send TERM when the demo dies, be it by SIGKILL."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
