"""How a job ended, read from a hash or from events. A queue in memory stands for Redis."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from heavyq.bullmq.events import Outcome
from heavyq.bullmq.job_hash import JobRecord
from heavyq.bullmq.keys import QueueKey
from heavyq.errors import RedisUnavailable, ResultGone
from heavyq.queue import outcomes
from heavyq.queue.outcomes import Outcomes, wait_for_end
from heavyq.queue.talk import drive

if TYPE_CHECKING:
    from collections.abc import Callable

    from heavyq.bullmq.op import Op

Q = QueueKey("bull", "q")
COMPLETED = {"event": b"completed", "jobId": b"7", "returnvalue": b"42", "prev": b"active"}
FAILED = {"event": b"failed", "jobId": b"7", "failedReason": b"broken", "prev": b"active"}
ADDED = {"event": b"added", "jobId": b"7", "name": b"process"}
REMOVED = {"event": b"removed", "jobId": b"7", "prev": b"wait"}
RETRIED = {"event": b"waiting", "jobId": b"7", "prev": b"failed"}


class Stream:
    """A queue's events and at most one job. happenings: what happens at each look at the job, in turn."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, bytes]]] = []
        self.record: JobRecord | None = None
        self.happenings: list[Callable[[], Any]] = []
        self.read = 0
        self.waits = 0
        self.away = 0

    def emit(self, fields: dict[str, bytes], event_id: str | None = None) -> None:
        self.events.append((event_id or f"1000-{len(self.events)}", fields))

    def job(self, state: str, **fields: bytes) -> None:
        self.record = JobRecord.read("7", {name.encode(): value for name, value in fields.items()}, state)

    def gone(self) -> None:
        self.record = None

    def then(self, *happenings: Callable[[], Any]) -> Callable[[], None]:
        def all_of_them() -> None:
            for happen in happenings:
                happen()

        return all_of_them

    def last_event_id(self, _q: QueueKey) -> str:
        self._maybe_away()
        return self.events[-1][0] if self.events else "0-0"

    def run(self, op: Op[Any]) -> Any:
        self._maybe_away()
        assert op.verb == "find"
        found = self.record
        if self.happenings:
            self.happenings.pop(0)()
        return found

    def read_events(self, _q: QueueKey, last_id: str, block_ms: int, count: int) -> list[Any]:
        def order(event_id: str) -> tuple[int, int]:
            ms, number = event_id.split("-")
            return int(ms), int(number)

        self.waits += block_ms > 0
        after = [event for event in self.events if order(event[0]) > order(last_id)][:count]
        self.read += len(after)
        return after

    def await_event(self, q: QueueKey, job_id: str, after: str, timeout_s: float, until: Any) -> Any:
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            for _, fields in self.read_events(q, after, 1, 100):
                if fields.get("jobId") == job_id.encode() and until(fields):
                    return fields
        return None

    def pause(self, seconds: float) -> None:
        threading.Event().wait(seconds)

    def enter(self, lock: Any) -> None:
        lock.acquire()

    def _maybe_away(self) -> None:
        if self.away:
            self.away -= 1
            raise RedisUnavailable("away")


def wait(stream: Any, timeout_s: float | None = 5.0, known: Outcomes | None = None, since_ms: int = 0) -> outcomes.End:
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    return drive(stream, wait_for_end(Q, known or new(), "7", since_ms=since_ms, deadline_s=deadline_s))


def new() -> Outcomes:
    return Outcomes(threading.Lock())


def look_up(stream: Any, known: Outcomes, job_id: str, since_ms: int) -> Outcome | None:
    return drive(stream, known.look_up(Q, job_id, since_ms))


def test_a_job_that_stands_completed_is_read_from_its_hash() -> None:
    stream = Stream()
    stream.job("completed", returnvalue=b"[1]")
    assert wait(stream).outcome == Outcome(completed=True, value=b"[1]")
    stream.job("failed", failedReason=b"broken")
    assert wait(stream).outcome == Outcome(completed=False, value=b"broken")
    assert stream.read == 0


def test_a_job_that_is_waited_for_ends_with_its_event() -> None:
    stream = Stream()
    stream.job("active")

    def complete() -> None:
        stream.emit({"event": b"completed", "jobId": b"another", "returnvalue": b"0"})
        stream.emit(COMPLETED)
        stream.gone()

    stream.happenings = [complete]
    assert wait(stream, None).outcome == Outcome(completed=True, value=b"42")


