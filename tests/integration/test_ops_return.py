"""retry, delay and hand_back: where the job waits again, and what is written and told on the way."""

from __future__ import annotations

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.job_hash import strikes
from heavyq.bullmq.lease import LeaseRefused, NothingToLease
from heavyq.bullmq.ops.common import DUE_MS_MAX
from heavyq.errors import RedisReplyError
from tests.support.ops import FAILURE, NOW_MS, USAGE, Rig


@pytest.fixture
def rig(client, raw, q) -> Rig:
    return Rig(client, raw, q)


def test_retry_writes_the_failure_and_waits_behind_the_others(rig):
    rig.add()
    rig.add()
    lease = rig.lease()
    rig.run(ops.checkpoint(lease, b"3"))
    rig.forget_events()
    rig.raw.delete(rig.key("marker"))
    assert rig.settle("retry", lease, failed_reason="bööm", stacktrace=b'["E: b"]') == "settled"
    assert rig.list("wait") == ["1", "2"]
    assert rig.zset("marker") == {"0": 0.0}
    assert rig.events() == [{"event": "waiting", "jobId": "1", "prev": "active"}]
    assert rig.hash("1") == {
        "name": "job",
        "data": "{}",
        "opts": "{}",
        "timestamp": str(NOW_MS),
        "delay": "0",
        "priority": "0",
        "processedOn": str(NOW_MS),
        "ats": "1",
        "atm": "1",
        "failedReason": "bööm",
        "stacktrace": '["E: b"]',
        "hq:failure": FAILURE.decode(),
        "hq:usage": USAGE.decode(),
        "hq:settled": lease.token,
        "hq:checkpoint": "3",
    }


def test_lifo_retry_runs_next(rig):
    rig.add()
    rig.add()
    rig.settle("retry", rig.lease(), lifo=True)
    assert rig.list("wait") == ["2", "1"]


@pytest.mark.parametrize("lifo", [False, True])
def test_retry_of_a_prioritized_job_goes_behind_its_priority(rig, lifo):
    rig.add(priority=3)
    rig.add(priority=3)
    rig.settle("retry", rig.lease(), lifo=lifo)
    assert rig.zset("prioritized") == {"2": 3 * 2**32 + 2, "1": 3 * 2**32 + 3}


def test_retry_promotes_what_is_due_first(rig):
    rig.add()
    lease = rig.lease()
    rig.add(delay_ms=5)
    rig.forget_events()
    rig.now += 5
    rig.settle("retry", lease)
    assert rig.list("wait") == ["1", "2"]
    assert [event["jobId"] for event in rig.events()] == ["2", "1"]


def test_lost_retry_promotes_nothing(rig):
    rig.add()
    lease = rig.lease()
    rig.add(delay_ms=5)
    rig.now += 5
    rig.raw.set(rig.key("1:lock"), "node:1")
    before = rig.dump()
    assert rig.settle("retry", lease) == "lost"
    assert rig.dump() == before


def test_delay_burns_an_attempt_and_names_the_moment(rig):
    rig.add()
    lease = rig.lease()
    rig.forget_events()
    rig.raw.delete(rig.key("marker"))
    rig.now += 3
    assert rig.settle("delay", lease, delay_ms=1000) == "settled"
    due = NOW_MS + 3 + 1000
    assert rig.zset("delayed") == {"1": due * 4096}
    assert rig.zset("marker") == {"1": due}
    assert rig.events() == [{"event": "delayed", "jobId": "1", "delay": str(due)}]
    assert rig.hash("1").items() >= {"delay": "1000", "atm": "1", "failedReason": "boom"}.items()
    rig.now = due - 1
    assert rig.try_lease() == NothingToLease(due)
    rig.now = due
    assert rig.lease().started == 2
    assert rig.field("1", "delay") == "0"


def test_delay_without_a_failure_burns_nothing_and_writes_no_failure(rig):
    rig.add()
    lease = rig.lease()
    nothing = {"failed_reason": None, "stacktrace": None, "failure": None, "usage": None}
    assert rig.settle("delay", lease, delay_ms=60_000, burn_attempt=False, **nothing) == "settled"
    assert not rig.hash("1").keys() & {"atm", "failedReason", "stacktrace", "hq:failure", "hq:usage"}
    assert rig.field("1", "hq:settled") == lease.token


def test_delay_after_a_death_of_memory_burns_nothing_and_writes_the_strikes(rig):
    rig.add()
    rig.settle("delay", rig.lease(), burn_attempt=False, delay_ms=0, strikes=1)
    found = rig.hash("1")
    assert (found["hq:strikes"], found["hq:failure"], "atm" in found) == ("1", FAILURE.decode(), False)
    reply = rig.lease_job()
    assert strikes(reply.fields) == 1
    rig.settle("delay", reply.lease, burn_attempt=False, delay_ms=0, strikes=strikes(reply.fields) + 1)
    assert rig.field("1", "hq:strikes") == "2"


def test_replayed_delay_does_not_turn_the_strikes_back(rig):
    rig.add()
    first = rig.lease()
    rig.settle("delay", first, delay_ms=0, strikes=1)
    rig.raw.hset(rig.key("1"), "hq:strikes", 2)
    before = rig.dump()
    assert rig.settle("delay", first, delay_ms=0, strikes=1) == "settled"
    assert rig.dump() == before


