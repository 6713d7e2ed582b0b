"""What the user's modules declared, in plain JSON: how the supervisor, which never imports them, knows of it.

Owns the catalogue's fields on the zygote's side (`worker.catalogue` reads them), and the refusal of what cannot be
served. Runs no user code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from heavyq.config.values import keep_on_wire
from heavyq.errors import ConfigError
from heavyq.job.around import is_async
from heavyq.queue import registry
from heavyq.queue.processing import HOOK_EVENTS

if TYPE_CHECKING:
    from heavyq.queue.queue import Queue


KEEPS = {"completed": "remove_on_complete", "failed": "remove_on_fail"}


def catalogue(prefix: str) -> dict[str, Any]:
    """Describe what the modules declared, in plain JSON: queues with a processor, their options, their connections.

    is_async: all processors of the queue are `async def`, so that its jobs may share a child. hooks: the events that it
    has functions for. strategy: whether it has a backoff strategy. keep: what the code itself says is kept of finished
    jobs, for those that carry no word of it.
    Raises ConfigError for a declaration that this worker cannot serve.
    """
    queues = []
    for queue in registry.queues():
        if not queue.processors:
            continue
        _check(queue)
        queues.append(
            {
                "name": queue.name,
                "prefix": queue.key(prefix).prefix,
                "profile": queue.profile.to_json(),
                "options": dict(queue.code_options),
                "url": queue.connection_url,
                "processors": [name for name in queue.processors if name is not None],
                "is_async": all(is_async(processor.function) for processor in queue.processors.values()),
                "hooks": [event for event in HOOK_EVENTS if queue.hooks.get(event)],
                "strategy": queue.strategy is not None,
                "keep": _keep_of(queue),
            }
        )
    for hook in (*registry.preload_hooks, *registry.canary_hooks):
        _refuse_async(hook, "a hook")
    for hook in (*registry.child_start_hooks, *registry.child_stop_hooks):
        _refuse(hook, "a hook", inspect.isasyncgenfunction, "is an async generator: nothing would run it")
    for around in registry.around_hooks:
        what = "@around_job"
        _refuse(around, what, _is_generator, "makes no context manager: put @contextmanager below it")
        _refuse(around, what, is_async, "is `async def`: write an async generator with @asynccontextmanager")
    return {"queues": queues, "declared": [q.name for q in registry.queues()]}


def runs_async() -> bool:
    """Tell whether something of the user's will run on an event loop: the loop is then imported once, before forks."""
    functions: list[Callable[..., Any]] = [
        *(processor.function for queue in registry.queues() for processor in queue.processors.values()),
        *(hook for queue in registry.queues() for hooks in queue.hooks.values() for hook in hooks),
        *registry.child_start_hooks,
        *registry.child_stop_hooks,
    ]
    return any(is_async(function) for function in functions)


def _keep_of(queue: Queue[Any, Any]) -> dict[str, list[int | None]]:
    said = queue._link.declaration.options.job  # noqa: SLF001 - our own kind
    kept = {end: said[option] for end, option in KEEPS.items() if option in said}
    return {end: [keep.count, keep.age_s, keep.limit] for end, value in kept.items() for keep in (keep_on_wire(value),)}


def _check(queue: Queue[Any, Any]) -> None:
    for processor in queue.processors.values():
        processor.payload_codec.check_type()  # made here once, so that no child has to
        processor.result_codec.check_type()
        what = f"a processor of queue {queue.name}"
        _refuse(processor.function, what, inspect.isasyncgenfunction, "is an async generator: return the result")
    for hook in (hook for hooks in queue.hooks.values() for hook in hooks):
        what = f"a hook of queue {queue.name}"
        _refuse(hook, what, inspect.isasyncgenfunction, "is an async generator: nothing would run it")
    if queue.strategy is not None:
        _refuse_async(queue.strategy, f"the backoff strategy of queue {queue.name}")


def _refuse_async(function: Callable[..., Any], what: str) -> None:
    for is_so in (is_async, inspect.isasyncgenfunction):
        _refuse(function, what, is_so, "is `async def`: not built yet; use `def`")


def _refuse(function: Callable[..., Any], what: str, is_so: Callable[[Any], bool], why: str) -> None:
    """Raise ConfigError if a function, or an object that is called like one, is what it must not be."""
    if any(is_so(called) for called in (function, type(function).__call__)):
        raise ConfigError(f"{_name_of(function)} ({what}) {why}")


def _is_generator(function: Any) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _name_of(function: Callable[..., Any]) -> str:
    name: str = getattr(function, "__qualname__", type(function).__qualname__)
    return name
