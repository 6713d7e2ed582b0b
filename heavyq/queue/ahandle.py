"""`AsyncJobHandle`: what a producer in an event loop holds of a job.

As `JobHandle`, with methods to await. Owns no connection; `acting` knows what is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self

from typing_extensions import TypeVar

from heavyq.bullmq.ops.find import find
from heavyq.errors import JobError
from heavyq.queue import acting
from heavyq.queue.snapshot import Snapshot
from heavyq.queue.talk import adrive

if TYPE_CHECKING:
    from heavyq.bullmq.job_hash import JobRecord
    from heavyq.config.units import Duration
    from heavyq.queue.queue import Queue

P = TypeVar("P", default=dict[str, Any])
R = TypeVar("R", default=Any)
R2 = TypeVar("R2", default=Any)


class AsyncJobHandle(Snapshot[P, R], Generic[P, R]):
    """A job in a queue, seen from outside, in an event loop: `JobHandle`, with methods to await.

    Attributes are as last read, by the add itself, `refresh()` or `result()`; one of a handle that has read nothing
    yet raises JobError, for it cannot wait. Methods mean, return and raise what those of `JobHandle` do.
    """

    async def refresh(self) -> Self:
        """Read the job, as `JobHandle.refresh`."""
        self._record = await self._link.adrive(acting.find(self._queue_key, self.id))
        return self

    async def state(self) -> str:
        """Return where the job is now, as `JobHandle.state`."""
        record = await (await self._link.aclient()).run(find(self._queue_key, self.id))
        if record is None:
            return "unknown"
        self._record = record
        return record.state or "unknown"

    async def result(self, timeout: Duration | None = None) -> R:  # noqa: ASYNC109 - as in the other face
        """Wait for the job's end and return its result, as `JobHandle.result`. Any number may wait at once."""
        client = await self._link.aclient()
        return self._result_of(await adrive(client, self._end(self._link.outcomes(client), timeout)))

    async def logs(self, start: int = 0, stop: int = -1) -> list[str]:
        """Return rows of the job's log, as `JobHandle.logs`."""
        return await self._link.adrive(acting.logs(self._queue_key, self.id, start, stop))

    async def log(self, row: str, *, keep: int | None = None) -> int:
        """Append a row to the job's log, as `JobHandle.log`."""
        return await self._link.adrive(acting.log(self._queue_key, self.id, row, keep))

    async def clear_logs(self, *, keep: int | None = None) -> None:
        """Drop the job's log, as `JobHandle.clear_logs`."""
        await self._link.adrive(acting.clear_logs(self._queue_key, self.id, keep))

    # ---- changing it ----

    async def cancel(self, reason: str = "") -> bool:
        """End the job, as `JobHandle.cancel`."""
        return await self._link.adrive(acting.cancel(self._queue_key, self.id, reason))

    async def retry(self, *, reset_attempts: bool = False) -> None:
        """Let a job that has ended run again, as `JobHandle.retry`."""
        await self._link.adrive(acting.retry(self._queue_key, self.id, reset_attempts=reset_attempts))

    async def promote(self) -> None:
        """Let a delayed job run as soon as it may, as `JobHandle.promote`."""
        await self._link.adrive(acting.promote(self._queue_key, self.id))

    async def remove(self, *, children: bool = True) -> None:
        """Remove the job, as `JobHandle.remove`."""
        await self._link.adrive(acting.remove(self._queue_key, self.id, children=children))

    async def change_priority(self, priority: int, *, lifo: bool = False) -> None:
        """Give the job another priority, as `JobHandle.change_priority`."""
        await self._link.adrive(acting.change_priority(self._queue_key, self.id, priority, lifo=lifo))

    async def change_delay(self, delay: Duration) -> None:
        """Let a delayed job come due this long from now, as `JobHandle.change_delay`."""
        await self._link.adrive(acting.change_delay(self._queue_key, self.id, delay))

    async def update_data(self, payload: P) -> None:
        """Write the payload anew, as `JobHandle.update_data`."""
        name = None if self._record is None else self._record.name
        talk = acting.update_data(self._link, self._queue_key, self.id, name, payload)
        self._wrote(await self._link.adrive(talk))

    # ---- its family ----

    async def children_values(self, queue: Queue[Any, R2] | None = None) -> dict[str, R2]:
        """Return what its completed children have returned, as `JobHandle.children_values`."""
        return await self._link.adrive(acting.children_values(self._queue_key, self.id, queue))

    async def failed_children_values(self) -> dict[str, str]:
        """Return why children have failed that the job goes on without, as `JobHandle.failed_children_values`."""
        return await self._link.adrive(acting.failed_children_values(self._queue_key, self.id))

    async def pending_children(self) -> list[str]:
        """Return the full keys of the children that the job still waits for."""
        return await self._link.adrive(acting.pending_children(self._queue_key, self.id))

    async def remove_pending_children(self) -> None:
        """Remove its children that have not ended, as `JobHandle.remove_pending_children`."""
        await self._link.adrive(acting.remove_pending_children(self._queue_key, self.id))

    async def detach(self) -> bool:
        """Take the job away from its parent, as `JobHandle.detach`."""
        return await self._link.adrive(acting.detach(self._queue_key, self.id))

    def _read(self) -> JobRecord:
        if self._record is None:
            raise JobError(f"job {self.id} of queue {self._link.name!r} has not been read yet: await refresh() first")
        return self._record
