"""The `@around_job` managers and the function that they stand around.

Owns their order and that sync and async ones mix. Knows no outcome: what is raised comes through. Imports no asyncio: a
child whose jobs are plain functions has none.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, ExitStack
from types import TracebackType
from typing import Any

from heavyq.queue import registry

Run = Callable[[Coroutine[Any, Any, Any]], Any]


def is_async(function: Callable[..., Any]) -> bool:
    """Tell whether a function, or an object that is called like one, is `async def`."""
    return any(inspect.iscoroutinefunction(called) for called in (function, type(function).__call__))


def call(function: Callable[[Any], Any], job: Any, run: Run) -> Any:
    """Call a plain function of a job. run: runs a coroutine, should a manager be async."""
    with ExitStack() as stack:
        for around in registry.around_hooks:
            manager = around(job)
            stack.enter_context(_Run(manager, run) if _is_async_manager(manager) else manager)
        return function(job)
    return None  # a manager has swallowed what was raised


async def acall(function: Callable[[Any], Coroutine[Any, Any, Any]], job: Any) -> Any:
    """Call an async function of a job."""
    async with AsyncExitStack() as stack:
        for around in registry.around_hooks:
            manager = around(job)
            if _is_async_manager(manager):
                await stack.enter_async_context(manager)
            else:
                stack.enter_context(manager)
        return await function(job)
    return None


def _is_async_manager(manager: Any) -> bool:
    kind = type(manager)
    return hasattr(kind, "__aenter__") and not hasattr(kind, "__enter__")


class _Run(AbstractContextManager[Any]):
    """An async manager around a plain function: each half of it is a run of the loop."""

    def __init__(self, manager: AbstractAsyncContextManager[Any], run: Run) -> None:
        self._manager, self._run = manager, run

    def __enter__(self) -> Any:
        return self._run(_enter(self._manager))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        swallowed: bool | None = self._run(_exit(self._manager, kind, error, trace))
        return swallowed


async def _enter(manager: AbstractAsyncContextManager[Any]) -> Any:
    return await manager.__aenter__()


async def _exit(
    manager: AbstractAsyncContextManager[Any],
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> bool | None:
    return await manager.__aexit__(kind, error, trace)
