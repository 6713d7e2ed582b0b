"""The worker's side of a queue: its processors, what is told when a job has ended, its own backoff.

Owns what was declared, and the refusal of two functions for one thing; a module that is run again replaces what it
declared before. A part of `Queue`. Runs nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, overload

from typing_extensions import TypeVar

from heavyq.errors import BadValue
from heavyq.queue import registry

if TYPE_CHECKING:
    from heavyq.job.context import Job
    from heavyq.job.event import JobEvent
    from heavyq.queue.link import QueueLink
    from heavyq.queue.registry import Processor

P = TypeVar("P", default=dict[str, Any])
R = TypeVar("R", default=Any)
_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])
_Hook = TypeVar("_Hook", bound="Callable[[JobEvent], Any]")

HookEvent = Literal["completed", "failed", "retrying", "stalled"]
HOOK_EVENTS: Final = ("completed", "failed", "retrying", "stalled")


class Processing(Generic[P, R]):
    """What a module of the worker declares for a queue."""

    _link: QueueLink
    _processors: dict[str | None, Processor]
    _hooks: dict[str, list[Callable[..., Any]]]
    _strategies: list[Callable[..., Any]]

    # The async forms stand first: to a type checker a coroutine is a result too.
    @overload
    def processor(self, function: Callable[[Job[P, R]], Awaitable[R]], /) -> Callable[[Job[P, R]], Awaitable[R]]: ...
    @overload
    def processor(self, function: Callable[[Job[P, R]], R], /) -> Callable[[Job[P, R]], R]: ...
    @overload
    def processor(self, *names: str) -> ByName[P, R]: ...
    def processor(self, *names: Any) -> Any:
        """Declare a function for the queue's jobs: `@videos.processor` for all, `@videos.processor("a", "b")` by name.

        The function stays a plain function; an `async def` runs on an event loop in the child, several at once. A job
        whose name has none fails as `no_processor`.
        """
        if len(names) == 1 and callable(names[0]):
            return self._process(None, names[0])
        for name in names:
            if not isinstance(name, str) or not name:
                raise BadValue(f"{self!r}.processor takes a function, or names of jobs, and not {name!r}")
        return ByName(self, names)

    def on(self, *events: HookEvent) -> Callable[[_Hook], _Hook]:
        """Have a function called with a `JobEvent` when something has happened to a job of this worker's.

        events: `completed`; `failed`, for good; `retrying`, a run has failed and another will follow; `stalled`, its
        worker was lost. It runs in a child, after the outcome was written, for jobs that were killed too; at most
        once, and for 30 s at most. It may be `async def`. What it raises is logged.
        """
        if not events or callable(events[0]):
            raise BadValue(f"{self!r}.on names events: {', '.join(HOOK_EVENTS)}")
        for event in events:
            if event not in HOOK_EVENTS:
                raise BadValue(f"{self!r}.on: no event is called {event!r}; there are: {', '.join(HOOK_EVENTS)}")

        def decorate(function: _Hook) -> _Hook:
            if not callable(function):
                raise BadValue(f"{self!r}.on(...) decorates a function")
            with registry.lock:
                for event in dict.fromkeys(events):
                    _put(self._hooks.setdefault(event, []), function)
            return function

        return decorate

    def backoff_strategy(self, function: _Decorated) -> _Decorated:
        """Declare the function that answers BullMQ's custom backoff types, for jobs that carry one.

        It is called with the number of attempts made, the backoff's type, the exception and the job, and returns how
        long to wait before the next run: a duration, or -1 for no further one.
        """
        if not callable(function):
            raise BadValue(f"{self!r}.backoff_strategy takes a function: write it without arguments")
        with registry.lock:
            before = self.strategy
            if before is not None and not same_source(before, function):
                raise BadValue(f"{self!r} has two backoff strategies: {_shown(before)} and {_shown(function)}")
            self._strategies[:] = [function]
        return function

    def _process(self, name: str | None, function: _Decorated, view: str | None = None) -> _Decorated:
        """Take a function for a name, None for all. view: whose types it works with, None for the queue's."""
        if not callable(function):
            raise BadValue(f"{self!r}.processor takes a function, or names of jobs")
        with registry.lock:
            before = self._processors.get(name)
            if before is not None and not same_source(before.function, function):
                raise BadValue(
                    f"{self!r} has two processors for {'every job' if name is None else f'jobs named {name!r}'}: "
                    f"{_shown(before.function)} and {_shown(function)}"
                )
            link = self._link
            self._processors[name] = registry.Processor(function, lambda: link.types(view))
        return function

    # ---- what the job's side reads ----

    @property
    def processors(self) -> Mapping[str | None, Processor]:
        """The functions by job name; None is for every name that has none of its own."""
        return MappingProxyType(self._processors)

    def processor_of(self, name: str) -> Processor | None:
        """Return the function for a job of this name, None if there is none."""
        return self._processors.get(name) or self._processors.get(None)

    @property
    def hooks(self) -> Mapping[str, list[Callable[..., Any]]]:
        """The functions of `on` by event, in the order in which they were declared."""
        return MappingProxyType(self._hooks)

    @property
    def strategy(self) -> Callable[..., Any] | None:
        """The function of `backoff_strategy`; None if there is none."""
        return self._strategies[0] if self._strategies else None


class ByName(Generic[P, R]):
    """The decorator that `processor("a", "b")` is: it declares a function for jobs of these names."""

    def __init__(self, queue: Processing[P, R], names: tuple[str, ...]) -> None:
        self._queue = queue
        self._names = names

    @overload
    def __call__(self, function: Callable[[Job[P, R]], Awaitable[R]], /) -> Callable[[Job[P, R]], Awaitable[R]]: ...
    @overload
    def __call__(self, function: Callable[[Job[P, R]], R], /) -> Callable[[Job[P, R]], R]: ...
    def __call__(self, function: Any, /) -> Any:
        """Declare a function, and return it."""
        for name in dict.fromkeys(self._names) or (None,):
            self._queue._process(name, function)  # noqa: SLF001 - its own decorator
        return function


def same_source(a: Callable[..., Any], b: Callable[..., Any]) -> bool:
    """Tell whether a function is another, defined anew: its module was run again, perhaps edited."""
    here, there = registry.source_of(a), registry.source_of(b)
    return a is b or (here is not None and there is not None and here[:2] == there[:2])


def _put(hooks: list[Callable[..., Any]], function: Callable[..., Any]) -> None:
    for n, other in enumerate(hooks):
        if same_source(other, function):
            hooks[n] = function
            return
    hooks.append(function)


def _shown(function: Callable[..., Any]) -> str:
    source = registry.source_of(function)
    return repr(function) if source is None else f"{source[1]} at {source[0]}:{source[2]}"
