"""Cleans up off the loop: one thread kills process trees and strays, another removes workdirs.

Owns what is slow about cleaning: walks over /proc, `cmdline` (which can wait for the target's memory lock), removal
of large files; two threads, for a kill must not wait behind a removal. Never reaps: the control loop, the one
reaper, does. Everything is keyed by pidfd.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from heavyq.linux.process import descendants_of, is_resource_tracker, parent_of
from heavyq.worker.part import Inbox, Part

_TRACKER_GRACE_S = 1.0


class Sweeper(Part):
    """The sweeper thread. Vital: without it nothing can be stopped, and so nothing handed back."""

    vital = True

    def __init__(self, inbox: Inbox, died: Callable[[Part, BaseException], None]) -> None:
        super().__init__("sweeper", inbox, died)
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def kill_tree(self, pid: int, pidfd: int, before: Callable[[], None]) -> None:
        """Kill a child of ours and all below it. Takes over a duplicate of the pidfd.

        before: called on the sweeper's thread, just before the child itself is killed.

        Frozen first, so that nothing below it is started or reaped meanwhile. multiprocessing's trackers are
        spared here: they fall to us as strays, and have a second to empty /dev/shm.
        """
        try:
            own = os.dup(pidfd)
        except OSError:  # no descriptor is left: at least the child itself
            before()
            _signal(pidfd, signal.SIGKILL)
            return
        self._jobs.put(lambda: _kill_tree(pid, own, before))

    def kill_stray(self, pid: int) -> bool:
        """Kill a process that fell to us; False if it must be tried again.

        It is our unreaped child, so its pid stands until control reaps it.
        """
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return False
        self._jobs.put(lambda: self._kill_stray(pid, pidfd))
        return True

    def stop(self) -> None:
        super().stop()
        self._jobs.put(None)

    def work(self) -> None:
        trackers: list[tuple[float, int]] = []
        self._trackers = trackers
        while True:
            wait_s = max(0.0, trackers[0][0] - time.monotonic()) if trackers else None
            try:
                job = self._jobs.get(timeout=wait_s)
            except queue.Empty:
                _send(trackers.pop(0)[1], signal.SIGKILL)
                continue
            if job is None:
                return
            with contextlib.suppress(OSError):  # one process that we may not touch is no reason to stop
                job()

    def _kill_stray(self, pid: int, pidfd: int) -> None:
        if is_resource_tracker(pid):
            self._trackers.append((time.monotonic() + _TRACKER_GRACE_S, pidfd))
        else:
            _send(pidfd, signal.SIGKILL)


def _kill_tree(pid: int, pidfd: int, before: Callable[[], None]) -> None:
    _signal(pidfd, signal.SIGSTOP)
    try:
        below = descendants_of(pid)
        if not _signal(pidfd, 0):  # reaped before we looked: the pid may be a stranger's, what it left falls to us
            return
        tree = {pid, *below}
        for one in below:
            with contextlib.suppress(OSError):
                _kill_if_below(one, tree)
    finally:
        before()
        _send(pidfd, signal.SIGKILL)  # whatever happened above: never leave it frozen


def _kill_if_below(pid: int, tree: set[int]) -> None:
    """Kill a descendant. Its pid may have been reused between the walk and now: it counts only if it stands below."""
    fd = os.pidfd_open(pid)
    if parent_of(pid) in tree and not is_resource_tracker(pid):
        _signal(fd, signal.SIGKILL)
    os.close(fd)


def _signal(pidfd: int, signum: int) -> bool:
    """Signal a process if we may; False when it is gone."""
    try:
        signal.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        return False
    except PermissionError:  # it has become another user's: sudo
        return True
    return True


def _send(pidfd: int, signum: int) -> None:
    """Signal and close."""
    _signal(pidfd, signum)
    os.close(pidfd)


class Remover(Part):
    """The thread that removes workdirs."""

    def __init__(self, inbox: Inbox, died: Callable[[Part, BaseException], None]) -> None:
        super().__init__("remover", inbox, died)
        self._folders: queue.SimpleQueue[Path | None] = queue.SimpleQueue()

    def remove(self, folder: Path) -> None:
        """Remove a folder and all in it, in its turn."""
        self._folders.put(folder)

    def stop(self) -> None:
        super().stop()
        self._folders.put(None)

    def work(self) -> None:
        while (folder := self._folders.get()) is not None:
            shutil.rmtree(folder, ignore_errors=True)
