"""sweep, wake and open_queue; and what the server's Lua forbids."""

from __future__ import annotations

import pytest
import redis

from heavyq.bullmq import ops
from heavyq.bullmq.op import Op
from heavyq.errors import RedisReplyError
from tests.support.ops import NOW_MS, Rig

TOO_OFTEN = "job stalled more than allowable limit"


@pytest.fixture
def rig(client, raw, q) -> Rig:
    return Rig(client, raw, q)


def stall(rig: Rig, job_id: str, **options) -> tuple[str, ...]:
    rig.expire_lock(job_id)
    rig.sweep(**options)
    return rig.sweep(**options)


# -- sweep


def test_stalled_job_comes_back_at_the_second_look(rig):
    rig.add()
    rig.add()
    rig.lease()
    rig.expire_lock("1")
    rig.forget_events()
    rig.raw.delete(rig.key("marker"))
    assert rig.sweep() == ()
    assert rig.raw.smembers(rig.key("stalled")) == {b"1"}
    assert rig.list("active") == ["1"]
    assert rig.sweep() == ("1",)
    assert rig.list("wait") == ["2", "1"], "it runs next"
    assert not rig.exists("active")
    assert not rig.exists("stalled")
    assert rig.zset("marker") == {"0": 0.0}
    assert rig.events() == [
        {"event": "waiting", "jobId": "1", "prev": "active"},
        {"event": "stalled", "jobId": "1"},
    ]
    found = rig.hash("1")
    assert found["stc"] == "1"
    assert not found.keys() & {"hq:fence", "defa", "atm"}


def test_one_look_per_interval_for_the_fleet(rig):
    rig.sweep(interval_ms=60_000)
    assert rig.text("stalled-check") == str(NOW_MS)
    assert 0 < rig.raw.pttl(rig.key("stalled-check")) <= 60_000
    rig.add()
    rig.lease()
    rig.now += 5
    assert rig.sweep(look=False) == ()
    assert not rig.exists("stalled")
    assert rig.text("stalled-check") == str(NOW_MS)


def test_locked_jobs_stay_and_stay_suspects(rig):
    rig.add()
    lease = rig.lease()
    for _ in range(3):
        assert rig.sweep() == ()
    assert rig.list("active") == ["1"]
    rig.run(ops.renew(rig.q, [lease], lock_ms=1000))
    assert not rig.exists("stalled")


def test_renewal_between_two_looks_saves_the_job(rig):
    rig.add()
    lease = rig.lease()
    rig.expire_lock("1")
    rig.sweep()
    assert rig.run(ops.renew(rig.q, [lease], lock_ms=30_000)).lost == ()
    rig.expire_lock("1")
    assert rig.sweep() == (), "it has to be seen anew"
    assert rig.sweep() == ("1",)


def test_suspect_that_left_active_is_forgotten(rig):
    rig.add()
    lease = rig.lease()
    rig.sweep()
    rig.raw.sadd(rig.key("stalled"), "1", "elsewhere")
    rig.settle("complete", lease)
    rig.raw.sadd(rig.key("stalled"), "1")
    before = rig.hash("1")
    assert rig.sweep() == ()
    assert rig.hash("1") == before
    assert not rig.exists("elsewhere")
    assert not rig.exists("stalled")


@pytest.mark.parametrize(("limit", "stalls", "fails"), [(0, 1, True), (1, 1, False), (1, 2, True), (3, 3, False)])
def test_job_that_stalls_too_often_is_marked_to_fail(rig, limit, stalls, fails):
    rig.add()
    for _ in range(stalls):
        rig.lease()
        assert stall(rig, "1", limit=limit) == ("1",)
    assert rig.field("1", "stc") == str(stalls)
    assert rig.field("1", "defa") == (TOO_OFTEN if fails else None)
    assert rig.list("wait") == ["1"]
    fields = rig.lease_job().fields
    assert fields.get(b"defa") == (TOO_OFTEN.encode() if fails else None)


@pytest.mark.parametrize("by", ["hash", "zset"])
def test_job_of_a_living_scheduler_never_fails_for_its_stalls(rig, by):
    # conformance: C-090
    rig.add()
    rig.raw.hset(rig.key("1"), "rjk", "s")
    if by == "hash":
        rig.raw.hset(rig.key("repeat:s"), "ic", 1)
    else:
        rig.raw.zadd(rig.key("repeat"), {"s": 1})
    rig.lease()
    assert stall(rig, "1", limit=0) == ("1",)
    assert rig.field("1", "defa") is None


def test_job_of_a_dead_scheduler_fails_for_its_stalls(rig):
    rig.add()
    rig.raw.hset(rig.key("1"), "rjk", "s")
    rig.lease()
    stall(rig, "1", limit=0)
    assert rig.field("1", "defa") == TOO_OFTEN


