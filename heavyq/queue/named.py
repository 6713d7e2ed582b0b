"""`NamedQueue`: a queue seen through one job name, with types of its own; and the same for asyncio.

Owns nothing but the name: the queue does everything.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, final, overload

from typing_extensions import TypeVar, Unpack

from heavyq.config.table import JobOptions
from heavyq.queue.adding import add_many, add_one
from heavyq.queue.handle import JobHandle

if TYPE_CHECKING:
    from heavyq.job.context import Job
    from heavyq.queue.ahandle import AsyncJobHandle
    from heavyq.queue.queue import Queue

P = TypeVar("P", default=dict[str, Any])
R = TypeVar("R", default=Any)


@final
class NamedQueue(Generic[P, R]):
    """A queue seen through one job name. Made by `Queue.named`."""

    def __init__(self, queue: Queue[Any, Any], name: str) -> None:
        self._queue = queue
        self._link = queue._link  # noqa: SLF001 - one with its queue
        self.name = name

    def __repr__(self) -> str:
        return f"<NamedQueue {self.name!r} of {self._queue!r}>"

    @property
    def aio(self) -> AsyncNamedQueue[P, R]:
        """The same for asyncio: `await thumbs.aio.add(...)`."""
        return AsyncNamedQueue(self)

    def add(self, payload: P, /, **options: Unpack[JobOptions]) -> JobHandle[P, R]:
        """Add a job of this name. Raises as `Queue.add`."""
        return JobHandle.of(self._link, self._link.drive(add_one(self._link, self.name, payload, options)))

    def add_bulk(self, payloads: Iterable[P], /, **options: Unpack[JobOptions]) -> list[JobHandle[P, R]]:
        """Add many jobs of this name in one round trip. Raises as `Queue.add_bulk`."""
        jobs = [(self.name, payload) for payload in payloads]
        made = self._link.drive(add_many(self._link, jobs, options))
        return [JobHandle.of(self._link, each) for each in made]

    @overload
    def processor(self, function: Callable[[Job[P, R]], Awaitable[R]], /) -> Callable[[Job[P, R]], Awaitable[R]]: ...
    @overload
    def processor(self, function: Callable[[Job[P, R]], R], /) -> Callable[[Job[P, R]], R]: ...
    def processor(self, function: Any, /) -> Any:
        """Declare the function for jobs of this name. It stays a plain function; it may be `async def`."""
        return self._queue._process(self.name, function, view=self.name)  # noqa: SLF001 - one with its queue


@final
class AsyncNamedQueue(Generic[P, R]):
    """A queue seen through one job name, for asyncio. Made by `NamedQueue.aio`."""

    def __init__(self, view: NamedQueue[P, R]) -> None:
        self._link = view._link  # noqa: SLF001 - one with its queue
        self.name = view.name

    def __repr__(self) -> str:
        return f"<AsyncNamedQueue {self.name!r} of queue {self._link.name!r}>"

    async def add(self, payload: P, /, **options: Unpack[JobOptions]) -> AsyncJobHandle[P, R]:
        """Add a job of this name. Raises as `Queue.add`."""
        from heavyq.queue.ahandle import AsyncJobHandle

        return AsyncJobHandle.of(self._link, await self._link.adrive(add_one(self._link, self.name, payload, options)))

    async def add_bulk(self, payloads: Iterable[P], /, **options: Unpack[JobOptions]) -> list[AsyncJobHandle[P, R]]:
        """Add many jobs of this name in one round trip. Raises as `Queue.add_bulk`."""
        from heavyq.queue.ahandle import AsyncJobHandle

        jobs = [(self.name, payload) for payload in payloads]
        made = await self._link.adrive(add_many(self._link, jobs, options))
        return [AsyncJobHandle.of(self._link, each) for each in made]
