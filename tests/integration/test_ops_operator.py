"""What an operator does to single jobs and to many: promote, reprocess, change_*, update_data, logs, events."""

from __future__ import annotations

import pytest

from heavyq.bullmq import ops
from heavyq.errors import BadValue, NoSuchJob, UsageError, WrongState
from tests.support.ops import Rig


@pytest.fixture
def rig(client, raw, q) -> Rig:
    return Rig(client, raw, q)


def fail_one(rig: Rig, **options) -> str:
    rig.add(**options)
    lease = rig.lease()
    assert rig.settle("fail", lease) == "settled"
    return lease.job_id


VERBS = {
    "promote": ops.promote,
    "change_delay": lambda q, job_id: ops.change_delay(q, job_id, delay_ms=5, now_ms=1),
    "change_priority": lambda q, job_id: ops.change_priority(q, job_id, priority=1),
    "update_data": lambda q, job_id: ops.update_data(q, job_id, b"1"),
    "add_log": lambda q, job_id: ops.add_log(q, job_id, "row", keep=None),
    "reprocess": lambda q, job_id: ops.reprocess(q, job_id, state="failed"),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("job_id", ["none", "meta", "wait", "events", "repeat:s", "dn:d", "é\udcff"])
def test_what_is_no_job_is_told_and_nothing_written(rig, verb, job_id):
    rig.add()
    rig.raw.hset(rig.key("repeat:s"), mapping={"name": "tick", "every": "5", "ic": "1"})
    rig.raw.hset(rig.key("dn:d"), mapping={"name": "kept", "data": "{}", "opts": "{}"})
    before = rig.dump()
    with pytest.raises(NoSuchJob):
        rig.run(VERBS[verb](rig.q, job_id))
    assert rig.dump() == before


@pytest.mark.parametrize("verb", ["promote", "change_delay", "reprocess"])
def test_a_job_in_another_state_is_told_and_nothing_written(rig, verb):
    rig.add()
    rig.lease()
    before = rig.dump()
    with pytest.raises(WrongState, match="it is active") as refused:
        rig.run(VERBS[verb](rig.q, "1"))
    assert (refused.value.job_id, refused.value.state) == ("1", "active")
    assert rig.dump() == before


# -- where jobs wait


def test_promote(rig):
    rig.add(delay_ms=500)
    rig.add(delay_ms=400, priority=2)
    rig.raw.delete(rig.key("marker"))
    rig.run(ops.promote(rig.q, "1"))
    rig.run(ops.promote(rig.q, "2"))
    assert rig.list("wait") == ["1"]
    assert list(rig.zset("prioritized")) == ["2"]
    assert rig.field("1", "delay") == rig.field("2", "delay") == "0"
    assert rig.zset("marker") == {"0": 0.0}
    assert rig.events()[-1] == {"event": "waiting", "jobId": "2", "prev": "delayed"}


def test_a_changed_delay_keeps_the_order_of_jobs_of_one_moment(rig):
    for _ in range(3):
        rig.add(delay_ms=500)
    rig.run(ops.change_delay(rig.q, "1", delay_ms=500, now_ms=rig.now))
    assert list(rig.zset("delayed")) == ["2", "3", "1"]
    rig.run(ops.change_delay(rig.q, "3", delay_ms=100, now_ms=rig.now))
    assert rig.zset("marker")["1"] == rig.now + 100
    assert rig.field("3", "delay") == "100"
    assert rig.events()[-1] == {"event": "delayed", "jobId": "3", "delay": str(rig.now + 100)}


@pytest.mark.parametrize("delay_ms", [-1, 2**53])
def test_delays_that_no_score_can_hold_are_refused(rig, delay_ms):
    with pytest.raises(BadValue):
        ops.change_delay(rig.q, "1", delay_ms=delay_ms, now_ms=rig.now)


@pytest.mark.parametrize("priority", [-1, 2**21])
def test_priorities_out_of_range_are_refused(rig, priority):
    with pytest.raises(BadValue):
        ops.change_priority(rig.q, "1", priority=priority)


@pytest.mark.parametrize("lifo", [False, True])
def test_a_job_that_bullmq_5_moved_aside_changes_its_priority(rig, lifo):
    for _ in range(3):
        rig.add()
    rig.raw.rename(rig.key("wait"), rig.key("paused"))
    rig.meta(paused=1)
    rig.run(ops.change_priority(rig.q, "2", priority=0, lifo=lifo))
    assert rig.list("paused") == (["3", "1", "2"] if lifo else ["2", "3", "1"])
    rig.run(ops.change_priority(rig.q, "1", priority=9))
    assert list(rig.zset("prioritized")) == ["1"]
    assert not rig.exists("wait")


def test_a_priority_before_its_equals_wakes_a_worker(rig):
    rig.add(priority=5)
    rig.add(priority=5)
    rig.raw.delete(rig.key("marker"))
    rig.run(ops.change_priority(rig.q, "2", priority=5, lifo=True))
    assert list(rig.zset("prioritized")) == ["2", "1"]
    assert rig.zset("marker") == {"0": 0.0}


# -- jobs that are over run again


def test_reprocess_forgets_the_end_and_keeps_the_attempts(rig):
    job_id = fail_one(rig, opts=b'{"attempts":3}')
    rig.run(ops.reprocess(rig.q, job_id, state="failed"))
    found = rig.hash(job_id)
    assert not found.keys() & {"finishedOn", "processedOn", "failedReason"}
    assert (found["atm"], found["ats"]) == ("1", "1")
    assert "hq:failure" in found
    assert "stacktrace" in found
    assert rig.list("wait") == [job_id]
    assert rig.settle("complete", rig.lease()) == "settled"


def test_reprocess_with_the_attempts_anew_forgets_what_is_known_by_the_runs_number(rig):
    job_id = fail_one(rig)
    rig.run(ops.reprocess(rig.q, job_id, state="failed", reset_attempts=True))
    assert not rig.hash(job_id).keys() & {"atm", "ats", "hq:failure", "hq:usage"}
    job = rig.lease_job()
    assert job.lease.started == 1


def test_a_settle_that_is_repeated_after_a_reprocess_changes_nothing(rig):
    rig.add()
    lease = rig.lease()
    rig.settle("fail", lease)
    rig.run(ops.reprocess(rig.q, lease.job_id, state="failed"))
    before = rig.dump()
    assert rig.settle("fail", lease) == "settled"
    assert rig.dump() == before


@pytest.mark.parametrize(("opts", "order"), [(b'{"lifo":true}', "first"), (b"{}", "last"), (b"not JSON", "last")])
def test_lifo_counts_for_a_job_that_runs_again(rig, opts, order):
    job_id = fail_one(rig, opts=opts)
    rig.add()
    rig.run(ops.reprocess(rig.q, job_id, state="failed"))
    assert rig.list("wait") == (["2", job_id] if order == "first" else [job_id, "2"])


def test_retry_jobs_in_batches_each_by_its_priority(rig):
    for n in range(5):
        fail_one(rig, priority=n % 2)
        rig.now += 10
    assert rig.run(ops.retry_jobs(rig.q, state="failed", count=2)) is True
    assert rig.list("wait") == ["1"]
    assert list(rig.zset("prioritized")) == ["2"]
    assert rig.run(ops.retry_jobs(rig.q, state="failed", until_ms=rig.now - 11)) is False
    assert list(rig.zset("failed")) == ["5"]
    assert rig.run(ops.retry_jobs(rig.q, state="failed", count=1)) is False
    assert [rig.lease().job_id for _ in range(5)] == ["1", "3", "5", "2", "4"]


def test_retry_jobs_by_id_leaves_the_others(rig):
    for _ in range(4):
        fail_one(rig)
    op = ops.retry_jobs(rig.q, state="failed", ids=["3", "none", "1"], reset_attempts=True)
    assert rig.run(op) is False
    assert rig.list("wait") == ["1", "3"]
    assert list(rig.zset("failed")) == ["2", "4"]
    before = rig.dump()
    rig.run(op)
    assert rig.dump() == before, "safe to repeat"
    assert rig.run(ops.retry_jobs(rig.q, state="failed", ids=[])) is False
    assert list(rig.zset("failed")) == ["2", "4"]


@pytest.mark.parametrize("options", [{"count": 0}, {"count": 1001}, {"ids": ["x"] * 1001}])
def test_no_call_retries_more_than_a_thousand(rig, options):
    with pytest.raises(UsageError):
        ops.retry_jobs(rig.q, state="failed", **options)


def test_an_id_without_a_job_is_dropped_when_many_run_again(rig):
    rig.raw.zadd(rig.key("failed"), {"ghost": 1})
    rig.raw.zadd(rig.key("delayed"), {"ghost": 1})
    fail_one(rig)
    rig.run(ops.retry_jobs(rig.q, state="failed"))
    rig.run(ops.promote_jobs(rig.q))
    assert rig.list("wait") == ["1"]
    assert not rig.exists("ghost")


def test_promote_jobs_in_batches_by_priority_and_without_a_delay_left(rig):
    for n in range(5):
        rig.add(delay_ms=1000 + n, priority=n % 2)
    assert rig.run(ops.promote_jobs(rig.q, count=2)) is True
    assert rig.run(ops.promote_jobs(rig.q, count=3)) is False
    assert rig.list("wait") == ["5", "3", "1"]
    assert list(rig.zset("prioritized")) == ["2", "4"]
    assert {rig.field(str(n), "delay") for n in range(1, 6)} == {"0"}
    assert rig.run(ops.promote_jobs(rig.q)) is False
    for count in (0, 1001):
        with pytest.raises(UsageError):
            ops.promote_jobs(rig.q, count=count)


# -- what a job holds


def test_data_is_written_as_given(rig):
    rig.add()
    rig.run(ops.update_data(rig.q, "1", '{"a":[],"é":1.0e400}'.encode()))
    assert rig.field("1", "data") == '{"a":[],"é":1.0e400}'


def test_log_rows(rig):
    rig.add()
    assert [rig.run(ops.add_log(rig.q, "1", f"é {n}", keep=None)) for n in range(3)] == [1, 2, 3]
    assert rig.run(ops.add_log(rig.q, "1", "last", keep=2)) == 2
    assert rig.run(ops.logs(rig.q, "1")).rows == ("é 2", "last")
    rig.run(ops.clear_logs(rig.q, "1", keep=1))
    assert rig.run(ops.logs(rig.q, "1")).rows == ("last",)
    rig.run(ops.clear_logs(rig.q, "1", keep=None))
    assert not rig.exists("1:logs")
    assert rig.run(ops.add_log(rig.q, "1", "none", keep=0)) == 0
    assert not rig.exists("1:logs")


# -- events and numbers


@pytest.mark.parametrize("event", ["", "completed", "progress", "waiting", "debounced"])
def test_no_event_is_told_under_a_name_of_bullmqs(rig, event):
    with pytest.raises(UsageError):
        ops.emit(rig.q, event, {})


def test_events_of_ones_own(rig):
    with pytest.raises(UsageError):
        ops.emit(rig.q, "mine", {"event": "completed"})
    event_id = rig.run(ops.emit(rig.q, "mine", {"é": ""}))
    assert rig.raw.xrange(rig.key("events"), event_id, event_id)
    assert rig.events() == [{"event": "mine", "é": ""}]
    for _ in range(300):
        rig.run(ops.emit(rig.q, "mine", {}, events_kept=10))
    assert len(rig.events()) <= 110


def test_metrics_as_stored(rig):
    assert rig.run(ops.metrics(rig.q, "failed")) == ops.Metrics(0, 0, 0, (), 0)
    rig.raw.hset(rig.key("metrics:failed"), mapping={"count": 9, "prevTS": 1000, "prevCount": 8})
    rig.raw.rpush(rig.key("metrics:failed:data"), 3, 0, 5)
    assert rig.run(ops.metrics(rig.q, "failed", 0, 1)) == ops.Metrics(9, 1000, 8, (3, 0), 3)


def test_counts_by_priority(rig):
    for priority in (0, 1, 1, 2**21 - 1):
        rig.add(priority=priority)
    rig.raw.lpush(rig.key("paused"), "x")
    assert rig.run(ops.priority_counts(rig.q, [0, 1, 2, 2**21 - 1])) == {0: 2, 1: 2, 2: 0, 2**21 - 1: 1}
    assert rig.run(ops.priority_counts(rig.q, [])) == {}


def test_keys_of_other_features_are_no_queues(rig, client):
    # conformance: C-010
    rig.run(ops.open_queue(rig.q))
    prefix = rig.q.prefix
    rig.raw.sadd(f"{prefix}::relay:namespaces", "x")
    for key in (f"{prefix}::relay:{{x}}:meta", f"{prefix}::meta", f"{prefix}:q:repeat:x:meta"):
        rig.raw.hset(key, "paused", "1")
    assert client.scan_queues(prefix) == [rig.q]
