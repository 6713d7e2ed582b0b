"""Run a command in bounded time, and leave nothing of it running: `contain.py SECONDS COMMAND...`.

Prints what it had to kill. Exit code: the command's; 124 when its time was over; 1 when it left processes behind.
Imports only the standard library: CI runs it before anything is installed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_GRACE_S = 10.0
_TIME_IS_OVER = 124


def main(seconds: str, *command: str) -> int:
    """Run `command`; return the exit code for our own process."""
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        sys.stderr.write("contain: cannot become a subreaper: what the command leaves behind is not seen\n")
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _interrupt)
    code = 1
    try:
        code = _run(float(seconds), command)
    except KeyboardInterrupt:
        sys.stderr.write("contain: interrupted\n")
    finally:
        left = _end_all(_GRACE_S if code == 0 else 0.0)
    if left and code == 0:
        sys.stderr.write(f"contain: left behind and killed: {'; '.join(left)}\n")
        return 1
    return code


def _run(seconds: float, command: tuple[str, ...]) -> int:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        sys.stderr.write(f"contain: not done within {seconds:g} s: {' '.join(command)}\n")
        return _TIME_IS_OVER
    return code if code >= 0 else 128 - code


def _end_all(grace_s: float) -> list[str]:
    """Give what is below us time to end (a server saves its data); kill and name the rest."""
    deadline = time.monotonic() + grace_s
    while _living_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    named = []
    while found := _living_children():
        for pid in found:  # their children fall to us and are found in the next round
            named.append(_name(pid))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return named


def _living_children() -> list[int]:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
        return f"{pid} {words.decode(errors='replace')[:120].strip()}"
    return str(pid)


def _interrupt(_signum: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
