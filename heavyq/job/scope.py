"""What one job does on an event loop: its tasks, its threads' work, its generators; and the end of all of them.

Owns who belongs to which job (by a context variable that tasks and threads inherit), the CPU that the job's steps
took, and the cancelling of what it leaves behind. Knows no frame and no outcome. Driven by `job.loop`.
"""

from __future__ import annotations

import asyncio
import sys
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

_current: Final[ContextVar[Scope | None]] = ContextVar("heavyq_scope", default=None)


class Quit(BaseException):
    """Carries a SystemExit or KeyboardInterrupt of a job's task, with which asyncio would end the whole loop."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class Scope:
    """One job on the loop. cpu_s: what its tasks and its work in threads have used."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.context: Final[Context] = copy_context()
        self.context.run(_current.set, self)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closings: set[asyncio.Task[Any]] = set()
        self._works: set[Future[Any]] = set()
        self._generators: weakref.WeakSet[AsyncGenerator[Any, Any]] = weakref.WeakSet()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin a task of this job on the running loop."""
        return asyncio.get_running_loop().create_task(work, context=self.context)

    async def end(self, limit_s: float) -> bool:
        """Cancel what runs still, and close its generators; False if something has not ended in time.

        A thread cannot be ended: what has begun there is waited for. May be called again, to wait for longer.
        """
        loop = asyncio.get_running_loop()
        until_s = loop.time() + limit_s
        asked: set[asyncio.Task[Any]] = set()
        left: set[asyncio.Future[Any]]
        while True:
            for task in self._tasks - asked:
                task.cancel()  # once: who swallows it is known by staying
            asked |= self._tasks
            if not self._tasks:
                self._close_generators()
            left = {*self._tasks, *self._closings}
            if not left:
                left = self._begun_works()
            if not left:
                self.context.run(_current.set, None)  # they hold each other, and what the job has put in its context
                return True
            # Not ended by what is raised: an error that nobody looks at is logged by asyncio itself.
            await asyncio.wait(left, timeout=max(0.0, until_s - loop.time()), return_when=asyncio.FIRST_COMPLETED)
            if loop.time() >= until_s and (self._tasks or self._closings or self._works):
                return False

    def _begun_works(self) -> set[asyncio.Future[Any]]:
        """Cancel the threads' work that has not begun, for no task waits for it; return the rest of it."""
        works = [work for work in tuple(self._works) if not work.cancel()]
        left = {asyncio.wrap_future(work) for work in works}
        for future in left:
            future.add_done_callback(_look)
        return left

    def _close_generators(self) -> None:
        for generator in tuple(self._generators):
            self._generators.discard(generator)
            if getattr(generator, "ag_frame", None) is not None and not getattr(generator, "ag_running", False):
                self.start(_close(generator))

    def add(self, task: asyncio.Task[Any], *, closes: bool) -> None:
        """Take a task for one of this job's. closes: it closes a generator, and must not be cancelled."""
        tasks = self._closings if closes else self._tasks
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def add_work(self, work: Future[Any]) -> None:
        """Take work in a thread for this job's."""
        self._works.add(work)
        work.add_done_callback(self._works.discard)

    def add_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Take an async generator that has just begun for one of this job's."""
        self._generators.add(generator)


def current() -> Scope | None:
    """Return the scope of the job whose code runs now."""
    return _current.get()


def make_task(loop: asyncio.AbstractEventLoop, work: Any, **how: Any) -> asyncio.Task[Any]:
    """Make a task: the loop's task factory. One of a job's is the job's, and is measured."""
    context: Context | None = how.get("context")
    scope = _current.get() if context is None else context.get(_current)
    if scope is None:
        return asyncio.Task(work, loop=loop, **how)
    task: asyncio.Task[Any] = asyncio.Task(_Measured(work, scope), loop=loop, **how)
    scope.add(task, closes=_closes(work))
    return task


def watch_generators() -> None:
    """Know the job of every async generator that begins on the running loop. To be called anew at each of its runs."""
    before = sys.get_asyncgen_hooks().firstiter

    def begins(generator: AsyncGenerator[Any, Any]) -> None:
        if (scope := _current.get()) is not None:
            scope.add_generator(generator)
        if before is not None:
            before(generator)

    sys.set_asyncgen_hooks(firstiter=begins)


class Threads(ThreadPoolExecutor):
    """The loop's threads. What a job has done there is measured, logs, and must end, as the job's."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a function in a thread, in the caller's context."""
        scope, context = _current.get(), copy_context()
        if scope is None:
            return super().submit(fn, *args, **kwargs)

        def measured() -> T:
            began_s = time.thread_time()
            try:
                return context.run(fn, *args, **kwargs)
            finally:
                scope.cpu_s += time.thread_time() - began_s

        work = super().submit(measured)
        scope.add_work(work)
        return work

    @property
    def idents(self) -> frozenset[int | None]:
        """The threads that were started so far."""
        return frozenset(thread.ident for thread in self._threads)


class _Measured(Coroutine[Any, Any, Any]):
    """A coroutine whose steps are measured. Everything else of it is the coroutine's own."""

    def __init__(self, work: Any, scope: Scope) -> None:
        self._work, self._scope = work, scope

    def __getattr__(self, name: str) -> Any:  # `cr_frame` and its kin, which debuggers and anyio ask for
        return getattr(self._work, name)

    def send(self, value: Any) -> Any:
        return self._step(self._work.send, value)

    def throw(self, *error: Any) -> Any:
        return self._step(self._work.throw, *error)

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._work.__await__())

    def _step(self, step: Callable[..., Any], *args: Any) -> Any:
        began_s = time.thread_time()
        try:
            return step(*args)
        except (SystemExit, KeyboardInterrupt) as error:
            raise Quit(error).with_traceback(error.__traceback__) from None
        finally:
            self._scope.cpu_s += time.thread_time() - began_s


async def _close(generator: AsyncGenerator[Any, Any]) -> None:
    await generator.aclose()


def _look(future: asyncio.Future[Any]) -> None:
    """Look at what was raised, so that asyncio does not log it: who awaits the work has its own future of it."""
    if not future.cancelled():
        future.exception()


def _closes(work: Any) -> bool:
    """Tell whether this closes a generator: ours, or asyncio's for one that nobody holds any more."""
    return type(work).__name__ == "async_generator_athrow" or getattr(work, "cr_code", None) is _close.__code__