@pytest.mark.parametrize("verb", ["retry", "delay", "hand_back"])
def test_strikes_outlive_whatever_else_brings_the_job_back(rig, verb):
    rig.add()
    lease = rig.lease()
    rig.raw.hset(rig.key("1"), "hq:strikes", 2)
    rig.settle(verb, lease)
    assert rig.field("1", "hq:strikes") == "2"


def test_empty_reason_is_a_reason(rig):
    rig.add()
    rig.settle("delay", rig.lease(), failed_reason="")
    assert rig.field("1", "failedReason") == ""


def test_delayed_jobs_of_one_ms_keep_their_order(rig):
    for _ in range(3):
        rig.add()
    for lease in [rig.lease() for _ in range(3)]:
        rig.settle("delay", lease, delay_ms=7)
    first = (NOW_MS + 7) * 4096
    assert rig.zset("delayed") == {"1": first, "2": first + 1, "3": first + 2}


@pytest.mark.parametrize("delay_ms", [2**53, 10**300])
def test_delay_without_measure_is_cut_where_scores_end(rig, delay_ms):
    rig.add()
    assert rig.settle("delay", rig.lease(), delay_ms=delay_ms) == "settled"
    assert rig.zset("delayed") == {"1": DUE_MS_MAX * 4096}


def test_hand_back_goes_to_the_head_and_burns_no_attempt(rig):
    rig.add()
    rig.add()
    lease = rig.lease()
    rig.run(ops.checkpoint(lease, b"3"))
    rig.forget_events()
    rig.raw.delete(rig.key("marker"))
    assert rig.settle("hand_back", lease) == "settled"
    assert rig.list("wait") == ["2", "1"]
    assert rig.zset("marker") == {"0": 0.0}
    assert rig.events() == [{"event": "waiting", "jobId": "1", "prev": "active"}]
    found = rig.hash("1")
    assert "atm" not in found
    assert found["hq:checkpoint"] == "3"
    again = rig.lease()
    assert (again.job_id, again.started) == ("1", 2)
    assert again.fence > lease.fence


def test_hand_back_of_a_job_that_did_not_run_leaves_no_usage(rig):
    rig.add()
    rig.settle("hand_back", rig.lease(), usage=None)
    assert rig.field("1", "hq:usage") is None


def test_hand_back_of_a_prioritized_job_goes_before_its_priority_and_wakes(rig):
    rig.add(priority=3)
    rig.add(priority=3)
    lease = rig.lease()
    rig.raw.delete(rig.key("marker"))
    rig.settle("hand_back", lease)
    assert rig.zset("prioritized") == {"1": 3 * 2**32, "2": 3 * 2**32 + 2}
    assert rig.zset("marker") == {"0": 0.0}


def test_hand_back_may_limit_the_rate(rig):
    # conformance: C-111
    rig.add()
    rig.add()
    lease = rig.lease()
    assert rig.settle("hand_back", lease, limit_ms=50_000) == "settled"
    assert rig.list("wait") == ["2", "1"]
    assert rig.field("1", "atm") is None
    assert rig.text("limiter") == str(2**53 - 1)
    assert 0 < rig.raw.pttl(rig.key("limiter")) <= 50_000
    limited = rig.try_lease(limiter=(100, 1000))
    assert isinstance(limited, LeaseRefused)
    assert limited.wait_ms > 1000
    rig.raw.delete(rig.key("limiter"))
    assert rig.settle("hand_back", lease, limit_ms=50_000) == "settled"
    assert not rig.exists("limiter")  # a replay limits nobody again
    assert rig.lease().job_id == "1"


def test_a_limit_that_is_no_number_hands_nothing_back(rig):
    rig.add()
    lease = rig.lease()
    before = rig.dump()
    with pytest.raises(RedisReplyError, match="number"):
        rig.settle("hand_back", lease, limit_ms="soon")
    assert rig.dump() == before
    assert rig.settle("hand_back", lease, limit_ms=0) == "settled"
    assert rig.lease().job_id == "1"


@pytest.mark.parametrize(("verb", "at_head"), [("hand_back", True), ("retry", False)])
@pytest.mark.parametrize(
    ("version", "wait", "paused", "target"),
    [
        (None, [], [], "wait"),
        ("bullmq:6.7.0", [], [], "wait"),
        ("bullmq:5.81.5", [], [], "paused"),
        ("bullmq:5.81.5", ["a"], [], "wait"),
        (None, [], ["a"], "paused"),
        (None, ["a"], ["b"], "paused"),
    ],
)
def test_while_paused_the_list_in_use_is_kept(rig, verb, at_head, version, wait, paused, target):
    rig.add()
    lease = rig.lease()
    rig.raw.delete(rig.key("marker"))
    rig.meta(paused=1, **({"version": version} if version else {}))
    for name, items in (("wait", wait), ("paused", paused)):
        if items:
            rig.raw.rpush(rig.key(name), *items)
    rig.settle(verb, lease)
    expected = {"wait": [*wait], "paused": [*paused]}
    expected[target].insert(len(expected[target]) if at_head else 0, "1")
    assert {"wait": rig.list("wait"), "paused": rig.list("paused")} == expected
    assert not rig.exists("marker")


@pytest.mark.parametrize("verb", ["retry", "delay", "hand_back"])
def test_event_stream_is_trimmed(rig, verb):
    rig.meta(**{"opts.maxLenEvents": 50})
    rig.add()
    for _ in range(200):
        rig.settle(verb, rig.lease(), **({"delay_ms": 0} if verb == "delay" else {}))
    assert rig.raw.xlen(rig.key("events")) <= 200
