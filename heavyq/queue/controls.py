"""The operator's side of a queue: counting, pausing, cleaning, limits, schedulers, workers, metrics.

Owns the names and what they promise; `operating` and `scheduling` know what is asked. A part of `Queue`.
"""

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
    from heavyq.queue.link import QueueLink
    from heavyq.queue.operating import Metrics, Settings
    from heavyq.queue.scheduling import Scheduler

P = TypeVar("P", default=dict[str, Any])

Cleanable = Literal["completed", "failed", "waiting", "active", "delayed", "prioritized"]


class Controls(Generic[P]):
    """What an operator does to a queue. Every method raises RedisUnavailable, RedisRefused or RedisReplyError."""

    _link: QueueLink

    def counts(self) -> dict[str, int]:
        """Count the jobs of each state, at one moment: waiting, active, delayed, prioritized, ..."""
        return self._link.drive(looking.count(self._link.key()))

    def priority_counts(self, *priorities: int) -> dict[int, int]:
        """Count the jobs that wait with each of these priorities; 0: without one."""
        return self._link.drive(operating.priority_counts(self._link.key(), priorities))

    def settings(self) -> Settings:
        """Read what holds for workers of every kind: `paused`, `concurrency`, `rate`, `events_kept`, `version`."""
        return self._link.drive(operating.settings(self._link.key()))

    # ---- pausing ----

    def pause(self) -> None:
        """Let no worker start a job of the queue until it is resumed. Jobs that run go on."""
        self._link.client().run(ops.pause(self._link.key()))

    def resume(self) -> None:
        """Undo `pause`."""
        self._link.client().run(ops.resume(self._link.key()))

    def is_paused(self) -> bool:
        """Tell whether the queue is paused."""
        return self._link.drive(operating.is_paused(self._link.key()))

    # ---- many jobs ----

    def drain(self, *, delayed: bool = False) -> int:
        """Delete every job that waits, as BullMQ's drain does; return how many those were. delayed: these too.

        Jobs that run go on; a scheduler's next job stays.
        """
        return self._link.drive(operating.drain(self._link.key(), delayed=delayed))

    def clean(self, state: Cleanable, *, older_than: Duration = 0, limit: int | None = None) -> list[str]:
        """Delete jobs of a state, and return their ids.

        older_than: since their end; of those that have not ended, since they last ran or were added. limit: at most
        so many; of waiting and active ones only so many are looked at, the next to run first. Jobs that a worker has
        stay, and so does a scheduler's next job.
        Raises BadValue.
        """
        return self._link.drive(operating.clean(self._link.key(), state, older_than, limit))

    def obliterate(self, *, force: bool = False) -> None:
        """Delete the queue and everything in it. It is paused first. force: also while jobs run.

        Raises WrongState while jobs run, without `force`: nothing was deleted, and it is paused only if it was before.
        """
        self._link.drive(operating.obliterate(self._link.key(), force=force))

    def retry_jobs(
        self,
        state: Literal["failed", "completed"] = "failed",
        *,
        limit: int | None = None,
        reason: str | None = None,
        since: Duration | datetime | None = None,
    ) -> None:
        """Put jobs that have ended back among those that wait; `retry` of a handle says how.

        limit: at most so many. reason: only those that failed so, "timeout" or "oom_killed" for example; a failure
        under a worker of BullMQ's counts as "exception". since: only those that ended since a moment, or in the last
        "2h". With reason or since the latest come first, and each job is looked at.
        Raises BadValue.
        """
        self._link.drive(operating.retry_jobs(self._link.key(), state, limit, reason, since))

    def promote_jobs(self, *, limit: int | None = None) -> None:
        """Let delayed jobs run as soon as they may. limit: only so many, those that are due first."""
        self._link.drive(operating.promote_jobs(self._link.key(), limit))

    # ---- limits, for workers of every kind ----

    def set_global_concurrency(self, limit: int | None) -> None:
        """Let at most so many of the queue's jobs run at once, on all workers together; None: any number.

        Raises BadValue.
        """
        self._link.drive(operating.set_concurrency(self._link.key(), limit))

    def set_global_rate_limit(self, rate: Rate | None) -> None:
        """Let at most so many of the queue's jobs start in a time, on all workers together; None: any number.

        Raises BadValue.
        """
        self._link.drive(operating.set_rate_limit(self._link.key(), rate))

    def rate_limit(self, delay: Duration) -> None:
        """Let no job start for so long. It counts only where a limit is set, the queue's or a worker's.

        Raises BadValue.
        """
        self._link.drive(operating.rate_limit(self._link.key(), delay))

    def end_rate_limit(self) -> None:
        """Undo `rate_limit`, and forget what was started in the present window. The limit itself stays."""
        self._link.client().run(ops.end_rate_limit(self._link.key()))

    def rate_limit_ttl(self, most: int | None = None) -> float:
        """Return for how many seconds no job may start; 0: now. most: a worker's own limit, else the queue's."""
        return self._link.drive(operating.rate_limit_ttl(self._link.key(), most))

    # ---- schedulers ----

    def schedulers(self, *, offset: int = 0, limit: int = 100) -> list[Scheduler[P]]:
        """Read the queue's job schedulers, the one that is due first first."""
        return self._link.drive(scheduling.list_all(self._link, offset, limit))

    def get_scheduler(self, scheduler_id: str) -> Scheduler[P] | None:
        """Read one job scheduler; None if there is none of that id."""
        return self._link.drive(scheduling.find(self._link, scheduler_id))

    def remove_scheduler(self, scheduler_id: str) -> bool:
        """Remove a job scheduler and its next job; one that runs goes on. False: there was none of that id."""
        return self._link.drive(scheduling.remove(self._link, scheduler_id))

    # ---- watching ----

    def workers(self) -> list[ClientInfo]:
        """Return the workers that are connected for the queue, BullMQ's too, as the server lists its connections."""
        return self._link.drive(operating.workers(self._link.key()))

    def metrics(self, which: Literal["completed", "failed"], *, start: int = 0, stop: int = -1) -> Metrics:
        """Return how many jobs ended so: `count` in all, and `data` minute by minute, the newest first.

        start, stop: which minutes, as in a list's index, both included. They are counted by workers whose option
        `metrics` is on, BullMQ's too. Raises BadValue.
        """
        return self._link.drive(operating.metrics(self._link.key(), which, start, stop))

    def emit(self, event: str, fields: Mapping[str, str]) -> str:
        """Write an event of your own into the queue's stream, for `events()` and BullMQ's QueueEvents.

        Returns its id. Raises BadValue for a name that is BullMQ's own.
        """
        return self._link.drive(operating.emit(self._link.key(), event, fields))
