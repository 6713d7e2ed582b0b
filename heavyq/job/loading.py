"""The user's modules in this process: importing them, and running their @preload hooks.

Owns the order and the conditions of that, in the zygote (children will be forked from it) and in a spawned child
(nothing will). Decides nothing about what a failure means.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from heavyq.config import import_modules, what_was_raised
from heavyq.errors import ConfigError
from heavyq.job.catalogue import catalogue, runs_async
from heavyq.job.memory import give_back
from heavyq.queue import connection, registry


def set_defaults(config: Mapping[str, Any]) -> None:
    """Tell the queues of this process where they are."""
    connection.set_worker_default(config["redis_url"], config["prefix"])


def load_to_fork(config: Mapping[str, Any]) -> dict[str, Any]:
    """Import the modules and run the @preload hooks, for children to inherit; return the catalogue.

    Whatever user code raises comes through. The collector must be off.
    """
    import_modules(config["modules"])
    found = catalogue(config["prefix"])
    if runs_async():
        import heavyq.job.tasks  # noqa: F401 - once, so that no child has to
    _preload_aside()
    return found


def load_here(modules: Sequence[str]) -> None:
    """Import the modules and run the @preload hooks for this process alone: in its main thread, threads and all."""
    gc.disable()
    try:
        import_modules(modules)
        for hook in registry.preload_hooks:
            _preload_one(hook)
        settle()
    finally:
        gc.enable()


def settle() -> None:
    """Drop what the imports left over; what they made is not looked at by the collector any more, so not copied."""
    gc.collect()
    gc.freeze()
    give_back()


def _preload_aside() -> None:
    """Run the @preload hooks in a thread that ends, with pools of one thread.

    A pool of GNU OpenMP belongs to the thread that made it and its threads are not in a forked child: made in
    the main thread, it hangs every child.
    """
    if not registry.preload_hooks:
        return
    raised: list[BaseException] = []

    def run() -> None:
        try:
            with _one_thread_pools():
                for hook in registry.preload_hooks:
                    _preload_one(hook)
        except BaseException as error:  # noqa: BLE001 - carried to the main thread and raised there
            raised.append(error)

    thread = threading.Thread(target=run, name="preload")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def _preload_one(hook: Callable[[], Any]) -> None:
    try:
        hook()
    except BaseException as error:
        name = getattr(hook, "__qualname__", hook)
        raise ConfigError(f"@preload {name} raised {what_was_raised(error)}") from error


def _one_thread_pools() -> contextlib.AbstractContextManager[Any]:
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return contextlib.nullcontext()
    limits: contextlib.AbstractContextManager[Any] = threadpool_limits(limits=1)
    return limits
