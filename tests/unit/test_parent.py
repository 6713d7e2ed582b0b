"""bullmq.parent and bullmq.dedup: what a child and a deduplicated job store, read from anybody."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heavyq.bullmq.dedup import Dedup
from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.parent import OnFailure, Parent, read_job_key

PAR = QueueKey("bull", "par")
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
words = texts.map(lambda text: text.replace(":", "_"))
queues = st.builds(QueueKey, texts, words)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def test_a_parent_is_stored_as_bullmq_stores_it() -> None:
    parent = Parent(PAR, "P", on_failure="fail")
    assert parent.key == "bull:par:P"
    assert parent.to_field() == b'{"id":"P","queueKey":"bull:par","fpof":true}'
    assert parent.to_opts() == {"id": "P", "queue": "bull:par"}
    assert Parent(PAR, "P").to_field() == b'{"id":"P","queueKey":"bull:par"}'


@given(queues, texts, st.none() | st.sampled_from(get_args(OnFailure)))
def test_what_is_written_is_read_back(queue: QueueKey, job_id: str, on_failure: OnFailure | None) -> None:
    parent = Parent(queue, job_id, on_failure)
    assert Parent.read_field(parent.to_field()) == parent
    assert Parent.read_opts(parent.to_opts(), on_failure) == parent


@given(queues, words)
def test_a_job_key_is_cut_at_its_last_two_colons(queue: QueueKey, job_id: str) -> None:
    assert read_job_key(queue.key(job_id)) == (queue, job_id)


@pytest.mark.parametrize("key", ["", "a", "a:b", "::", "a::b", ":a:b", "a:b:"])
def test_what_is_no_job_key(key: str) -> None:
    assert read_job_key(key) is None


@pytest.mark.parametrize(
    "raw", [None, b"", b"null", b"5", b"[]", b"{}", b"no json", b"\xff", b"[" * 50_000, b'{"id":"1","queueKey":"q"}']
)
def test_a_field_that_cannot_be_read_leaves_the_key(raw: bytes | None) -> None:
    assert Parent.read_field(raw) is None
    assert Parent.read_field(raw, "no key") is None
    assert Parent.read_field(raw, "bull:par:P") == Parent(PAR, "P")


def test_the_field_counts_before_the_key() -> None:
    """A scheduler's job has colons in its id: cut out of the key alone it would be another job."""
    raw = b'{"id":"repeat:s:1","queueKey":"bull:par","rdof":true}'
    assert Parent.read_field(raw, "bull:par:repeat:s:1") == Parent(PAR, "repeat:s:1", "remove")


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_field_is_read_or_none(raw: bytes) -> None:
    Parent.read_field(raw)


@given(json_values | st.fixed_dictionaries({}, optional={"id": json_values, "ttl": json_values, "extend": json_values}))
def test_any_deduplication_is_read_or_none(stored: Any) -> None:
    dedup = Dedup.read(stored)
    if dedup is not None:
        assert dedup.id
        assert dedup.ttl_ms is None or 1 <= dedup.ttl_ms <= 2**53


@pytest.mark.parametrize(
    ("ttl", "ttl_ms"), [(5, 5), (5.9, 5), (0, None), (-1, None), (True, None), ("5", None), (1e300, None), (None, None)]
)
def test_a_time_to_live_that_makes_no_sense_is_none(ttl: Any, ttl_ms: int | None) -> None:
    assert Dedup.read({"id": "d", "ttl": ttl}) == Dedup("d", ttl_ms)


def test_rules_that_are_not_set_are_left_out() -> None:
    assert Dedup("d").to_opts() == {"id": "d"}
    assert Dedup("d", 5, replace=True).to_opts() == {"id": "d", "ttl": 5, "replace": True}
    assert Dedup.read({"id": "d", "replace": False, "extend": None}) == Dedup("d")
