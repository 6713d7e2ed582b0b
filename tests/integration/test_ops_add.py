"""add, against what BullMQ stores: fields, order, scores, markers, paused lists, events."""

from __future__ import annotations

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.lease import NothingToLease
from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.add import PRIORITY_MAX
from heavyq.bullmq.ops.common import DUE_MS_MAX
from heavyq.errors import RedisReplyError, UsageError
from tests.support.ops import NOW_MS, Rig

DUE_SCORE = 4096


@pytest.fixture
def rig(client, raw, q) -> Rig:
    return Rig(client, raw, q)


def test_standard_job_leaves_what_bullmq_leaves(rig):
    # conformance: C-012 C-013
    data = '{"naïve":"ü\\"/\\n","n":1.5,"list":[]}'.encode()
    added = rig.run(ops.add(rig.q, name="näme", data=data, opts=b'{"attempts":2}', timestamp_ms=NOW_MS))

    assert added == ops.Added("1", existed=False)
    assert rig.dump() == {
        "id": "1",
        "meta": {"opts.maxLenEvents": "10000"},
        "1": {
            "name": "näme",
            "data": data.decode(),
            "opts": '{"attempts":2}',
            "timestamp": str(NOW_MS),
            "delay": "0",
            "priority": "0",
        },
        "wait": ["1"],
        "marker": {"0": 0.0},
        "events": [
            {"event": "added", "jobId": "1", "name": "näme"},
            {"event": "waiting", "jobId": "1"},
        ],
    }


def test_jobs_run_in_the_order_of_adds_and_lifo_first(rig):
    # conformance: C-014
    for _ in range(6):
        rig.add()
    rig.add(lifo=True)
    assert rig.list("wait") == ["6", "5", "4", "3", "2", "1", "7"]
    assert [rig.lease().job_id for _ in range(7)] == ["7", "1", "2", "3", "4", "5", "6"]


def test_prioritized_job_gets_its_score_its_marker_and_its_event(rig):
    rig.add(priority=5)
    rig.add(priority=5)
    rig.add(priority=1)
    rig.add(priority=PRIORITY_MAX)
    assert rig.zset("prioritized") == {
        "3": 1 * 2**32 + 3,
        "1": 5 * 2**32 + 1,
        "2": 5 * 2**32 + 2,
        "4": PRIORITY_MAX * 2**32 + 4,
    }
    assert rig.zset("prioritized")["4"] < 2**53
    assert rig.text("pc") == "4"
    assert rig.field("1", "priority") == "5"
    assert rig.zset("marker") == {"0": 0.0}
    assert rig.events()[:2] == [
        {"event": "added", "jobId": "1", "name": "job"},
        {"event": "waiting", "jobId": "1"},
    ]


def test_priority_counter_wraps_at_2_to_the_32(rig):
    rig.raw.set(rig.key("pc"), 2**32 - 1)
    rig.add(priority=2)
    assert rig.zset("prioritized") == {"1": 2 * 2**32}


def test_delayed_job_gets_its_score_its_marker_and_its_event(rig):
    # conformance: C-016
    rig.add(delay_ms=300, timestamp_ms=NOW_MS)
    due = NOW_MS + 300
    assert rig.zset("delayed") == {"1": due * DUE_SCORE}
    assert rig.field("1", "delay") == "300"
    assert rig.zset("marker") == {"1": due}
    assert rig.events() == [
        {"event": "added", "jobId": "1", "name": "job"},
        {"event": "delayed", "jobId": "1", "delay": str(due)},
    ]
    assert not rig.exists("wait")


def test_delayed_jobs_of_one_ms_keep_their_order(rig):
    # conformance: C-028
    for _ in range(3):
        rig.add(delay_ms=300)
    rig.add(delay_ms=299)
    first = (NOW_MS + 300) * DUE_SCORE
    assert rig.zset("delayed") == {"4": first - DUE_SCORE, "1": first, "2": first + 1, "3": first + 2}
    assert rig.zset("marker") == {"1": NOW_MS + 299}, "the marker names the earliest"


