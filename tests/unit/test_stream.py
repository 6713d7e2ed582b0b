"""A queue's events as users see them: what an entry of the stream becomes, where reading begins, when it ends.

A script of answers stands for Redis: the reader is a talk.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from heavyq.bullmq.events import decode
from heavyq.bullmq.keys import QueueKey
from heavyq.errors import BadValue, RedisUnavailable
from heavyq.queue import stream
from heavyq.queue.stream import Event, _Reader
from heavyq.queue.talk import LastEvent, Pause, ReadEvents

if TYPE_CHECKING:
    from heavyq.queue.talk import Request, Talk

Q = QueueKey("bull", "q")
BROKEN = {"event": b"completed", "jobId": b"1", "returnvalue": b"{not json"}
STALLED = {"event": b"stalled", "jobId": b"1"}


def answered(talk: Talk[Any], *answers: Any) -> tuple[list[Request], Any]:
    """Hold a talk with these answers; return what was asked, and the result."""
    asked = []
    try:
        request = next(talk)
        for answer in answers:
            asked.append(request)
            request = talk.send(answer)
    except StopIteration as end:
        return asked, end.value
    raise AssertionError(f"the talk goes on: {request}")


# ---- one event


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"event": b"waiting", "jobId": b"7", "prev": b"active"}, ("waiting", "7", {"prev": "active"})),
        ({"event": b"drained"}, ("drained", None, {})),
        (
            {"event": b"completed", "jobId": b"7", "returnvalue": b'{"a":[1,null]}', "prev": b"active"},
            ("completed", "7", {"returnvalue": {"a": [1, None]}, "prev": "active"}),
        ),
        ({"event": b"progress", "jobId": b"7", "data": b"0.5"}, ("progress", "7", {"data": 0.5})),
        ({"event": b"failed", "jobId": b"7", "failedReason": b"{no"}, ("failed", "7", {"failedReason": "{no"})),
        ({"event": b"delayed", "jobId": b"7", "delay": b"1700000000000.5"}, ("delayed", "7", {"delay": 1700000000000})),
        ({"event": b"cleaned", "count": b"12"}, ("cleaned", None, {"count": 12})),
        (
            {"event": b"retries-exhausted", "jobId": b"7", "attemptsMade": b"3"},
            ("retries-exhausted", "7", {"attemptsMade": 3}),
        ),
        # what nobody here knows is delivered as it is
        ({"event": b"debounced", "jobId": b"7", "debounceId": b"d"}, ("debounced", "7", {"debounceId": "d"})),
        ({"event": b"mine", "data": b"{no", "delay": b"x"}, ("mine", None, {"data": "{no", "delay": "x"})),
        ({"event": b"\xff", "jobId": b"\xfe"}, ("\ufffd", "\ufffd", {})),
    ],
)
def test_an_events_fields_are_decoded(fields: dict[str, bytes], expected: Any) -> None:
    assert decode(fields) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"jobId": b"7"},
        BROKEN,
        {"event": b"completed", "jobId": b"7", "returnvalue": b"\xff"},
        {"event": b"completed", "jobId": b"7", "returnvalue": b"[" * 100_000},
        {"event": b"progress", "jobId": b"7", "data": b""},
        {"event": b"delayed", "jobId": b"7", "delay": b"soon"},
        {"event": b"delayed", "jobId": b"7", "delay": b"inf"},
    ],
)
def test_what_cannot_be_read_is_an_error_of_one_kind(fields: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match=r"no name|no JSON|no number"):
        decode(fields)


# ---- a reader


def test_an_event_has_its_moment_and_its_place() -> None:
    reader = _Reader(Q, "5-1", 0)
    asked, found = answered(reader.batch(), [("1700000000123-4", STALLED)])
    assert asked == [ReadEvents(Q, "5-1", 0, 100)]
    assert found == [Event("stalled", "1", datetime(2023, 11, 14, 22, 13, 20, 123_000, UTC), {}, "1700000000123-4")]
    asked, found = answered(reader.batch(), [])
    assert (asked, found) == ([ReadEvents(Q, "1700000000123-4", 0, 100)], [])


def test_reading_begins_at_the_streams_end_unless_told_otherwise() -> None:
    reader = _Reader(Q, None, 0)
    assert answered(reader.begin(), "77-0") == ([LastEvent(Q)], None)
    assert answered(reader.batch(), [])[0] == [ReadEvents(Q, "77-0", 0, 100)]
    told = _Reader(Q, "5", 0)
    with pytest.raises(StopIteration):
        next(told.begin())


@pytest.mark.parametrize(
    ("since", "after"),
    [
        ("1700000000000-5", "1700000000000-5"),
        ("0", "0"),
        (Event("x", None, datetime.now(UTC), {}, "9-9"), "9-9"),
        (datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), "1699999999999-18446744073709551615"),
        (datetime(2023, 11, 15, 0, 13, 20, tzinfo=timezone(timedelta(hours=2))), "1699999999999-18446744073709551615"),
        (datetime(1970, 1, 1, tzinfo=UTC), "0-0"),
    ],
)
def test_reading_goes_on_after_an_event_or_begins_with_a_moment(since: Any, after: str) -> None:
    assert answered(_Reader(Q, since, 0).batch(), [])[0] == [ReadEvents(Q, after, 0, 100)]


@pytest.mark.parametrize("since", ["", "now", "1-2-3", "-1", 5, datetime(2023, 1, 1), Event("x", None, datetime.max)])  # noqa: DTZ001, DTZ901 - the mistake
def test_what_is_no_place_in_a_stream_is_refused(since: Any) -> None:
    with pytest.raises(BadValue, match=r"events\(since=.*an event, its id, an aware datetime"):
        _Reader(Q, since, None)


def test_a_timeout_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(BadValue, match=r"events\(\): timeout: 'x' is no duration"):
        _Reader(Q, None, "x")


def test_what_cannot_be_read_is_passed_over_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    reader = _Reader(Q, "0", None)
    asked, found = answered(reader.batch(), [("1-0", BROKEN), ("2-0", {})], [("3-0", BROKEN), ("4-0", STALLED)])
    assert [event.id for event in found] == ["4-0"]
    assert [each.after for each in asked if isinstance(each, ReadEvents)] == ["0", "2-0"]
    assert [record.getMessage() for record in caplog.records] == [
        "queue q: an event (1-0) is passed over: returnvalue is no JSON"
    ]


def test_the_end_comes_when_nothing_came_for_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(stream, "monotonic_s", lambda: now_s)
    talk = _Reader(Q, "0", 12).batch()
    assert next(talk) == ReadEvents(Q, "0", 5000, 100)
    now_s = 105.0
    assert talk.send([]) == ReadEvents(Q, "0", 5000, 100)
    now_s = 110.0
    assert talk.send([]) == ReadEvents(Q, "0", 2000, 100)
    now_s = 112.0
    with pytest.raises(StopIteration) as end:
        talk.send([])
    assert end.value.value == []


def test_a_short_outage_is_sat_out_and_a_long_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(stream, "monotonic_s", lambda: now_s)
    talk = _Reader(Q, "0", None).batch()
    question = next(talk)
    assert isinstance(talk.throw(RedisUnavailable("gone")), Pause)
    assert talk.send(None) == question
    now_s = 114.0
    assert isinstance(talk.throw(RedisUnavailable("gone")), Pause)
    talk.send(None)
    assert talk.send([("5-0", {})]) == ReadEvents(Q, "5-0", 5000, 100)  # it came back, with nothing to show
    now_s = 200.0
    talk.throw(RedisUnavailable("gone again"))
    talk.send(None)
    now_s = 215.5
    with pytest.raises(RedisUnavailable, match="gone again"):
        talk.throw(RedisUnavailable("gone again"))


def test_a_timeout_is_not_outlived_by_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(stream, "monotonic_s", lambda: now_s)
    talk = _Reader(Q, "0", 1).batch()
    next(talk)
    now_s = 101.5
    with pytest.raises(RedisUnavailable):
        talk.throw(RedisUnavailable("gone"))
