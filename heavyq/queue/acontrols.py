"""The operator's side of a queue in an event loop: `Controls`, with methods to await. A part of `AsyncQueue`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal

from typing_extensions import TypeVar

from heavyq.bullmq import ops
from heavyq.queue import looking, operating, scheduling

if TYPE_CHECKING:
    from datetime import datetime

    from heavyq.bullmq.clients import ClientInfo
    from heavyq.config.units import Duration
    from heavyq.config.values import Rate
    from heavyq.queue.controls import Cleanable
    from heavyq.queue.link import QueueLink
    from heavyq.queue.operating import Metrics, Settings
    from heavyq.queue.scheduling import Scheduler

P = TypeVar("P", default=dict[str, Any])


class AsyncControls(Generic[P]):
    """What an operator does to a queue. Methods mean, return and raise what those of `Queue` do."""

    _link: QueueLink

    async def counts(self) -> dict[str, int]:
        """Count the jobs of each state, at one moment, as `Queue.counts`."""
        return await self._link.adrive(looking.count(self._link.key()))

    async def priority_counts(self, *priorities: int) -> dict[int, int]:
        """Count the jobs that wait with each of these priorities, as `Queue.priority_counts`."""
        return await self._link.adrive(operating.priority_counts(self._link.key(), priorities))

    async def settings(self) -> Settings:
        """Read what holds for workers of every kind, as `Queue.settings`."""
        return await self._link.adrive(operating.settings(self._link.key()))

    # ---- pausing ----

    async def pause(self) -> None:
        """Let no worker start a job of the queue until it is resumed, as `Queue.pause`."""
        await (await self._link.aclient()).run(ops.pause(self._link.key()))

    async def resume(self) -> None:
        """Undo `pause`, as `Queue.resume`."""
        await (await self._link.aclient()).run(ops.resume(self._link.key()))

    async def is_paused(self) -> bool:
        """Tell whether the queue is paused, as `Queue.is_paused`."""
        return await self._link.adrive(operating.is_paused(self._link.key()))

    # ---- many jobs ----

    async def drain(self, *, delayed: bool = False) -> int:
        """Delete every job that waits, as `Queue.drain`."""
        return await self._link.adrive(operating.drain(self._link.key(), delayed=delayed))

    async def clean(self, state: Cleanable, *, older_than: Duration = 0, limit: int | None = None) -> list[str]:
        """Delete jobs of a state, and return their ids, as `Queue.clean`."""
        return await self._link.adrive(operating.clean(self._link.key(), state, older_than, limit))

    async def obliterate(self, *, force: bool = False) -> None:
        """Delete the queue and everything in it, as `Queue.obliterate`."""
        await self._link.adrive(operating.obliterate(self._link.key(), force=force))

    async def retry_jobs(
        self,
        state: Literal["failed", "completed"] = "failed",
        *,
        limit: int | None = None,
        reason: str | None = None,
        since: Duration | datetime | None = None,
    ) -> None:
        """Put jobs that have ended back among those that wait, as `Queue.retry_jobs`."""
        await self._link.adrive(operating.retry_jobs(self._link.key(), state, limit, reason, since))

    async def promote_jobs(self, *, limit: int | None = None) -> None:
        """Let delayed jobs run as soon as they may, as `Queue.promote_jobs`."""
        await self._link.adrive(operating.promote_jobs(self._link.key(), limit))

    # ---- limits, for workers of every kind ----

    async def set_global_concurrency(self, limit: int | None) -> None:
        """Limit how many of its jobs run at once, on all workers together, as `Queue.set_global_concurrency`."""
        await self._link.adrive(operating.set_concurrency(self._link.key(), limit))

    async def set_global_rate_limit(self, rate: Rate | None) -> None:
        """Limit how many of its jobs start in a time, on all workers together, as `Queue.set_global_rate_limit`."""
        await self._link.adrive(operating.set_rate_limit(self._link.key(), rate))

    async def rate_limit(self, delay: Duration) -> None:
        """Let no job start for so long, as `Queue.rate_limit`."""
        await self._link.adrive(operating.rate_limit(self._link.key(), delay))

    async def end_rate_limit(self) -> None:
        """Undo `rate_limit`, and forget what was started in the present window, as `Queue.end_rate_limit`."""
        await (await self._link.aclient()).run(ops.end_rate_limit(self._link.key()))

    async def rate_limit_ttl(self, most: int | None = None) -> float:
        """Return for how many seconds no job may start, as `Queue.rate_limit_ttl`."""
        return await self._link.adrive(operating.rate_limit_ttl(self._link.key(), most))

    # ---- schedulers ----

    async def schedulers(self, *, offset: int = 0, limit: int = 100) -> list[Scheduler[P]]:
        """Read the queue's job schedulers, the one that is due first first, as `Queue.schedulers`."""
        return await self._link.adrive(scheduling.list_all(self._link, offset, limit))

    async def get_scheduler(self, scheduler_id: str) -> Scheduler[P] | None:
        """Read one job scheduler, as `Queue.get_scheduler`."""
        return await self._link.adrive(scheduling.find(self._link, scheduler_id))

    async def remove_scheduler(self, scheduler_id: str) -> bool:
        """Remove a job scheduler and its next job, as `Queue.remove_scheduler`."""
        return await self._link.adrive(scheduling.remove(self._link, scheduler_id))

    # ---- watching ----

    async def workers(self) -> list[ClientInfo]:
        """Return the workers that are connected for the queue, as `Queue.workers`."""
        return await self._link.adrive(operating.workers(self._link.key()))

    async def metrics(self, which: Literal["completed", "failed"], *, start: int = 0, stop: int = -1) -> Metrics:
        """Return how many jobs ended so, as `Queue.metrics`."""
        return await self._link.adrive(operating.metrics(self._link.key(), which, start, stop))

    async def emit(self, event: str, fields: Mapping[str, str]) -> str:
        """Write an event of your own into the queue's stream, as `Queue.emit`."""
        return await self._link.adrive(operating.emit(self._link.key(), event, fields))
