"""`AsyncQueue`: a queue for asyncio, `videos.aio`. The same names as `Queue`, to be awaited.

Owns no connection: each running event loop has its own. What is asked is written once, for both faces.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, Generic, final, overload

from typing_extensions import TypeVar, Unpack

from heavyq.config.table import JobOptions
from heavyq.queue import looking, scheduling
from heavyq.queue.acontrols import AsyncControls
from heavyq.queue.adding import add_many, add_one, name_and_payload
from heavyq.queue.ahandle import AsyncJobHandle

if TYPE_CHECKING:
    from datetime import datetime

    from heavyq.bullmq.ops.page import State
    from heavyq.config.units import Duration
    from heavyq.queue.link import QueueLink
    from heavyq.queue.stream import Event

P = TypeVar("P", default=dict[str, Any])
R = TypeVar("R", default=Any)


@final
class AsyncQueue(AsyncControls[P], Generic[P, R]):
    """A queue of jobs, for asyncio. Made by `Queue.aio`.

    Methods mean, return and raise what those of `Queue` do. Its connections are those of the running event loop, closed
    by `await heavyq.aclose()`, or when the loop is shut down. An add whose task is cancelled may have happened.
    """

    def __init__(self, link: QueueLink) -> None:
        self._link = link

    def __repr__(self) -> str:
        return f"<AsyncQueue {self._link.name!r}>"

    # ---- adding ----

    @overload
    async def add(self, payload: P, /, **options: Unpack[JobOptions]) -> AsyncJobHandle[P, R]: ...
    @overload
    async def add(self, name: str, payload: P, /, **options: Unpack[JobOptions]) -> AsyncJobHandle[P, R]: ...
    async def add(self, *what: Any, **options: Any) -> AsyncJobHandle[P, R]:
        """Add a job: `add(payload)`, named "process", or `add(name, payload)`, as `Queue.add`."""
        talk = add_one(self._link, *name_and_payload(what), options)
        return AsyncJobHandle.of(self._link, await self._link.adrive(talk))

    async def add_bulk(
        self, jobs: Iterable[P | tuple[str, P] | tuple[str, P, JobOptions]], /, **options: Unpack[JobOptions]
    ) -> list[AsyncJobHandle[P, R]]:
        """Add many jobs in one round trip, in order, as `Queue.add_bulk`."""
        made = await self._link.adrive(add_many(self._link, jobs, options))
        return [AsyncJobHandle.of(self._link, each) for each in made]

    # ---- looking ----

    def handle(self, job_id: str) -> AsyncJobHandle[P, R]:
        """Return a handle of the job with this id, without asking whether there is one. Not awaited."""
        return AsyncJobHandle(self._link, job_id)

    async def get_job(self, job_id: str) -> AsyncJobHandle[P, R] | None:
        """Read a job; None if the queue has none of that id."""
        record = await self._link.adrive(looking.get_job(self._link.key(), job_id))
        return None if record is None else AsyncJobHandle(self._link, record.id, record=record)

    async def jobs(self, *states: State, offset: int = 0, limit: int = 100) -> list[AsyncJobHandle[P, R]]:
        """Read jobs: of these states, one after the other, of all if none is named, as `Queue.jobs`."""
        records = await self._link.adrive(looking.list_jobs(self._link.key(), states, offset, limit))
        return [AsyncJobHandle(self._link, record.id, record=record) for record in records]

    def events(
        self,
        since: str | datetime | Event | None = None,
        timeout: Duration | None = None,
    ) -> AsyncIterator[Event]:
        """Read what happens in the queue: `async for event in videos.aio.events(): ...`, as `Queue.events`.

        Reading begins with the first event that is waited for.
        """
        from heavyq.queue.stream import aevents

        return aevents(self._link, since, timeout)

    # ---- by time ----

    async def upsert_scheduler(
        self,
        scheduler_id: str,
        *,
        cron: str | None = None,
        every: Duration | None = None,
        tz: str | None = None,
        limit: int | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        offset: Duration | None = None,
        immediately: bool = False,
        name: str | None = None,
        data: P | None = None,
        **options: Unpack[JobOptions],
    ) -> AsyncJobHandle[P, R]:
        """Make a job scheduler, or change the one of this id, as `Queue.upsert_scheduler`."""
        where = f"upsert_scheduler({scheduler_id!r}) of queue {self._link.name!r}"
        when = scheduling.repeat(
            cron=cron,
            every=every,
            tz=tz,
            limit=limit,
            start=start,
            end=end,
            offset=offset,
            immediately=immediately,
            where=where,
        )
        talk = scheduling.upsert(self._link, scheduler_id, when, name, data, options, where)
        return AsyncJobHandle(self._link, (await self._link.adrive(talk)).job_id)
