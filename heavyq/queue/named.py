"""`NamedQueue`: a queue seen through one job name, with types of its own.

Owns nothing but the name: the queue does everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, final

from typing_extensions import TypeVar, Unpack

from heavyq.config.table import JobOptions
from heavyq.queue.adding import add_many, add_one

if TYPE_CHECKING:
    from heavyq.job.context import Job
    from heavyq.queue.handle import JobHandle
    from heavyq.queue.queue import Queue

P = TypeVar("P", default=dict[str, Any])
R = TypeVar("R", default=Any)


@final
class NamedQueue(Generic[P, R]):
    """A queue seen through one job name. Made by `Queue.named`."""

    def __init__(self, queue: Queue[Any, Any], name: str) -> None:
        self._queue = queue
        self.name = name

    def __repr__(self) -> str:
        return f"<NamedQueue {self.name!r} of {self._queue!r}>"

    def add(self, payload: P, /, **options: Unpack[JobOptions]) -> JobHandle[P, R]:
        """Add a job of this name. Raises as `Queue.add`."""
        return add_one(self._queue._link, self.name, payload, options)  # noqa: SLF001 - one with its queue

    def add_bulk(self, payloads: Iterable[P], /, **options: Unpack[JobOptions]) -> list[JobHandle[P, R]]:
        """Add many jobs of this name in one round trip. Raises as `Queue.add_bulk`."""
        jobs = [(self.name, payload) for payload in payloads]
        return add_many(self._queue._link, jobs, options)  # noqa: SLF001 - as above

    def processor(self, function: Callable[[Job[P, R]], R], /) -> Callable[[Job[P, R]], R]:
        """Declare the function for jobs of this name. It stays a plain function."""
        return self._queue._process(self.name, function, view=self.name)  # noqa: SLF001 - as above
