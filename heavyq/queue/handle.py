"""`JobHandle`: what a producer holds of a job.

Attributes tell what was last read; methods ask Redis. Owns no connection; `acting` knows what is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self

from typing_extensions import TypeVar

from heavyq.bullmq.ops.find import find
from heavyq.queue import acting
from heavyq.queue.snapshot import Snapshot

if TYPE_CHECKING:
    from heavyq.bullmq.job_hash import JobRecord
    from heavyq.config.units import Duration
    from heavyq.queue.queue import Queue

P = TypeVar("P", default=dict[str, Any])
R = TypeVar("R", default=Any)
R2 = TypeVar("R2", default=Any)


class JobHandle(Snapshot[P, R], Generic[P, R]):
    """A job in a queue, seen from outside.

    id: its id in the queue. added: False if a job of that id existed already, or one of its deduplication, so that
    nothing was added; False too for a job that was looked up.
    Attributes are as last read, by the add itself, `refresh()` or `result()`; the first of a handle that has read
    nothing yet reads the job, and raises NoSuchJob if there is none. Methods ask Redis, and raise RedisUnavailable,
    RedisRefused, RedisReplyError.
    """

    def refresh(self) -> Self:
        """Read the job. Raises NoSuchJob if it is not in the queue (any more); what was read before stays."""
        self._record = self._link.drive(acting.find(self._queue_key, self.id))
        return self

    def state(self) -> str:
        """Return where the job is now, in BullMQ's words: waiting, active, completed, ...; `unknown` if it is gone."""
        record = self._link.client().run(find(self._queue_key, self.id))
        if record is None:
            return "unknown"
        self._record = record
        return record.state or "unknown"

    def result(self, timeout: Duration | None = None) -> R:
        """Wait for the job's end and return its result, in its type.

        timeout: how long to wait; None for ever. A short outage of Redis is sat out.
        Raises JobFailed if the job failed for good, TimeoutError, ResultGone if it was removed and its end is no
        longer in the queue's events, JobError if the result does not fit its type.
        """
        outcomes = self._link.outcomes(self._link.client())
        return self._result_of(self._link.drive(self._end(outcomes, timeout)))

    def logs(self, start: int = 0, stop: int = -1) -> list[str]:
        """Return rows of the job's log, oldest first; start and stop count as in a list's index, both included."""
        return self._link.drive(acting.logs(self._queue_key, self.id, start, stop))

    def log(self, row: str, *, keep: int | None = None) -> int:
        """Append a row to the job's log; return how many it has then. keep: only the newest that many stay.

        Raises NoSuchJob.
        """
        return self._link.drive(acting.log(self._queue_key, self.id, row, keep))

    def clear_logs(self, *, keep: int | None = None) -> None:
        """Drop the job's log. keep: all but the newest that many rows."""
        self._link.drive(acting.clear_logs(self._queue_key, self.id, keep))

    # ---- changing it ----

    def cancel(self, reason: str = "") -> bool:
        """End the job: one that waits fails at once, with the reason `cancelled`; one that runs is stopped.

        Returns True if it has failed now; False if it runs: its worker is told, and a processor that does not
        stop is killed. A worker of BullMQ's takes no notice.
        Raises NoSuchJob, WrongState if it has ended already, or is its scheduler's next one.
        """
        return self._link.drive(acting.cancel(self._queue_key, self.id, reason))

    def retry(self, *, reset_attempts: bool = False) -> None:
        """Let a job that has ended run again. reset_attempts: with all its attempts, else with what is left, or one.

        Raises NoSuchJob, WrongState if it has not ended.
        """
        self._link.drive(acting.retry(self._queue_key, self.id, reset_attempts=reset_attempts))

    def promote(self) -> None:
        """Let a delayed job run as soon as it may. Raises NoSuchJob, WrongState if it is not delayed."""
        self._link.drive(acting.promote(self._queue_key, self.id))

    def remove(self, *, children: bool = True) -> None:
        """Remove the job, from wherever it is; one that is not there is no error. children: and its children.

        Raises WrongState while a worker has it or one of them, or if it is its scheduler's next one.
        """
        self._link.drive(acting.remove(self._queue_key, self.id, children=children))

    def change_priority(self, priority: int, *, lifo: bool = False) -> None:
        """Give the job another priority: 1 runs first, 0 is none. lifo: before others of it. Raises NoSuchJob."""
        self._link.drive(acting.change_priority(self._queue_key, self.id, priority, lifo=lifo))

    def change_delay(self, delay: Duration) -> None:
        """Let a delayed job come due this long from now. Raises NoSuchJob, WrongState if it is not delayed."""
        self._link.drive(acting.change_delay(self._queue_key, self.id, delay))

    def update_data(self, payload: P) -> None:
        """Write the payload anew; a job that runs goes on with the old one.

        Raises PayloadError if it does not fit its type, PayloadTooLarge, NoSuchJob.
        """
        name = None if self._record is None else self._record.name
        talk = acting.update_data(self._link, self._queue_key, self.id, name, payload)
        self._wrote(self._link.drive(talk))

    # ---- its family ----

    def children_values(self, queue: Queue[Any, R2] | None = None) -> dict[str, R2]:
        """Return what its completed children have returned, by the child's full key.

        queue: only its children, and their results in its type; without it those of all, as plain JSON.
        Raises JobError for a result that does not fit the type.
        """
        return self._link.drive(acting.children_values(self._queue_key, self.id, queue))

    def failed_children_values(self) -> dict[str, str]:
        """Return why children have failed that the job goes on without, by the child's full key."""
        return self._link.drive(acting.failed_children_values(self._queue_key, self.id))

    def pending_children(self) -> list[str]:
        """Return the full keys of the children that the job still waits for."""
        return self._link.drive(acting.pending_children(self._queue_key, self.id))

    def remove_pending_children(self) -> None:
        """Remove its children that have not ended, but those in work; it runs if that were all. Raises NoSuchJob."""
        self._link.drive(acting.remove_pending_children(self._queue_key, self.id))

    def detach(self) -> bool:
        """Take the job away from its parent, which runs if it waited for nothing else.

        Returns False if the parent did not wait for it (any more). Raises NoSuchJob, NoSuchParent.
        """
        return self._link.drive(acting.detach(self._queue_key, self.id))

    def _read(self) -> JobRecord:
        if self._record is None:
            self.refresh()
        assert self._record is not None
        return self._record
