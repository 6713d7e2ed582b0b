"""The child as its jobs find it, and how it becomes so again: processes, files, memory, the event loop.

Owns what is looked at when nothing runs any more, and what is done about it. Knows no frame. Imports asyncio only when
something async is to run: a child whose jobs are plain functions has none.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heavyq.job import leftovers, memory
from heavyq.linux import procfs

if TYPE_CHECKING:
    from heavyq.job.loop import ChildLoop
    from heavyq.job.scope import Scope

LEAVE_S = 1.0  # for a job's tasks to end before its report, and again before the child is given up


class Home:
    """One child. To be made before its first job: what stands then is spared."""

    def __init__(self, workdir: Path, loop: Loops) -> None:
        self.workdir = workdir
        self.loop = loop
        self._standing = leftovers.standing()
        self._held = memory.Held()
        self._stuck: list[Scope] = []
        self._worn = False

    def begin(self) -> None:
        """Be told that a job begins where nothing ran."""
        procfs.reset_peak()

    def stays(self, scope: Scope) -> None:
        """Be told that tasks or threads of a job have not ended though it has."""
        self._stuck.append(scope)

    @property
    def has_stuck(self) -> bool:
        """Something of a job that is over has not ended. Known at once, also while others run."""
        return bool(self._stuck)

    def after_job(self, held_bytes: int, *, worn: bool = False) -> bool:
        """Drop garbage; tell whether nothing is left of what ran. Looks only: a result must not wait for the removal.

        held_bytes: the anonymous memory of this process. worn: the job has changed what nobody can change back. Never
        raises.
        """
        self._worn = self._worn or worn
        self._held.after_job(held_bytes)
        return leftovers.none_left(self._standing, self.workdir) and not (self._stuck or self._worn)

    def restore(self) -> bool:
        """Remove what is left; True if nothing of it is. Only what is sync: see `wait_for_tasks`."""
        spared = self._standing.threads | (self.loop.made.threads if self.loop.made else frozenset())
        processes = leftovers.remove_processes(leftovers.Standing(self._standing.pids, spared))
        return processes and leftovers.empty(self.workdir) and not (self._stuck or self._worn)

    async def wait_for_tasks(self) -> None:
        """Give the tasks and threads that did not end another moment."""
        self._stuck = [scope for scope in self._stuck if not await scope.end(LEAVE_S)]


class Loops:
    """The child's event loop, made on first use."""

    def __init__(self) -> None:
        self.made: ChildLoop | None = None

    def get(self) -> ChildLoop:
        if self.made is None:
            from heavyq.job.loop import ChildLoop

            self.made = ChildLoop()
        return self.made

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a hook; one that is `async def` is run to its end."""
        from inspect import iscoroutine

        value = function()
        return self.get().run(value) if iscoroutine(value) else value


class Runs:
    """Runs the coroutines of one job in a child of one seat, all as parts of the same scope."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._scope: Scope | None = None

    def __call__(self, work: Coroutine[Any, Any, Any]) -> Any:
        if self._scope is None:
            from heavyq.job.scope import Scope

            self._scope = Scope()
        return self._home.loop.get().run(work, self._scope)

    def end(self) -> None:
        """End the tasks that the job left. Never raises."""
        if self._scope is not None and not self._home.loop.get().run(self._scope.end(LEAVE_S)):
            self._home.stays(self._scope)


def flush() -> None:
    """Let what was printed go out before the report does."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def cpu_s() -> float:
    """CPU seconds of this process and of the subprocesses it has waited for."""
    below = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + below.ru_utime + below.ru_stime
