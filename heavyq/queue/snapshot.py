"""A job as it was last read: the attributes that both kinds of handle have.

Owns how a stored job looks in Python: types, moments, what ended it. Asks nobody: what has not been read is the
handle's business.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, Self

from typing_extensions import TypeVar

from heavyq.config.arguments import text
from heavyq.config.units import Duration, parse_duration
from heavyq.core.outcome import Failure, Usage
from heavyq.errors import BadValue, JobError, JobFailed
from heavyq.linux.clock import monotonic_s
from heavyq.queue.outcomes import wait_for_end

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heavyq.bullmq.job_hash import JobRecord
    from heavyq.bullmq.keys import QueueKey
    from heavyq.bullmq.options import WireOptions
    from heavyq.queue.adding import Made
    from heavyq.queue.link import QueueLink
    from heavyq.queue.outcomes import End, Outcomes
    from heavyq.queue.talk import Talk

P = TypeVar("P", default=dict[str, Any])
R = TypeVar("R", default=Any)


class Snapshot(ABC, Generic[P, R]):
    """What a handle knows of its job."""

    def __init__(
        self, link: QueueLink, job_id: str, *, record: JobRecord | None = None, added: bool = False, since_ms: int = 0
    ) -> None:
        text(job_id, f"a job's id in queue {link.name!r}")
        self._link = link
        self._record = record
        self._since_ms = since_ms
        self._queue_key = link.key()
        self.id = job_id
        self.added = added

    @classmethod
    def of(cls, link: QueueLink, made: Made) -> Self:
        """Return the handle of a job that was added."""
        return cls(link, made.id, record=made.record, added=made.added, since_ms=made.since_ms)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id!r} of queue {self._link.name!r}>"

    @abstractmethod
    def _read(self) -> JobRecord:
        """Return the job as last read."""

    # ---- where it is ----

    @property
    def queue_name(self) -> str:
        """The queue's name."""
        return self._link.name

    @property
    def queue_key(self) -> QueueKey:
        """The queue's qualified name."""
        return self._queue_key

    @property
    def key(self) -> str:
        """The job's full key, `<prefix>:<queue>:<id>`: by it a parent names its children."""
        return self._queue_key.key(self.id)

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
    def opts(self) -> WireOptions:
        """The options that the job carries, in BullMQ's units."""
        return self._read().opts

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
    def stacktrace(self) -> tuple[str, ...]:
        """The traces of its failures, the latest last."""
        return self._read().stacktrace

    @property
    def attempts_made(self) -> int:
        """How many runs have ended in a result or a failure."""
        return self._read().attempts_made

    @property
    def attempts_started(self) -> int:
        """How many runs have begun."""
        return self._read().attempts_started

    @property
    def stalled_count(self) -> int:
        """How often it has lost its worker."""
        return self._read().stalled_count

    @property
    def priority(self) -> int:
        """Its priority; 0: none."""
        return self._read().priority

    @property
    def parent(self) -> str | None:
        """The parent's full key, `<prefix>:<queue>:<id>`; None if it has none."""
        parent = self._read().parent
        return self._read().parent_key if parent is None else parent.key

    @property
    def timestamp(self) -> datetime:
        """When the job was made, aware UTC."""
        return moment(self._read().timestamp_ms)

    @property
    def processed_on(self) -> datetime | None:
        """When the latest run began."""
        ms = self._read().processed_on_ms
        return None if ms is None else moment(ms)

    @property
    def finished_on(self) -> datetime | None:
        """When the job ended."""
        ms = self._read().finished_on_ms
        return None if ms is None else moment(ms)

    # ---- its end ----

    def _end(self, outcomes: Outcomes, timeout: Duration | None) -> Talk[End]:
        """Wait for the job's end."""
        deadline_s = None if timeout is None else monotonic_s() + seconds(timeout, "result(): timeout")
        return wait_for_end(self._queue_key, outcomes, self.id, since_ms=self._since_ms, deadline_s=deadline_s)

    def _wrote(self, data: bytes) -> None:
        if self._record is not None:
            self._record = replace(self._record, data=data)

    def _result_of(self, end: End) -> R:
        self._record = end.record or self._record
        if not end.outcome.completed:
            raise self._failed(end.record, end.outcome.value.decode("utf-8", "replace"))
        types = self._link.types(None if self._record is None else self._record.name)
        try:
            result: R = types.result.decode(end.outcome.value)
        except ValueError as error:
            raise JobError(f"job {self.id} completed, but {error}") from None
        return result

    def _failed(self, record: JobRecord | None, message: str) -> JobFailed:
        failure = _failure(record.failure) if record is not None and record.failure is not None else None
        return JobFailed(self.id, message) if failure is None else JobFailed(self.id, message, failure.reason)


def seconds(value: Duration, what: str) -> float:
    """Return a duration in seconds; a bare number may be large, for it is often computed. what: for messages."""
    try:
        return parse_duration(value, bare_ok=True)
    except BadValue as error:
        raise BadValue(f"{what}: {error}") from None


def milliseconds(value: Duration, what: str) -> int:
    """Return a duration in whole milliseconds, as `seconds`."""
    return round(seconds(value, what) * 1000)


def moment(ms: int) -> datetime:
    """Return a moment of the wire, aware UTC."""
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
