"""bullmq.job_hash: a stored job, whoever wrote it."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heavyq.bullmq.job_hash import (
    STRIKES,
    STRIKES_COUNTED,
    JobRecord,
    append_trace,
    attempts_made,
    fields_of,
    parse_int,
    strikes,
)
from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.options import Keep, WireOptions
from heavyq.bullmq.parent import Parent
from heavyq.errors import JobError, Unreadable


@pytest.mark.parametrize(
    ("raw", "number"),
    [
        (None, 0),
        (b"", 0),
        (b"7", 7),
        (b"0007", 7),
        (b"-3", -3),
        (b"+3", 3),
        (b" \t12 apples", 12),
        (b"1700000000000.5", 1_700_000_000_000),
        (b"1e3", 1),
        (b"0x10", 0),
        (b"NaN", 0),
        (b"undefined", 0),
        (b".5", 0),
        (b"--1", 0),
        (b"\xff1", 0),
        ("١٢".encode(), 0),
        (b"9" * 17, 2**53),
        (b"-" + b"9" * 5000, -(2**53)),
        (b"0" * 5000 + b"5", 5),
    ],
)
def test_numbers_are_read_as_parseint_reads_them(raw: bytes | None, number: int) -> None:
    assert parse_int(raw) == number


@given(st.integers(-(2**53), 2**53), st.sampled_from(["", " ", "\n\t"]), st.sampled_from(["", ".9", "x", " 1"]))
def test_a_whole_number_survives_what_surrounds_it(number: int, before: str, after: str) -> None:
    assert parse_int(f"{before}{number}{after}".encode()) == number


@given(st.binary())
def test_any_bytes_have_a_number(raw: bytes) -> None:
    assert abs(parse_int(raw)) <= 2**53


FIELDS = {
    b"name": "vidéo".encode(),
    b"data": b'{"x":1}',
    b"opts": b'{"attempts":2,"removeOnComplete":true,"tm":"{}"}',
    b"timestamp": b"1700000000000.5",
    b"delay": b"1000",
    b"priority": b"3",
    b"parentKey": b"bull:par:P",
    b"parent": b'{"id":"P","queueKey":"bull:par","fpof":true}',
    b"rjk": b"nightly",
    b"deid": b"d1",
    b"processedOn": b"1700000000100",
    b"finishedOn": b"1700000000200",
    b"pb": b"wk1",
    b"ats": b"2",
    b"atm": b"1",
    b"stc": b"1",
    b"progress": b'"half"',
    b"returnvalue": b'{"ok":true}',
    b"failedReason": b"boom",
    b"stacktrace": b'["E: 1","E: 2"]',
    b"defa": b"job stalled more than allowable limit",
    b"hq:cancel": b"not wanted",
    b"hq:failure": b'{"ats":2,"reason":"signal","signal":9}',
    b"hq:usage": b'{"ats":2,"wall_s":1.5}',
    b"hq:checkpoint": b'{"frame":3}',
}


def test_every_field_is_read() -> None:
    assert JobRecord.read("7", FIELDS, "failed") == JobRecord(
        id="7",
        name="vidéo",
        data=b'{"x":1}',
        opts=WireOptions(attempts=2, remove_on_complete=Keep(0), telemetry="{}"),
        timestamp_ms=1_700_000_000_000,
        delay_ms=1000,
        priority=3,
        processed_on_ms=1_700_000_000_100,
        finished_on_ms=1_700_000_000_200,
        attempts_made=1,
        attempts_started=2,
        stalled_count=1,
        progress=b'"half"',
        returnvalue=b'{"ok":true}',
        failed_reason="boom",
        stacktrace=("E: 1", "E: 2"),
        deferred_failure="job stalled more than allowable limit",
        cancel_reason="not wanted",
        parent_key="bull:par:P",
        parent=Parent(QueueKey("bull", "par"), "P", "fail"),
        scheduler_id="nightly",
        dedup_id="d1",
        worker_name="wk1",
        failure={"reason": "signal", "signal": 9},
        usage={"wall_s": 1.5},
        checkpoint=b'{"frame":3}',
        state="failed",
    )


def test_the_context_of_the_producer_is_at_hand() -> None:
    # conformance: C-044
    assert JobRecord.read("7", FIELDS).telemetry == "{}"


def test_a_job_of_name_and_data_only_is_read() -> None:
    job = JobRecord.read("7", {b"name": b"n", b"data": b""})
    assert (job.name, job.data, job.opts, job.timestamp_ms, job.state) == ("n", b"{}", WireOptions(), 0, None)
    assert job.processed_on_ms is job.finished_on_ms is job.progress is job.returnvalue is job.failed_reason is None
    assert job.failure is job.usage is job.checkpoint is job.deferred_failure is None
    assert job.stacktrace == ()


def test_an_id_without_a_hash_of_its_own_is_read() -> None:
    assert JobRecord.read("7", {b"processedOn": b"1", b"ats": b"1"}).name == ""


def test_a_failure_or_usage_of_another_run_is_ignored() -> None:
    job = JobRecord.read("7", {**FIELDS, b"ats": b"3"})
    assert job.failure is None
    assert job.usage is None


@pytest.mark.parametrize("raw", [b"", b"no json", b"[]", b"{}", b'{"ats":"2"}', b"\xff", b"[" * 100_000])
def test_a_failure_that_makes_no_sense_is_ignored(raw: bytes) -> None:
    assert JobRecord.read("7", {**FIELDS, b"hq:failure": raw}).failure is None


@pytest.mark.parametrize("raw", [b"no json", b"{}", b"5", b"", b"\xff", b"[" * 100_000])
def test_a_stack_trace_that_is_no_list_reads_as_none(raw: bytes) -> None:
    assert JobRecord.read("7", {**FIELDS, b"stacktrace": raw}).stacktrace == ()


def test_options_that_make_no_sense_do_not_hide_the_job() -> None:
    assert JobRecord.read("7", {**FIELDS, b"opts": b"no json"}).opts == WireOptions()


def test_the_old_name_of_attempts_made_goes_first() -> None:
    assert attempts_made({b"attemptsMade": b"4", b"atm": b"1"}) == 4
    assert JobRecord.read("7", {b"attemptsMade": b"4"}).attempts_made == 4


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), st.binary()))
def test_any_hash_is_read_and_its_moments_fit_a_calendar(fields: dict[bytes, bytes]) -> None:
    job = JobRecord.read("7", fields)
    for moment in (job.timestamp_ms, job.processed_on_ms, job.finished_on_ms):
        if moment is not None:
            datetime.fromtimestamp(moment / 1000, UTC)


def test_a_moment_beyond_the_calendar_is_none() -> None:
    job = JobRecord.read("7", {b"timestamp": b"9" * 15, b"finishedOn": b"9" * 20, b"processedOn": b"-1"})
    assert (job.timestamp_ms, job.finished_on_ms, job.processed_on_ms) == (0, None, None)


def test_a_hash_as_a_script_replies_it() -> None:
    assert fields_of([b"a", b"1", b"b", b"2"]) == {b"a": b"1", b"b": b"2"}
    assert fields_of([]) == {}


def test_unreadable_says_which_field_and_why() -> None:
    error = Unreadable("opts", "no JSON")
    assert isinstance(error, JobError)
    assert (error.field, error.why, str(error)) == ("opts", "no JSON", "opts cannot be read: no JSON")


# -- stack traces


def test_traces_stand_oldest_first() -> None:
    assert json.loads(append_trace(b'["one"]', "two", None)) == ["one", "two"]
    assert json.loads(append_trace(None, "one", None)) == ["one"]


@pytest.mark.parametrize(
    ("limit", "kept"), [(0, []), (1, ["c"]), (2, ["b", "c"]), (3, ["a", "b", "c"]), (9, ["a", "b", "c"])]
)
def test_only_the_last_traces_are_kept(limit: int, kept: list[str]) -> None:
    assert json.loads(append_trace(b'["a","b"]', "c", limit)) == kept


def test_a_trace_field_that_makes_no_sense_is_replaced() -> None:
    for raw in (b"", b"no json", b"{}", b'"text"', b"[" * 100_000):
        assert json.loads(append_trace(raw, "new", None)) == ["new"]
    assert json.loads(append_trace(b'[1,null,"old",["x"]]', "new", None)) == ["old", "new"]


@given(
    raw=st.none() | st.binary() | st.lists(st.text()).map(lambda traces: json.dumps(traces).encode()),
    trace=st.text(),
    limit=st.none() | st.integers(0, 5),
)
def test_what_append_trace_writes_is_a_json_list_of_texts_in_any_encoding(
    raw: bytes | None, trace: str, limit: int | None
) -> None:
    written = append_trace(raw, trace, limit)
    traces = json.loads(written.decode("ascii"))
    assert all(isinstance(each, str) for each in traces)
    assert len(traces) <= (limit if limit is not None else len(traces))
    if limit != 0:
        assert traces[-1] == trace
    assert JobRecord.read("7", {b"stacktrace": written}).stacktrace == tuple(traces)


@given(st.lists(st.text(), max_size=6))
def test_traces_appended_one_by_one_are_all_there(traces: list[str]) -> None:
    raw = None
    for trace in traces:
        raw = append_trace(raw, trace, None)
    assert json.loads(raw or b"[]") == traces


# -- strikes


@pytest.mark.parametrize(
    ("raw", "count"),
    [(b"0", 0), (b"2", 2), (b"1000", 1000), (b"1001", 1000), (b"9" * 5000, 1000), (b"-3", 0), (b"", 0), (b"two", 0),
     (b"\xff", 0), (b"NaN", 0), (b"[1]", 0)],
)  # fmt: skip
def test_strikes_are_a_small_number_whoever_wrote_them(raw: bytes, count: int) -> None:
    assert strikes({**FIELDS, STRIKES.encode(): raw}) == count


def test_a_job_that_never_died_of_its_memory_has_no_strikes() -> None:
    assert strikes(FIELDS) == 0


@given(st.binary())
def test_any_bytes_are_a_number_of_strikes(raw: bytes) -> None:
    assert 0 <= strikes({b"hq:strikes": raw}) <= STRIKES_COUNTED


# -- what heavyq wrote is read whole


def test_keys_of_a_newer_heavyq_in_failure_and_usage_come_through() -> None:
    failure = {"reason": "memory_limit", "evidence": {"peak_bytes": 2**40, "processes": [["python", 1]]}, "new": [1]}
    usage = {"wall_s": 1.5, "memory_timeline": [[0.5, 1], [1.0, 2**40]], "new": {"x": None}}
    fields = {
        **FIELDS,
        b"hq:failure": json.dumps({"ats": 2, **failure}).encode(),
        b"hq:usage": json.dumps({"ats": 2, **usage}).encode(),
    }
    job = JobRecord.read("7", fields)
    assert (job.failure, job.usage) == (failure, usage)
