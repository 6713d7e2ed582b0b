"""How a job ended: from its hash while it stands, from the queue's event stream once it was removed.

Owns the waiting for that end. Reads only, so it may ask again and again: an outage of Redis that is short is sat
out. Nothing here writes, and nothing here knows a type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from heavyq.bullmq.events import Outcome, begins_anew, job_of, read_outcome, removes
from heavyq.bullmq.ops.find import find
from heavyq.errors import RedisUnavailable, ResultGone
from heavyq.linux.clock import monotonic_s
from heavyq.queue.talk import AwaitEvent, Enter, LastEvent, Pause, ReadEvents, Talk, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from heavyq.bullmq.job_hash import JobRecord
    from heavyq.bullmq.keys import QueueKey
    from heavyq.store.trip import Event

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


def wait_for_end(q: QueueKey, outcomes: Outcomes, job_id: str, *, since_ms: int, deadline_s: float | None) -> Talk[End]:
    """Wait until a job has ended.

    since_ms: no earlier than this was it added, by this machine's clock; 0 if that is not known. deadline_s: on
    the monotonic clock; None waits for ever.
    Raises TimeoutError; ResultGone if the job was removed and nothing tells how it ended; RedisUnavailable after
    15 s without Redis.
    """
    ask = _Patience(deadline_s)
    seen: Outcome | None = None
    while True:
        # Where the stream ends now: what comes after is not missed, whatever the look at the job finds.
        position = yield from ask(lambda: _last_event_id(q))
        record = yield from ask(lambda: run(find(q, job_id)))
        if record is None:
            outcome = seen or (yield from ask(lambda: outcomes.look_up(q, job_id, since_ms)))
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
        left_s = LOOK_AGAIN_S if deadline_s is None else min(LOOK_AGAIN_S, deadline_s - monotonic_s())
        if left_s <= 0:
            raise TimeoutError(f"job {job_id} of queue {q.name} has not ended in time; it is {record.state}")
        seen = yield from ask(lambda: _await_end(q, position, job_id, left_s))  # noqa: B023 - asked at once


def _last_event_id(q: QueueKey) -> Talk[str]:
    position: str = yield LastEvent(q)
    return position


def _await_end(q: QueueKey, position: str, job_id: str, timeout_s: float) -> Talk[Outcome | None]:
    """Wait for an event that says that the job is over, or until it is time to look at the job again."""
    fields: dict[str, bytes] | None = yield AwaitEvent(q, job_id, position, timeout_s, _is_over)
    return None if fields is None else read_outcome(fields)


def _is_over(fields: dict[str, bytes]) -> bool:
    return read_outcome(fields) is not None or removes(fields)


class _Patience:
    """Asks Redis, and again while it is away, up to the deadline and OUTAGE_S at most."""

    def __init__(self, deadline_s: float | None) -> None:
        self._deadline_s = deadline_s

    def __call__(self, question: Callable[[], Talk[T]]) -> Talk[T]:
        gone_since_s: float | None = None
        while True:
            try:
                return (yield from question())
            except RedisUnavailable as error:
                now_s = monotonic_s()
                gone_since_s = gone_since_s or now_s
                if self._deadline_s is not None and now_s >= self._deadline_s:
                    raise TimeoutError(f"Redis did not answer in time: {error}") from error
                if now_s - gone_since_s > OUTAGE_S:
                    raise
            yield Pause(_PAUSE_S)


class Outcomes:
    """Where in a queue's event stream each job's latest end stands. All who look through one client share it.

    It remembers places, not values, and reads each event once, however many jobs are asked for.
    lock: of the client's kind.
    """

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self._from_ms = 0
        self._position: str | None = None
        self._places: dict[str, str] = {}

    def look_up(self, q: QueueKey, job_id: str, since_ms: int) -> Talk[Outcome | None]:
        """Return how a job ended, None if no event that is still kept tells it."""
        yield Enter(self._lock)
        try:
            place = yield from self._find(q, job_id, max(0, since_ms - _SKEW_MS))
        finally:
            self._lock.release()
        if place is None:
            return None
        events: list[Event] = yield ReadEvents(q, _just_before(place), 0, 1)
        for event_id, fields in events:
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

    def _find(self, q: QueueKey, job_id: str, from_ms: int) -> Talk[str | None]:
        for start_ms in (from_ms, 0):
            if self._position is None or start_ms < self._from_ms:
                self._places, self._from_ms, self._position = {}, start_ms, f"{start_ms}-0"
            yield from self._catch_up(q)
            if job_id in self._places:
                break
        return self._places.get(job_id)

    def _catch_up(self, q: QueueKey) -> Talk[None]:
        while True:
            events: list[Event] = yield ReadEvents(q, self._position or "0-0", 0, _BATCH)
            for event in events:
                self.take(event)
                self._position = event[0]
            if len(events) < _BATCH:
                return


def _just_before(event_id: str) -> str:
    """Return the greatest id below an event's: reading starts after it."""
    ms, _, number = event_id.partition("-")
    return f"{ms}-{int(number) - 1}" if int(number) else f"{int(ms) - 1}-{2**64 - 1}"