def test_a_job_that_was_removed_is_found_in_the_events() -> None:
    stream = Stream()
    stream.emit(ADDED)
    stream.emit(COMPLETED)
    end = wait(stream)
    assert (end.outcome, end.record) == (Outcome(completed=True, value=b"42"), None)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([COMPLETED, ADDED], None),  # another job of that id, which was then removed
        ([FAILED, RETRIED, COMPLETED], Outcome(completed=True, value=b"42")),
        ([FAILED, RETRIED], None),
        ([COMPLETED, ADDED, FAILED], Outcome(completed=False, value=b"broken")),
        ([ADDED, REMOVED], None),
    ],
)
def test_the_latest_end_of_the_id_counts(events: list[dict[str, bytes]], expected: Outcome | None) -> None:
    stream = Stream()
    for fields in events:
        stream.emit(fields)
    if expected is None:
        with pytest.raises(ResultGone, match="job 7 is not in queue q"):
            wait(stream)
    else:
        assert wait(stream).outcome == expected


def test_a_job_that_is_removed_while_it_is_waited_for_is_gone() -> None:
    stream = Stream()
    stream.job("waiting")
    stream.happenings = [stream.then(lambda: stream.emit(REMOVED), stream.gone)]
    with pytest.raises(ResultGone):
        wait(stream)


def test_a_job_that_leaves_no_event_behind_is_gone_at_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "LOOK_AGAIN_S", 0.02)
    stream = Stream()
    stream.job("waiting")
    stream.happenings = [stream.gone]  # drained: BullMQ tells nobody
    with pytest.raises(ResultGone):
        wait(stream)


def test_a_job_that_does_not_end_is_a_timeout_that_says_where_it_is() -> None:
    stream = Stream()
    stream.job("delayed")
    started_s = time.monotonic()
    with pytest.raises(TimeoutError, match="has not ended in time; it is delayed"):
        wait(stream, 0.05)
    assert time.monotonic() - started_s < 1
    with pytest.raises(TimeoutError):
        wait(stream, 0)


def test_a_failure_that_is_retried_by_hand_is_waited_for_again() -> None:
    stream = Stream()
    stream.job("active")
    stream.happenings = [
        stream.then(lambda: stream.emit(FAILED), lambda: stream.job("waiting")),
        stream.then(lambda: stream.emit(COMPLETED), stream.gone),
    ]
    assert wait(stream).outcome == Outcome(completed=True, value=b"42")


def test_a_short_outage_is_sat_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "_PAUSE_S", 0.001)
    stream = Stream()
    stream.job("completed", returnvalue=b"1")
    stream.away = 5
    assert wait(stream).outcome.value == b"1"


def test_a_long_outage_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "_PAUSE_S", 0.001)
    monkeypatch.setattr(outcomes, "OUTAGE_S", 0.02)
    stream = Stream()
    stream.away = 10**6
    with pytest.raises(RedisUnavailable):
        wait(stream, None)
    with pytest.raises(TimeoutError, match="Redis did not answer"):
        wait(stream, 0.001)


# ---- what is known of the stream ----


def test_each_event_is_read_once_however_many_jobs_are_asked_for() -> None:
    stream, known = Stream(), new()
    for n in range(1000):
        stream.emit({"event": b"completed", "jobId": str(n).encode(), "returnvalue": str(n).encode()})
    for n in range(1000):
        found = look_up(stream, known, str(n), 0)
        assert found == Outcome(completed=True, value=str(n).encode())
    assert stream.read == 1000 + 1000  # once each to learn the places, and each value when it is asked for


def test_what_is_older_than_the_add_is_not_read() -> None:
    stream, known = Stream(), new()
    day_ms = 86_400_000
    for n in range(50):
        stream.emit({"event": b"completed", "jobId": b"x", "returnvalue": b"0"}, f"{day_ms}-{n}")
    stream.emit(COMPLETED, f"{2 * day_ms}-0")
    assert look_up(stream, known, "7", 2 * day_ms) == Outcome(completed=True, value=b"42")
    assert stream.read == 2


def test_clocks_that_differ_by_much_are_no_reason_to_miss_a_result() -> None:
    stream, known = Stream(), new()
    stream.emit(COMPLETED, "5000-0")
    ten_years_ahead_ms = 10 * 365 * 86_400_000
    found = look_up(stream, known, "7", ten_years_ahead_ms)
    assert found == Outcome(completed=True, value=b"42")


def test_a_place_whose_event_was_trimmed_meanwhile_is_nothing() -> None:
    stream, known = Stream(), new()
    stream.emit(COMPLETED)
    assert look_up(stream, known, "7", 0) is not None
    stream.events = []
    assert look_up(stream, known, "7", 0) is None


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "_KNOWN_MAX", 10)
    known = new()
    for n in range(100):
        known.take((f"1-{n}", {"event": b"completed", "jobId": str(n).encode(), "returnvalue": b"0"}))
    assert list(known._places) == [str(n) for n in range(90, 100)]
