"""How a job ended: from its hash while it stands, from the queue's event stream once it was removed.

Owns the waiting for that end. Reads only, so it may ask again and again: an outage of Redis that is short is sat
out. Nothing here writes, and nothing here knows a type.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from heavyq.bullmq.events import Outcome, begins_anew, job_of, read_outcome, removes
from heavyq.bullmq.ops.find import find
from heavyq.errors import RedisUnavailable, ResultGone
from heavyq.linux.clock import monotonic_s

if TYPE_CHECKING:
    from collections.abc import Callable

    from heavyq.bullmq.job_hash import JobRecord
    from heavyq.bullmq.keys import QueueKey
    from heavyq.store.client import Client, Event

T = TypeVar("T")

LOOK_AGAIN_S: Final = 5.0  # an event may have been trimmed before we read it, or never written (drain, clean)
OUTAGE_S: Final = 15.0
_PAUSE_S: Final = 0.1
_BATCH: Final = 100  # events; each may carry a whole result
_KNOWN_MAX: Final = 20_000
_SKEW_MS: Final = 60_000  # between the clocks of producer and server; if it is more, all that is kept is read


@dataclass(frozen=True, slots=True)
class End:
    """How a job ended. record: its hash, None if it was removed."""

    outcome: Outcome
    record: JobRecord | None


def wait_for_end(
    client: Client, q: QueueKey, outcomes: Outcomes, job_id: str, *, since_ms: int, deadline_s: float | None
) -> End:
    """Wait until a job has ended.

    since_ms: no earlier than this was it added, by this machine's clock; 0 if that is not known. deadline_s: on
    the monotonic clock; None waits for ever.
    Raises TimeoutError; ResultGone if the job was removed and nothing tells how it ended; RedisUnavailable after
    15 s without Redis.
    """
    ask = _Patience(deadline_s)
    position = ask(lambda: client.last_event_id(q))
    seen: Outcome | None = None
    while True:
        record = ask(lambda: client.run(find(q, job_id)))
        if record is None:
            outcome = seen or ask(lambda: outcomes.look_up(client, q, job_id, since_ms))
            if outcome is None:
                raise ResultGone(
                    f"job {job_id} is not in queue {q.name} (any more), and no event tells how it ended; "
                    "keep finished jobs with remove_on_complete=Keep(count=...)"
                )
            return End(outcome, None)
        if record.state == "completed":
            return End(Outcome(completed=True, value=record.returnvalue or b"null"), record)
        if record.state == "failed":
            return End(Outcome(completed=False, value=(record.failed_reason or "").encode()), record)
        if deadline_s is not None and monotonic_s() >= deadline_s:
            raise TimeoutError(f"job {job_id} of queue {q.name} has not ended in time; it is {record.state}")
        position, seen = _wait_for_event(ask, client, q, position, job_id, deadline_s)


def _wait_for_event(
    ask: _Patience, client: Client, q: QueueKey, position: str, job_id: str, deadline_s: float | None
) -> tuple[str, Outcome | None]:
    """Read on until an event says that the job is over, or until it is time to look at the job again."""
    until_s = monotonic_s() + LOOK_AGAIN_S
    if deadline_s is not None:
        until_s = min(until_s, deadline_s)
    while (left_s := until_s - monotonic_s()) > 0:
        block_ms, last = max(1, int(left_s * 1000)), position
        for event_id, fields in ask(lambda: client.read_events(q, last, block_ms, _BATCH)):  # noqa: B023 - called at once
            position = event_id
            if job_of(fields) == job_id and ((outcome := read_outcome(fields)) is not None or removes(fields)):
                return position, outcome
    return position, None


class _Patience:
    """Asks Redis, and again while it is away, up to the deadline and OUTAGE_S at most."""

    def __init__(self, deadline_s: float | None) -> None:
        self._deadline_s = deadline_s

    def __call__(self, question: Callable[[], T]) -> T:
        gone_since_s: float | None = None
        while True:
            try:
                return question()
            except RedisUnavailable as error:
                now_s = monotonic_s()
                gone_since_s = gone_since_s or now_s
                if self._deadline_s is not None and now_s >= self._deadline_s:
                    raise TimeoutError(f"Redis did not answer in time: {error}") from error
                if now_s - gone_since_s > OUTAGE_S:
                    raise
                time.sleep(_PAUSE_S)


class Outcomes:
    """Where in a queue's event stream each job's latest end stands. Threads may share it.

    It remembers places, not values, and reads each event once, however many jobs are asked for.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._from_ms = 0
        self._position: str | None = None
        self._places: dict[str, str] = {}

    def look_up(self, client: Client, q: QueueKey, job_id: str, since_ms: int) -> Outcome | None:
        """Return how a job ended, None if no event that is still kept tells it."""
        with self._lock:
            place = self._find(client, q, job_id, max(0, since_ms - _SKEW_MS))
        if place is None:
            return None
        for event_id, fields in client.read_events(q, _just_before(place), 0, 1):
            if event_id == place:
                return read_outcome(fields)
        return None  # trimmed meanwhile

    def take(self, event: Event) -> None:
        """Take the next event of the stream."""
        event_id, fields = event
        job_id = job_of(fields)
        if job_id is None:
            return
        if read_outcome(fields) is not None:
            self._places.pop(job_id, None)  # the latest stands last
            self._places[job_id] = event_id
            if len(self._places) > _KNOWN_MAX:
                del self._places[next(iter(self._places))]
        elif begins_anew(fields):
            self._places.pop(job_id, None)

    def _find(self, client: Client, q: QueueKey, job_id: str, from_ms: int) -> str | None:
        for start_ms in (from_ms, 0):
            if self._position is None or start_ms < self._from_ms:
                self._places, self._from_ms, self._position = {}, start_ms, f"{start_ms}-0"
            self._catch_up(client, q)
            if job_id in self._places:
                break
        return self._places.get(job_id)

    def _catch_up(self, client: Client, q: QueueKey) -> None:
        while True:
            events = client.read_events(q, self._position or "0-0", 0, _BATCH)
            for event in events:
                self.take(event)
                self._position = event[0]
            if len(events) < _BATCH:
                return


def _just_before(event_id: str) -> str:
    """Return the greatest id below an event's: reading starts after it."""
    ms, _, number = event_id.partition("-")
    return f"{ms}-{int(number) - 1}" if int(number) else f"{int(ms) - 1}-{2**64 - 1}"