def test_stalled_prioritized_job_goes_to_wait(rig):
    rig.add(priority=5)
    rig.lease()
    assert stall(rig, "1") == ("1",)
    assert rig.list("wait") == ["1"]
    assert not rig.exists("prioritized")


@pytest.mark.parametrize(("version", "target"), [("bullmq:6.7.0", "wait"), ("bullmq:5.81.5", "paused")])
def test_paused_queue_is_swept_too(rig, version, target):
    rig.add()
    rig.lease()
    rig.meta(paused=1, version=version)
    rig.raw.delete(rig.key("marker"))
    assert stall(rig, "1") == ("1",)
    assert rig.list(target) == ["1"]
    assert not rig.exists("marker")


def test_active_id_without_a_job_is_dropped_and_never_made(rig):
    rig.raw.rpush(rig.key("active"), "ghost", "0:5")
    rig.sweep()
    assert rig.sweep() == ()
    assert not any(rig.exists(name) for name in ("ghost", "0:5", "active", "wait", "stalled"))


def test_sweep_frees_the_place_at_the_global_concurrency(rig):
    rig.meta(concurrency=1)
    rig.add()
    rig.lease()
    rig.raw.delete(rig.key("marker"))
    stall(rig, "1")
    assert rig.zset("marker") == {"0": 0.0}


def test_sweep_copes_with_thousands(rig):
    jobs = [f"j{n}" for n in range(3000)]
    pipeline = rig.raw.pipeline(transaction=False)
    for job_id in jobs:
        pipeline.hset(rig.key(job_id), mapping={"name": "a", "data": "{}"})
    pipeline.execute()
    rig.raw.rpush(rig.key("active"), *jobs)
    rig.sweep()
    assert rig.raw.scard(rig.key("stalled")) == 3000
    assert sorted(rig.sweep()) == sorted(jobs)
    assert rig.raw.llen(rig.key("wait")) == 3000


def test_unreadable_stall_count_does_not_stop_the_sweep(rig):
    rig.add()
    rig.raw.hset(rig.key("1"), "stc", "x")
    rig.lease()
    assert stall(rig, "1") == ("1",)
    assert rig.field("1", "stc") == "1"


@pytest.mark.parametrize("place", [0, 1, 2])
def test_sweep_checks_its_arguments_before_it_writes(rig, place):
    op = ops.sweep(rig.q, now_ms=1, stalled_interval_ms=1, max_stalled_count=1)
    args = [*op.args]
    args[place] = ""
    with pytest.raises(RedisReplyError, match="must be a number"):
        rig.run(Op(op.verb, op.keys, tuple(args), op.read, op.replayable))
    assert rig.dump() == {}


def test_sweep_trims_the_stream(rig):
    rig.meta(**{"opts.maxLenEvents": 100})
    for _ in range(500):
        rig.raw.xadd(rig.key("events"), {"event": "x"})
    rig.sweep()
    assert rig.raw.xlen(rig.key("events")) <= 250


# -- wake


@pytest.mark.parametrize(
    ("jobs", "closed", "marker"),
    [
        ([], {}, {}),
        ([{}], {}, {"0": 0}),
        ([{"priority": 1}], {}, {"0": 0}),
        ([{"delay_ms": 9}, {"delay_ms": 7}], {}, {"1": NOW_MS + 7}),
        ([{}, {"delay_ms": 7}], {}, {"0": 0, "1": NOW_MS + 7}),
        ([{}, {"delay_ms": 7}], {"paused": 1}, {"1": NOW_MS + 7}),
        ([{}], {"concurrency": 0}, {}),
        ([{}], {"concurrency": 1}, {"0": 0}),
    ],
)
def test_wake_puts_back_the_markers_that_stand_for_something(rig, jobs, closed, marker):
    for options in jobs:
        rig.add(**options)
    if closed:
        rig.meta(**closed)
    rig.raw.delete(rig.key("marker"))
    before = rig.dump()
    assert rig.run(ops.wake(rig.q)) is None
    assert rig.zset("marker") == marker
    assert rig.dump() == {**before, **({"marker": marker} if marker else {})}


# -- open_queue


def test_open_queue_sets_the_stream_length_once_and_no_version(rig):
    assert rig.run(ops.open_queue(rig.q)) is None
    assert rig.dump() == {"meta": {"opts.maxLenEvents": "10000"}}
    rig.meta(**{"opts.maxLenEvents": 77, "version": "bullmq:5.81.5"})
    rig.run(ops.open_queue(rig.q))
    assert rig.dump() == {"meta": {"opts.maxLenEvents": "77", "version": "bullmq:5.81.5"}}


# -- the server


@pytest.mark.parametrize("script", ["return nosuchname", "leaked = 1"])
def test_server_refuses_globals_so_a_misspelt_name_cannot_pass(rig, script):
    with pytest.raises(redis.ResponseError):
        rig.raw.eval(script, 0)
