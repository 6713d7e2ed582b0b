"""bullmq.options: the stored options, read from anybody and written for anybody."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.options import Backoff, Dedup, Keep, OnFailure, Parent, WireOptions, pack_options
from heavyq.errors import Unreadable


def read(**opts: Any) -> WireOptions:
    return WireOptions.read(json.dumps(opts).encode())


def test_what_node_stores_is_read() -> None:
    raw = rb"""{"attempts":3,"backoff":{"type":"exponential","delay":1000,"jitter":0.5},"delay":5000,"priority":2,
        "lifo":true,"jobId":"a\/b","timestamp":1700000000000,"removeOnComplete":{"count":5,"age":3600,"limit":10},
        "removeOnFail":false,"kl":20,"stackTraceLimit":0,"sizeLimit":1024,"de":{"id":"x"},"fpof":false,
        "x":[1]}"""
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
        dedup=Dedup("x"),
        unknown={"x": [1]},
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
    # conformance: C-072
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
        (b'{"hq":5}', "opts.hq"),
        (b'{"hq":{"timeout":"soon"}}', "opts.hq.timeout"),
        (b'{"hq":{"progressTimeout":[]}}', "opts.hq.progressTimeout"),
        (b'{"hq":{"memoryLimit":{}}}', "opts.hq.memoryLimit"),
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


def test_what_a_child_stores_is_read() -> None:
    options = read(parent={"id": "P", "queue": "bull:par"}, cpof=True, fpof=False, tm="{}", omc=True)
    parent = Parent(QueueKey("bull", "par"), "P", "continue")
    assert options == WireOptions(parent=parent, on_failure="continue", telemetry="{}", omit_context=True)


def test_what_a_schedulers_job_stores_is_read() -> None:
    options = read(repeat={"every": 1000, "count": 2}, repeatJobKey="s", prevMillis=7)
    assert options == WireOptions(repeat={"every": 1000, "count": 2}, unknown={"repeatJobKey": "s", "prevMillis": 7})


@pytest.mark.parametrize(
    ("flags", "on_failure"),
    [
        ({}, None),
        ({"fpof": False, "rdof": False}, None),
        ({"fpof": None, "idof": 0}, None),
        ({"rdof": True}, "remove"),
        ({"idof": True, "rdof": True}, "ignore"),
        ({"rdof": 1, "fpof": 1}, "fail"),
    ],
)
def test_the_first_flag_that_is_set_counts(flags: dict[str, Any], on_failure: OnFailure | None) -> None:
    assert read(**flags).on_failure == on_failure


@pytest.mark.parametrize("stored", [None, 1, [], {}, {"id": 5}, {"id": ""}, {"ttl": 5}, "x"])
def test_a_deduplication_without_an_id_is_none(stored: Any) -> None:
    assert read(de=stored) == WireOptions()


@pytest.mark.parametrize("stored", [None, 1, [], {}, {"id": "1"}, {"id": "1", "queue": "q"}, {"queue": "bull:q"}])
def test_a_parent_that_makes_no_sense_is_none(stored: Any) -> None:
    assert read(parent=stored) == WireOptions()


def test_heavyqs_own_options_are_one_member() -> None:
    own = {"timeout": 60_000, "progressTimeout": 5000, "memoryLimit": 2**31}
    assert read(hq={**own, "newer": 1}) == WireOptions(
        timeout_ms=60_000, progress_timeout_ms=5000, memory_limit_bytes=2**31
    )
    assert read(hq={}) == read(hq=None) == read(hq={"timeout": None, "memoryLimit": 0}) == WireOptions()


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
        *("sizeLimit", "stackTraceLimit", "timestamp", "de", "parent", "repeat", "tm", "omc", "hq", "fpof", "rdof"),
    ]
)
backoffs = st.fixed_dictionaries({}, optional={"type": json_values, "delay": json_values, "jitter": json_values})
keeps = st.fixed_dictionaries({}, optional={"count": json_values, "age": json_values, "limit": json_values})


@given(st.binary())
def test_any_bytes_are_read_or_unreadable(raw: bytes) -> None:
    with contextlib.suppress(Unreadable):
        WireOptions.read(raw)


rules = st.fixed_dictionaries({"id": json_values}, optional={"ttl": json_values, "extend": json_values})
parents = st.fixed_dictionaries({}, optional={"id": json_values, "queue": json_values})
own = st.fixed_dictionaries({}, optional={"timeout": json_values, "memoryLimit": json_values})


@given(st.dictionaries(wire_names, json_values | backoffs | keeps | rules | parents | own))
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


def test_everything_else_has_bullmqs_names_too() -> None:
    assert packed(
        dedup=Dedup("d", ttl_ms=5000, extend=True, replace=True, keep_last_if_active=True, reschedule=True),
        parent=Parent(QueueKey("bull", "par"), "P", "ignore"),
        repeat={"every": 5},
        telemetry="{}",
        omit_context=True,
        timeout_ms=1000,
        progress_timeout_ms=500,
        memory_limit_bytes=2**30,
    ) == {
        "attempts": 0,
        "de": {
            "id": "d",
            "ttl": 5000,
            "extend": True,
            "replace": True,
            "keepLastIfActive": True,
            "reschedule": True,
        },
        "parent": {"id": "P", "queue": "bull:par"},
        "idof": True,
        "repeat": {"every": 5},
        "tm": "{}",
        "omc": True,
        "hq": {"timeout": 1000, "progressTimeout": 500, "memoryLimit": 2**30},
    }


def test_what_a_failure_does_to_a_parent_that_is_not_known_yet() -> None:
    assert packed(on_failure="fail") == {"attempts": 0, "fpof": True}
    parent = Parent(QueueKey("bull", "par"), "P", "ignore")
    assert packed(on_failure="fail", parent=parent).keys() == {"attempts", "fpof", "parent"}


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


prefixes = names.filter(lambda text: not text.endswith(":"))
queue_names = names.map(lambda text: text.replace(":", "_"))
dedups = st.builds(
    Dedup,
    names,
    st.none() | st.integers(1, 2**50),
    extend=st.booleans(),
    replace=st.booleans(),
    keep_last_if_active=st.booleans(),
    reschedule=st.booleans(),
)
unflagged_parents = st.builds(Parent, st.builds(QueueKey, prefixes, queue_names), names)


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
    dedup=st.none() | dedups,
    parent=st.none() | unflagged_parents,
    on_failure=st.none() | st.sampled_from(get_args(OnFailure)),
    repeat=st.none() | st.dictionaries(names, st.integers(0, 2**40) | names, max_size=3),
    telemetry=st.none() | names,
    omit_context=st.booleans(),
    timeout_ms=st.none() | st.integers(1, 2**40),
    progress_timeout_ms=st.none() | st.integers(1, 2**40),
    memory_limit_bytes=st.none() | st.integers(1, 2**50),
)
def test_what_is_written_is_read_back(**options: Any) -> None:
    raw = pack_options(**options)
    raw.decode("ascii")
    parent: Parent | None = options.pop("parent")
    if parent:
        parent = dataclasses.replace(parent, on_failure=options["on_failure"])
    assert WireOptions.read(raw) == WireOptions(**options, parent=parent)
