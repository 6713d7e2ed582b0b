"""What a processor raises on purpose, and what its run is reported as."""

from __future__ import annotations

from datetime import timedelta

import pytest

from heavyq.core.outcome import Failure
from heavyq.core.retry import DELAY_MAX_MS
from heavyq.errors import BadValue
from heavyq.job import wire
from heavyq.job.raised import RateLimited, RetryAfter, Snooze, Unrecoverable, WaitForChildren, said_by
from heavyq.job.report import NEVER, Failed, PutOff, Returned, Stopped, frame_of

ABOUT = {"run": 4, "clean": True}


@pytest.mark.parametrize(
    ("raised", "delay_ms"),
    [
        (Snooze("10m"), 600_000),
        (Snooze(1.5), 1_500),
        (Snooze(timedelta(seconds=2)), 2_000),
        (Snooze(20_000), 20_000_000),  # a computed number of seconds may be large, as in `add`
        (Snooze(0), 0),
        (RetryAfter("10m", "busy"), 600_000),
        (RateLimited("30s"), 30_000),
        (RateLimited(0), 1),  # BullMQ's limiter key cannot live for 0 ms
    ],
)
def test_delays_are_durations(raised, delay_ms):
    assert raised.delay_ms == delay_ms


@pytest.mark.parametrize("kind", [Snooze, RateLimited, RetryAfter])
def test_what_is_no_duration_is_refused_where_it_is_raised(kind):
    with pytest.raises(BadValue, match="soon"):
        kind("soon")


def test_retry_after_has_a_text_of_its_own_or_the_jobs():
    assert str(RetryAfter("90s", "the API is down")) == "the API is down"
    assert str(RetryAfter("90s")) == "retry after 1m30s"


def test_verdicts_are_found_in_subclasses_and_in_groups_of_one():
    class NoSuchFile(Unrecoverable): ...

    said = NoSuchFile("gone")
    group = ExceptionGroup("unhandled errors in a TaskGroup", [ExceptionGroup("inner", [said])])
    assert said_by(said) is said
    assert said_by(group) is said
    assert said_by(ExceptionGroup("two", [said, ValueError()])) is None
    assert said_by(ValueError("bad")) is None


def test_verdicts_are_exceptions_that_an_except_clause_may_take():
    for kind in (Unrecoverable, Snooze, RetryAfter, RateLimited, WaitForChildren):
        assert issubclass(kind, Exception)


def test_each_outcome_has_its_frame():
    failure = Failure("exception", "x" * 5_000, stack="Traceback", evidence={"peak_bytes": 1})
    assert frame_of(Returned(b"[1]"), ABOUT) == (wire.RESULT, ABOUT, b"[1]")
    kind, head, body = frame_of(Failed(failure, final=True, retry_ms=NEVER), ABOUT)
    assert (kind, body, len(head.pop("detail"))) == (wire.FAILURE, b"Traceback", 4096)
    assert head == ABOUT | {"reason": "exception", "evidence": {"peak_bytes": 1}, "final": True, "retry_ms": -1}
    assert frame_of(PutOff("snooze", 5), ABOUT) == (wire.LATER, ABOUT | {"what": "snooze", "delay_ms": 5}, b"")
    assert frame_of(Stopped(), ABOUT) == (wire.STOPPED, ABOUT, b"")


def test_delays_of_more_than_a_year_are_cut_and_never_stays_never():
    failure, long_ms = Failure("exception", "bad"), Snooze("400d").delay_ms
    assert long_ms > DELAY_MAX_MS
    assert frame_of(PutOff("snooze", long_ms), ABOUT)[1]["delay_ms"] == DELAY_MAX_MS
    told = [frame_of(Failed(failure, retry_ms=ms), ABOUT)[1]["retry_ms"] for ms in (long_ms, NEVER, None)]
    assert told == [DELAY_MAX_MS, NEVER, None]
