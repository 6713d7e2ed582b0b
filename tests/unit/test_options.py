"""bullmq.options: the stored options, read from anybody and written for anybody."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heavyq.bullmq.options import Backoff, Keep, WireOptions, pack_options
from heavyq.errors import Unreadable


def read(**opts: Any) -> WireOptions:
    return WireOptions.read(json.dumps(opts).encode())


def test_what_node_stores_is_read() -> None:
    raw = rb"""{"attempts":3,"backoff":{"type":"exponential","delay":1000,"jitter":0.5},"delay":5000,"priority":2,
        "lifo":true,"jobId":"a\/b","timestamp":1700000000000,"removeOnComplete":{"count":5,"age":3600,"limit":10},
        "removeOnFail":false,"kl":20,"stackTraceLimit":0,"sizeLimit":1024,"de":{"id":"x"},"fpof":false}"""
    assert WireOptions.read(raw) == WireOptions(
        attempts=3,
        backoff=Backoff("exponential", 1000, 0.5),
        priority=2,
        delay_ms=5000,
        lifo=True,
        remove_on_complete=Keep(5, 3600, 10),
        remove_on_fail=Keep(-1),
        keep_logs=20,
        stack_trace_limit=0,
        size_limit=1024,
        job_id="a/b",
        timestamp_ms=1_700_000_000_000,
        unknown={"de": {"id": "x"}, "fpof": False},
    )


@pytest.mark.parametrize("raw", [b"", b"{}", b" {} "])
def test_no_options_read_as_one_run_and_nothing_else(raw: bytes) -> None:
    assert WireOptions.read(raw) == WireOptions()


def test_null_is_as_good_as_absent() -> None:
    names = ("attempts", "backoff", "delay", "priority", "lifo", "removeOnComplete", "removeOnFail", "kl")
    assert read(**dict.fromkeys(names)) == WireOptions()


@pytest.mark.parametrize(
    ("stored", "backoff"),
    [
        (500, Backoff("fixed", 500)),
        (0, Backoff("fixed", 0)),
        ("500", Backoff("fixed", 500)),
        ({"type": "fixed", "delay": 10.9}, Backoff("fixed", 10)),
        ({"type": "fixed"}, Backoff("fixed", 0)),
        ({"type": "fixed", "delay": 1, "jitter": 7}, Backoff("fixed", 1, 1.0)),
        ({"type": "fixed", "delay": 1, "jitter": -1}, Backoff("fixed", 1)),
        ({"type": "fixed", "delay": 1, "jitter": "much"}, Backoff("fixed", 1)),
        ({"delay": 5}, Backoff("", 5)),
        ({}, Backoff("", 0)),
        ("mine", Backoff("mine", 0)),
        (False, None),
    ],
)
def test_backoff_in_all_its_forms(stored: Any, backoff: Backoff | None) -> None:
    assert read(backoff=stored).backoff == backoff


@pytest.mark.parametrize(
    ("stored", "keep"),
    [
        (True, Keep(0)),
        (False, Keep(-1)),
        (0, Keep(0)),
        (7, Keep(7)),
        (-1, Keep(-1)),
        (-9, Keep(-1)),
        ("7", Keep(7)),
        ({}, Keep()),
        ({"count": 0}, Keep(0)),
        ({"age": 60}, Keep(-1, 60)),
        ({"age": 60, "limit": 0}, Keep(-1, 60)),
        ({"age": -5, "limit": 3}, Keep(-1, 0, 3)),
    ],
)
def test_retention_in_all_its_forms(stored: Any, keep: Keep) -> None:
    options = read(removeOnComplete=stored, removeOnFail=stored)
    assert options.remove_on_complete == options.remove_on_fail == keep


def test_numbers_that_stand_as_text_are_read_as_node_reads_them() -> None:
    assert read(attempts="3", kl="5").attempts == 3
    assert read(attempts=2.9).attempts == 2


@pytest.mark.parametrize(("kl", "limit"), [(0, None), (-3, None), (4, 4)])
def test_a_log_limit_below_one_limits_nothing(kl: int, limit: int | None) -> None:
    assert read(kl=kl).keep_logs == limit


def test_a_negative_trace_limit_limits_nothing() -> None:
    assert read(stackTraceLimit=-1).stack_trace_limit is None


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"no json", "opts"),
        (b'{"attempts":NaN}', "opts"),
        (b'{"x":Infinity}', "opts"),
        (b"[]", "opts"),
        (b"null", "opts"),
        (b'"{}"', "opts"),
        (b"\xff{}", "opts"),
        (b"[" * 100_000, "opts"),
        (b'{"x":' * 50_000, "opts"),
        (b'{"attempts":"many"}', "opts.attempts"),
        (b'{"attempts":{}}', "opts.attempts"),
        (b'{"attempts":1e999}', "opts.attempts"),
        (b'{"backoff":[]}', "opts.backoff"),
        (b'{"backoff":true}', None),
        (b'{"backoff":{"type":"fixed","delay":"soon"}}', "opts.backoff.delay"),
        (b'{"removeOnComplete":"yes"}', "opts.removeOnComplete"),
        (b'{"removeOnFail":{"age":[]}}', "opts.removeOnFail.age"),
        (b'{"kl":"all"}', "opts.kl"),
        (b'{"stackTraceLimit":{}}', "opts.stackTraceLimit"),
    ],
)
def test_what_makes_no_sense_is_named(raw: bytes, field: str | None) -> None:
    if field is None:
        WireOptions.read(raw)
        return
    with pytest.raises(Unreadable) as caught:
        WireOptions.read(raw)
    assert caught.value.field == field
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_what_only_the_producer_acted_on_makes_no_job_unreadable() -> None:
    options = read(priority="high", delay=[], timestamp={}, jobId=5, sizeLimit="big", lifo=0)
    assert options == WireOptions()


def test_huge_numbers_are_cut_to_what_javascript_can_count() -> None:
    options = WireOptions.read(b'{"attempts":1' + b"0" * 400 + b',"delay":-1e300}')
    assert (options.attempts, options.delay_ms) == (2**53, -(2**53))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
wire_names = st.sampled_from(
    [
        *("attempts", "backoff", "delay", "jobId", "kl", "lifo", "priority", "removeOnComplete", "removeOnFail"),
        *("sizeLimit", "stackTraceLimit", "timestamp", "de"),
    ]
)
backoffs = st.fixed_dictionaries({}, optional={"type": json_values, "delay": json_values, "jitter": json_values})
keeps = st.fixed_dictionaries({}, optional={"count": json_values, "age": json_values, "limit": json_values})


@given(st.binary())
def test_any_bytes_are_read_or_unreadable(raw: bytes) -> None:
    with contextlib.suppress(Unreadable):
        WireOptions.read(raw)


@given(st.dictionaries(wire_names, json_values | backoffs | keeps))
def test_any_json_object_is_read_or_unreadable(opts: dict[str, Any]) -> None:
    with contextlib.suppress(Unreadable):
        options = WireOptions.read(json.dumps(opts).encode())
        for number in (options.attempts, options.priority, options.delay_ms):
            assert -(2**53) <= number <= 2**53
        for keep in filter(None, (options.remove_on_complete, options.remove_on_fail)):
            assert keep.count >= -1
            assert keep.limit >= 1


# -- writing


def packed(**options: Any) -> Any:
    return json.loads(pack_options(**options))


def test_nothing_set_is_what_node_stores_for_nothing_set() -> None:
    assert pack_options() == b'{"attempts":0}'


def test_everything_set_has_bullmqs_names() -> None:
    assert packed(
        attempts=3,
        backoff=Backoff("exponential", 1000, 0.5),
        priority=2,
        delay_ms=5000,
        lifo=True,
        remove_on_complete=Keep(100),
        remove_on_fail=Keep(-1, 3600),
        keep_logs=20,
        stack_trace_limit=0,
        size_limit=1024,
        job_id="v-1",
        timestamp_ms=1_700_000_000_000,
    ) == {
        "attempts": 3,
        "backoff": {"type": "exponential", "delay": 1000, "jitter": 0.5},
        "priority": 2,
        "delay": 5000,
        "lifo": True,
        "removeOnComplete": 100,
        "removeOnFail": {"age": 3600, "limit": 1000},
        "kl": 20,
        "stackTraceLimit": 0,
        "sizeLimit": 1024,
        "jobId": "v-1",
        "timestamp": 1_700_000_000_000,
    }


def test_a_backoff_without_jitter_has_no_such_key() -> None:
    assert packed(backoff=Backoff("fixed", 0))["backoff"] == {"type": "fixed", "delay": 0}


@pytest.mark.parametrize(
    ("keep", "stored"),
    [
        (Keep(0), True),
        (Keep(-1), False),
        (Keep(9), 9),
        (Keep(9, 60, 5), {"count": 9, "age": 60, "limit": 5}),
        (Keep(0, 60), {"count": 0, "age": 60, "limit": 1000}),
    ],
)
def test_retention_is_written_in_its_shortest_form(keep: Keep, stored: Any) -> None:
    opts = packed(remove_on_complete=keep)
    assert opts["removeOnComplete"] == stored
    assert type(opts["removeOnComplete"]) is type(stored)


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(
    attempts=st.integers(0, 1000),
    backoff=st.none()
    | st.builds(Backoff, names, st.integers(0, 2**40), st.floats(0, 1, allow_subnormal=False)).filter(
        lambda backoff: not backoff.type.strip().isdecimal()
    ),
    priority=st.integers(0, 2**21 - 1),
    delay_ms=st.integers(0, 2**40),
    lifo=st.booleans(),
    remove_on_complete=st.none() | st.builds(Keep, st.integers(-1, 10**6)),
    remove_on_fail=st.none() | st.builds(Keep, st.integers(-1, 10**6), st.integers(0, 10**6), st.integers(1, 1000)),
    keep_logs=st.none() | st.integers(1, 1000),
    stack_trace_limit=st.none() | st.integers(0, 50),
    size_limit=st.none() | st.integers(0, 2**40),
    job_id=st.none() | st.text(),
    timestamp_ms=st.none() | st.integers(0, 2**41),
)
def test_what_is_written_is_read_back(**options: Any) -> None:
    raw = pack_options(**options)
    raw.decode("ascii")
    assert WireOptions.read(raw) == WireOptions(**options)
