"""`JobHandle`: what a producer holds of a job.

Attributes tell what was last read; methods ask Redis. Owns no connection and writes nothing.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, Self

from typing_extensions import TypeVar

from heavyq.bullmq.ops.find import find
from heavyq.bullmq.ops.logs import logs
from heavyq.config.units import Duration, parse_duration
from heavyq.core.outcome import Failure, Usage
from heavyq.errors import BadValue, JobError, JobFailed, NoSuchJob
from heavyq.linux.clock import monotonic_s
from heavyq.queue.outcomes import wait_for_end

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heavyq.bullmq.job_hash import JobRecord
    from heavyq.queue.link import QueueLink

P = TypeVar("P", default=dict[str, Any])
R = TypeVar("R", default=Any)


class JobHandle(Generic[P, R]):
    """A job in a queue, seen from outside.

    id: its id in the queue. added: False if a job of that id existed already, so that nothing was added; False
    too for a job that was looked up.
    Attributes are as last read, by the add itself, `refresh()` or `result()`; the first of a handle that has read
    nothing yet reads the job, and raises NoSuchJob if there is none.
    """

    def __init__(
        self, link: QueueLink, job_id: str, *, record: JobRecord | None = None, added: bool = False, since_ms: int = 0
    ) -> None:
        self._link = link
        self._record = record
        self._since_ms = since_ms
        self.id = job_id
        self.added = added

    def __repr__(self) -> str:
        return f"<JobHandle {self.id!r} of queue {self._link.name!r}>"

    # ---- as last read ----

    @property
    def name(self) -> str:
        """The job's name."""
        return self._read().name

    @property
    def data(self) -> P:
        """The payload in its type. Raises PayloadError if another producer's does not fit it."""
        record = self._read()
        data: P = self._link.types(record.name).payload.decode(record.data)
        return data

    @property
    def progress(self) -> Any:
        """The latest progress: a number or whatever the processor sent; 0 before the first."""
        raw = self._read().progress
        try:
            return 0 if raw is None else json.loads(raw)
        except ValueError:
            return 0

    @property
    def usage(self) -> Usage | None:
        """What the latest run used: `peak_rss_bytes`, `cpu_s`, `wall_s`, `memory_timeline`. None before its end."""
        usage = self._read().usage
        return None if usage is None else _usage(usage)

    @property
    def failure(self) -> Failure | None:
        """Why the latest run failed: `reason`, `detail`, `signal`, `stack`, `last_logs`, `last_progress`, `evidence`.

        None if it did not.
        """
        failure = self._read().failure
        return None if failure is None else _failure(failure)

    @property
    def failed_reason(self) -> str | None:
        """BullMQ's one line about the latest failure."""
        return self._read().failed_reason

    @property
    def attempts_made(self) -> int:
        """How many runs have ended in a result or a failure."""
        return self._read().attempts_made

    @property
    def timestamp(self) -> datetime:
        """When the job was made, aware UTC."""
        return _moment(self._read().timestamp_ms)

    @property
    def processed_on(self) -> datetime | None:
        """When the latest run began."""
        ms = self._read().processed_on_ms
        return None if ms is None else _moment(ms)

    @property
    def finished_on(self) -> datetime | None:
        """When the job ended."""
        ms = self._read().finished_on_ms
        return None if ms is None else _moment(ms)

    # ---- asking Redis ----

    def refresh(self) -> Self:
        """Read the job. Raises NoSuchJob if it is not in the queue (any more); what was read before stays."""
        record = self._find()
        if record is None:
            raise NoSuchJob(f"queue {self._link.name!r} has no job {self.id}")
        self._record = record
        return self

    def state(self) -> str:
        """Return where the job is now, in BullMQ's words: waiting, active, completed, ...; `unknown` if it is gone."""
        record = self._find()
        if record is None:
            return "unknown"
        self._record = record
        return record.state or "unknown"

    def logs(self, start: int = 0, stop: int = -1) -> list[str]:
        """Return rows of the job's log, oldest first; start and stop count as in a list's index, both included."""
        page = self._link.client().run(logs(self._link.key(), self.id, start=start, stop=stop))
        return list(page.rows)

    def result(self, timeout: Duration | None = None) -> R:
        """Wait for the job's end and return its result, in its type.

        timeout: how long to wait; None for ever. A short outage of Redis is sat out.
        Raises JobFailed if the job failed for good, TimeoutError, ResultGone if it was removed and its end is no
        longer in the queue's events, JobError if the result does not fit its type.
        """
        deadline_s = None if timeout is None else monotonic_s() + _seconds(timeout)
        link = self._link
        end = wait_for_end(
            link.client(), link.key(), link.outcomes(), self.id, since_ms=self._since_ms, deadline_s=deadline_s
        )
        self._record = end.record or self._record
        if not end.outcome.completed:
            raise self._failed(end.record, end.outcome.value.decode("utf-8", "replace"))
        types = link.types(None if self._record is None else self._record.name)
        try:
            result: R = types.result.decode(end.outcome.value)
        except ValueError as error:
            raise JobError(f"job {self.id} completed, but {error}") from None
        return result

    def _failed(self, record: JobRecord | None, message: str) -> JobFailed:
        failure = _failure(record.failure) if record is not None and record.failure is not None else None
        return JobFailed(self.id, message) if failure is None else JobFailed(self.id, message, failure.reason)

    def _find(self) -> JobRecord | None:
        return self._link.client().run(find(self._link.key(), self.id))

    def _read(self) -> JobRecord:
        if self._record is None:
            self.refresh()
        assert self._record is not None
        return self._record


def _seconds(timeout: Duration) -> float:
    try:
        return parse_duration(timeout, bare_ok=True)
    except BadValue as error:
        raise BadValue(f"result(): timeout: {error}") from None


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, tz=UTC)


def _usage(fields: Mapping[str, Any]) -> Usage:
    """Read what may have been written by a newer or an older heavyq."""
    return Usage(
        peak_rss_bytes=fields.get("peak_rss_bytes", 0),
        cpu_s=fields.get("cpu_s", 0.0),
        wall_s=fields.get("wall_s", 0.0),
        memory_timeline=tuple((point[0], point[1]) for point in fields.get("memory_timeline") or ()),
    )


def _failure(fields: Mapping[str, Any]) -> Failure:
    return Failure(
        reason=fields.get("reason", "exception"),
        detail=fields.get("detail", ""),
        signal=fields.get("signal"),
        stack=fields.get("stack"),
        last_logs=tuple(fields.get("last_logs") or ()),
        last_progress=fields.get("last_progress"),
        evidence=fields.get("evidence"),
    )