def test_more_than_4096_jobs_of_one_ms_stay_inside_it(rig):
    # conformance: C-029
    first = (NOW_MS + 300) * DUE_SCORE
    rig.raw.zadd(rig.key("delayed"), {"other": first + DUE_SCORE - 2, "next ms": first + DUE_SCORE})
    for _ in range(3):
        rig.add(delay_ms=300)
    scores = rig.zset("delayed")
    last = first + DUE_SCORE - 1
    assert [scores[job_id] for job_id in "123"] == [last, last, last]


def test_marker_of_a_delayed_job_may_be_fractional(rig):
    rig.add(delay_ms=300)
    rig.raw.zadd(rig.key("delayed"), {"1": (NOW_MS + 300) * DUE_SCORE + 1})
    rig.add(delay_ms=300)
    assert rig.zset("marker")["1"] == NOW_MS + 300 + 1 / DUE_SCORE


def test_delay_wins_over_priority_and_lifo_until_the_job_is_due(rig):
    # conformance: C-017
    rig.add(delay_ms=10, priority=3)
    rig.add(delay_ms=10, lifo=True)
    rig.add(delay_ms=10)
    assert not rig.exists("prioritized")
    rig.now += 10
    assert rig.lease().job_id == "2", "lifo is lost: the left side is the last one"
    assert rig.list("wait") == ["3"]
    assert rig.zset("prioritized") == {"1": 3 * 2**32 + 1}


@pytest.mark.parametrize("closed", [{"paused": 1}, {"concurrency": 0}, {"paused": ""}])
def test_no_marker_while_nobody_may_lease_but_for_delayed_jobs(rig, closed):
    rig.meta(**closed)
    rig.add()
    rig.add(priority=1)
    assert not rig.exists("marker")
    rig.add(delay_ms=5)
    assert rig.zset("marker") == {"1": NOW_MS + 5}


@pytest.mark.parametrize(
    ("version", "wait", "paused", "target"),
    [
        (None, [], [], "wait"),
        ("bullmq:6.7.0", [], [], "wait"),
        ("bullmq:5.81.5", [], [], "paused"),
        ("bullmq:5.81.5", ["a"], [], "wait"),
        ("bullmq:6.7.0", [], ["a"], "paused"),
        (None, ["a"], ["b"], "paused"),
        ("bullmq:15.0.0", [], [], "wait"),
        ("nonsense", [], [], "wait"),
    ],
)
@pytest.mark.parametrize("lifo", [False, True])
def test_while_paused_the_list_in_use_is_kept(rig, version, wait, paused, target, lifo):
    rig.meta(paused=1, **({"version": version} if version else {}))
    lists = {"wait": wait, "paused": paused}
    for name, items in lists.items():
        if items:
            rig.raw.rpush(rig.key(name), *items)
    rig.add(lifo=lifo)
    expected = {name: list(items) for name, items in lists.items()}
    expected[target].insert(len(expected[target]) if lifo else 0, "1")
    assert {"wait": rig.list("wait"), "paused": rig.list("paused")} == expected


def test_running_queue_ignores_what_lies_in_paused(rig):
    rig.meta(version="bullmq:5.81.5")
    rig.raw.rpush(rig.key("paused"), "old")
    rig.add()
    assert rig.list("wait") == ["1"]
    assert rig.list("paused") == ["old"]


def test_id_that_exists_changes_nothing_but_the_counter(rig):
    # conformance: C-019
    first = rig.run(ops.add(rig.q, name="a", data=b"1", opts=b"{}", timestamp_ms=NOW_MS, job_id="x"))
    before = rig.dump()
    again = rig.run(ops.add(rig.q, name="b", data=b"2", opts=b"{}", timestamp_ms=NOW_MS + 1, delay_ms=9, job_id="x"))
    assert (first, again) == (ops.Added("x", existed=False), ops.Added("x", existed=True))
    before["id"] = "2"
    before["events"].append({"event": "duplicated", "jobId": "x"})
    assert rig.dump() == before
    assert rig.add() == "3"


