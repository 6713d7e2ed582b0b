"""What a job leaves behind in its child: processes and files. Fresh child, clean child.

Owns the removal of what stands below the child and in its workdir after a job. Spares what stood there before
the job (@child_start helpers) and multiprocessing's own resource tracker, which belongs to the interpreter.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from heavyq.linux.process import children_of, kill_pid

_LIMIT_S = 2.0


@dataclass(frozen=True, slots=True)
class Standing:
    """What the child had before its first job: the pids directly below it, and its Python threads."""

    pids: frozenset[int]
    threads: frozenset[int | None]


def standing() -> Standing:
    """Return what stands now."""
    return Standing(frozenset(children_of(os.getpid())), _threads())


def left_since(before: Standing) -> list[int]:
    """Return the pids below this process that were not there before the job. 24 us."""
    tracker = _tracker_pid()
    return [pid for pid in children_of(os.getpid()) if pid not in before.pids and pid != tracker]


def none_left(before: Standing, workdir: Path) -> bool:
    """Tell whether the job left nothing: no process below us, no file in its workdir. Never raises."""
    try:
        with os.scandir(workdir) as entries:
            return not left_since(before) and not any(entries)
    except OSError:  # the job moved or removed its workdir: `empty` makes it anew
        return False


def remove_processes(before: Standing) -> bool:
    """Kill and reap what the job left running; True when nothing of it is left, and nothing will come again.

    We are a subreaper: the children of what is killed fall to us and are taken in the next round. Processes that
    were left together with a thread may have a keeper: a multiprocessing.Pool starts its workers anew, for ever.
    """
    kept_alive = bool(left_since(before)) and bool(_threads() - before.threads)
    deadline = time.monotonic() + _LIMIT_S
    while left := left_since(before):
        for pid in left:
            kill_pid(pid, signal.SIGKILL)
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.0005)
    return not kept_alive


def empty(workdir: Path) -> bool:
    """Remove what the job left in its workdir, or make it anew; True when it is there and empty."""
    try:
        workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in list(workdir.iterdir()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        return not any(workdir.iterdir())
    except OSError:
        return False


def _threads() -> frozenset[int | None]:
    return frozenset(thread.ident for thread in threading.enumerate())


def _tracker_pid() -> int | None:
    module = sys.modules.get("multiprocessing.resource_tracker")
    tracker = getattr(module, "_resource_tracker", None)
    pid = getattr(tracker, "_pid", None)
    return pid if isinstance(pid, int) else None
