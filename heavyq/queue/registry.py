"""What the user's modules declared in this process: queues and hooks.

Owns the lists that the job layer reads; runs nothing itself. Importing a module twice leaves each hook once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from heavyq.errors import BadValue, ConfigError
from heavyq.queue import connection

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from heavyq.queue.queue import Queue
    from heavyq.queue.typed import Codec, Types

H = TypeVar("H", bound=Callable[[], Any])
F = TypeVar("F", bound=Callable[..., Any])
A = TypeVar("A", bound="Callable[[Any], AbstractContextManager[Any] | AbstractAsyncContextManager[Any]]")

preload_hooks: Final[list[Callable[[], Any]]] = []
canary_hooks: Final[list[Callable[[], Any]]] = []
child_start_hooks: Final[list[Callable[[], Any]]] = []
child_stop_hooks: Final[list[Callable[[], Any]]] = []
around_hooks: Final[list[Callable[[Any], Any]]] = []

_queues: Final[dict[tuple[str | None, str], Queue[Any, Any]]] = {}
lock = threading.RLock()


@dataclass(frozen=True, slots=True)
class Processor:
    """A function for a queue's jobs. types: asked anew each time, for a later `Queue(...)` may say more."""

    function: Callable[[Any], Any]
    types: Callable[[], Types]

    @property
    def payload_codec(self) -> Codec[Any]:
        """Reads payloads; raises PayloadError."""
        return self.types().payload

    @property
    def result_codec(self) -> Codec[Any]:
        """Writes results; raises ValueError."""
        return self.types().result


def preload(function: H) -> H:
    """Run a function once in the process that children are forked from, after the imports: they share its memory."""
    return _add(preload_hooks, function, "preload")


def canary(function: H) -> H:
    """Run a function in one throw-away child after the preload, to prove that forked children can run it.

    It should do what the jobs do, in small: one forward pass of the model, say. If the child cannot do it, the worker
    does not start, and says what to do.
    """
    return _add(canary_hooks, function, "canary")


def child_start(function: H) -> H:
    """Run a function once in each child, before its first job. An `async def` runs on the loop that its jobs run on."""
    return _add(child_start_hooks, function, "child_start")


def child_stop(function: H) -> H:
    """Run a function in each child when it is retired; it may be `async def`. A child that is killed runs nothing."""
    return _add(child_stop_hooks, function, "child_stop")


def around_job(function: A) -> A:
    """Run each job inside of what a function of the job makes: a context manager, sync or async.

    Decorate a `@contextmanager` or an `@asynccontextmanager`. The first that is declared is the outermost. It sees what
    the job raises; if it swallows that, the job's result is None.
    """
    return _add(around_hooks, function, "around_job")


def queues() -> list[Queue[Any, Any]]:
    """Return every queue that was declared, in order."""
    with lock:
        return list(_queues.values())


def queue_of(prefix: str, name: str) -> Queue[Any, Any]:
    """Return a queue by its qualified name. Raises ConfigError if none of that name was declared."""
    with lock:
        found = _queues.get((prefix, name)) or _queues.get((None, name))
    if found is None:
        raise ConfigError(f"no queue {name!r} with prefix {prefix!r} is declared in this process")
    return found


def known(prefix: str | None, name: str) -> Queue[Any, Any] | None:
    """Return the queue that is already declared under this name and prefix; None is the default prefix."""
    default = connection.default_prefix()
    with lock:
        found = _queues.get((prefix, name))
        if found is None and prefix is None:
            found = _queues.get((default, name))
        if found is None and prefix == default:
            found = _queues.get((None, name))
    return found


def remember(prefix: str | None, name: str, queue: Queue[Any, Any]) -> None:
    """Add a queue. The caller holds the lock since it asked `known`."""
    _queues[prefix, name] = queue


def source_of(function: Callable[..., Any]) -> tuple[str, str, int] | None:
    """Return file, name and line of a named function; None for what may be made many times by one line."""
    while (wrapped := getattr(function, "__wrapped__", None)) is not None:  # `@contextmanager`'s own line is no place
        function = wrapped
    code = getattr(function, "__code__", None)
    name = getattr(function, "__qualname__", "<>")
    return None if code is None or "<" in name else (code.co_filename, name, code.co_firstlineno)


def _add(hooks: list[Callable[..., Any]], function: F, decorator: str) -> F:
    if not callable(function):
        raise BadValue(f"@{decorator} takes a function: write it without arguments")
    source = source_of(function)
    with lock:
        for n, other in enumerate(hooks):
            if other is function or (source is not None and source_of(other) == source):
                hooks[n] = function  # its module was run again
                return function
        hooks.append(function)
    return function


def _forked() -> None:
    global lock  # noqa: PLW0603 - a thread of the parent may have held it
    lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