def test_only_an_add_with_an_id_may_be_sent_again(rig):
    options = {"name": "a", "data": b"1", "opts": b"{}", "timestamp_ms": NOW_MS}
    assert not ops.add(rig.q, **options).replayable
    assert ops.add(rig.q, **options, job_id="x").replayable


@pytest.mark.parametrize("job_id", ["", "0", "12", "-3", "a:b", "0:1", "a:b:c:d", "wait", "meta", "events"])
def test_ids_that_bullmq_cannot_hold_are_refused(rig, job_id):
    # conformance: C-008
    with pytest.raises(UsageError):
        rig.add(job_id=job_id)
    assert rig.dump() == {}


@pytest.mark.parametrize("job_id", ["a", "01", "1.5", "ü", "a b", "waiting", "00000000-0000-4000-8000-000000000000"])
def test_other_ids_are_taken(rig, job_id):
    assert rig.add(job_id=job_id) == job_id
    assert rig.lease().job_id == job_id


@pytest.mark.parametrize(
    "options",
    [
        {"priority": -1},
        {"priority": PRIORITY_MAX + 1},
        {"delay_ms": -1},
        {"timestamp_ms": -1},
        {"timestamp_ms": DUE_MS_MAX, "delay_ms": 1},
        {"timestamp_ms": NOW_MS * 1000},
    ],
)
def test_numbers_that_bullmq_cannot_hold_are_refused(rig, options):
    # conformance: C-018
    with pytest.raises(UsageError):
        rig.add(**options)
    assert rig.dump() == {}


@pytest.mark.parametrize("place", [3, 4, 5])
def test_script_checks_its_arguments_before_it_writes(rig, place):
    op = ops.add(rig.q, name="a", data=b"1", opts=b"{}", timestamp_ms=NOW_MS)
    args = [*op.args]
    args[place] = "soon"
    with pytest.raises(RedisReplyError, match="must be a number"):
        rig.run(Op(op.verb, op.keys, tuple(args), op.read, op.replayable))
    assert rig.dump() == {}


def test_last_possible_moment_is_exact(rig):
    rig.add(timestamp_ms=DUE_MS_MAX - 1, delay_ms=1)
    rig.add(timestamp_ms=DUE_MS_MAX - 1, delay_ms=1)
    assert rig.zset("delayed") == {"1": DUE_MS_MAX * 4096, "2": DUE_MS_MAX * 4096 + 1}
    reply = rig.try_lease()
    assert reply == NothingToLease(DUE_MS_MAX)


@pytest.mark.parametrize(("kept", "written"), [(None, "10000"), ("100", "100"), ("soon", "soon")])
def test_event_stream_length_is_set_once_and_kept_by_others(rig, kept, written):
    # conformance: C-004
    if kept:
        rig.meta(**{"opts.maxLenEvents": kept})
    rig.add()
    assert rig.hash("meta") == {"opts.maxLenEvents": written}


@pytest.mark.parametrize("options", [{}, {"priority": 2}, {"delay_ms": 5}])
def test_event_stream_is_trimmed(rig, options):
    # conformance: C-005
    rig.meta(**{"opts.maxLenEvents": 100})
    for _ in range(300):
        rig.add(**options)
    assert 100 <= rig.raw.xlen(rig.key("events")) <= 250


def test_large_payload_is_stored_byte_for_byte(rig):
    data = b'"' + bytes(range(32, 127)).replace(b'"', b"").replace(b"\\", b"") * 10_000 + b'"'
    rig.add(data=data)
    assert rig.lease_job().fields[b"data"] == data
