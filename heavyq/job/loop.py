"""The event loop of a child: made when something async is to run, and kept for the child's life.

Owns the loop, its threads and its task factory. `@child_start` and all jobs run on the same one, so what the one opens
the others can use. It is never closed: the child ends without the interpreter's clean-up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from heavyq.job import scope
from heavyq.job.scope import Quit, Scope, Threads

T = TypeVar("T")


class ChildLoop:
    """The loop of this child."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        self._threads = Threads(thread_name_prefix="asyncio")

    def run(self, work: Coroutine[Any, Any, T], of: Scope | None = None) -> T:
        """Run a coroutine to its end. of: the job that it is part of."""
        try:
            return self._ready().run(_run(work, of))
        except Quit as error:
            raise error.error from None

    @property
    def threads(self) -> frozenset[int | None]:
        """The threads of the loop's own; they stay."""
        return self._threads.idents

    def _ready(self) -> asyncio.Runner:
        if self._runner is None:
            self._runner = asyncio.Runner()
            loop = self._runner.get_loop()
            loop.set_task_factory(scope.make_task)
            loop.set_default_executor(self._threads)
        return self._runner


async def _run(work: Coroutine[Any, Any, T], of: Scope | None) -> T:
    scope.watch_generators()
    if of is None:
        return await work
    task = of.start(work)
    await asyncio.wait({task})
    return task.result()
