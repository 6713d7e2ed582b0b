"""lease: which job is next, its lock and fence, promotion, refusals, ghosts, replays."""

from __future__ import annotations

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.lease import LeasedJob, LeaseRefused, NothingToLease
from heavyq.bullmq.op import Op
from heavyq.errors import ProtocolError, RedisReplyError
from tests.support.ops import NOW_MS, Rig


@pytest.fixture
def rig(client, raw, q) -> Rig:
    return Rig(client, raw, q)


def test_leased_job_is_locked_active_and_fenced(rig):
    rig.add("a", data=b'{"x":1}', opts=b'{"attempts":2}', timestamp_ms=NOW_MS - 3)
    rig.forget_events()
    rig.raw.delete(rig.key("marker"))
    leased = rig.lease_job(token="hq:w1:9", lock_ms=30_000, worker_name="wk1")

    lease = leased.lease
    assert (lease.queue, lease.job_id, lease.token) == (rig.q, "1", "hq:w1:9")
    assert (lease.started, lease.processed_on_ms) == (1, NOW_MS)
    assert dict(leased.fields) == rig.raw.hgetall(rig.key("1"))
    assert 0 < rig.raw.pttl(rig.key("1:lock")) <= 30_000
    assert rig.dump() == {
        "id": "1",
        "meta": {"opts.maxLenEvents": "10000"},
        "1": {
            "name": "a",
            "data": '{"x":1}',
            "opts": '{"attempts":2}',
            "timestamp": str(NOW_MS - 3),
            "delay": "0",
            "priority": "0",
            "processedOn": str(NOW_MS),
            "pb": "wk1",
            "ats": "1",
            "hq:fence": str(lease.fence),
        },
        "1:lock": "hq:w1:9",
        "active": ["1"],
        "marker": {"0": 0.0},
        "hq:counter": str(lease.fence),
        "events": [{"event": "active", "jobId": "1", "prev": "waiting"}],
    }


def test_unnamed_worker_leaves_no_name(rig):
    rig.add()
    assert b"pb" not in rig.lease_job(worker_name=None).fields


def test_wait_goes_before_priorities_and_newest_stands_left_in_active(rig):
    rig.add(priority=2)
    rig.add(priority=1)
    rig.add()
    rig.add()
    assert [rig.lease().job_id for _ in range(4)] == ["3", "4", "2", "1"]
    assert rig.list("active") == ["1", "2", "4", "3"]
    assert [entry["prev"] for entry in rig.events() if entry["event"] == "active"] == ["waiting"] * 4


def test_priority_counter_goes_when_none_waits(rig):
    rig.add(priority=1)
    rig.lease()
    assert rig.exists("pc")
    assert rig.try_lease() == NothingToLease(None)
    assert not rig.exists("pc")


def test_empty_queue_is_left_alone(rig):
    assert rig.try_lease() == NothingToLease(None)
    assert rig.dump() == {}


def test_nothing_now_tells_when_the_next_is_due(rig):
    rig.add(delay_ms=500)
    rig.add(delay_ms=400)
    rig.add(delay_ms=400)
    rig.raw.zrem(rig.key("delayed"), "2")  # the earliest is then the second of its ms: a fraction
    assert rig.try_lease() == NothingToLease(NOW_MS + 400)


# -- fence


def test_fence_grows_with_every_lease_and_stays_exact(rig):
    for _ in range(20):
        rig.add()
    fences = [rig.lease().fence for _ in range(20)]
    assert fences == sorted(set(fences))
    assert all(fence < 2**53 for fence in fences)
    assert rig.text("hq:counter") == str(fences[-1])
    assert rig.field("20", "hq:fence") == str(fences[-1])


def test_fence_grows_past_the_clock_and_survives_the_loss_of_the_counter(rig):
    far = 2**53 - 1000
    rig.raw.set(rig.key("hq:counter"), far)
    rig.add()
    rig.add()
    assert rig.lease().fence == far + 1
    rig.raw.delete(rig.key("hq:counter"))
    seconds, micros = rig.raw.time()
    assert rig.lease().fence >= seconds * 1_000_000 + micros


def test_unreadable_counter_is_replaced(rig):
    rig.raw.set(rig.key("hq:counter"), "soon")
    rig.add()
    fence = rig.lease().fence
    assert rig.text("hq:counter") == str(fence)


def test_attempts_started_count_every_lease(rig):
    rig.add()
    for started in (1, 2, 3):
        lease = rig.lease()
        assert lease.started == started
        rig.settle("hand_back", lease)


@pytest.mark.parametrize(("stored", "next_started"), [("", 1), ("x", 1), ("7.5", 8), (" 3", 4), ("1e3", 2)])
def test_unreadable_attempts_do_not_stop_the_queue(rig, stored, next_started):
    rig.add()
    rig.raw.hset(rig.key("1"), "ats", stored)
    assert rig.lease().started == next_started


# -- promotion


def test_due_jobs_are_promoted_in_order_and_not_the_others(rig):
    rig.add(delay_ms=20)
    rig.add(delay_ms=10)
    rig.add(delay_ms=10, priority=4)
    rig.add(delay_ms=21)
    rig.forget_events()
    rig.now += 20
    assert rig.lease().job_id == "2"
    assert rig.list("wait") == ["1"]
    assert rig.zset("prioritized") == {"3": 4 * 2**32 + 1}
    assert list(rig.zset("delayed")) == ["4"]
    assert [rig.field(job_id, "delay") for job_id in "1234"] == ["0", "0", "0", "21"]
    assert rig.events() == [
        {"event": "waiting", "jobId": "2", "prev": "delayed"},
        {"event": "waiting", "jobId": "3", "prev": "delayed"},
        {"event": "waiting", "jobId": "1", "prev": "delayed"},
        {"event": "active", "jobId": "2", "prev": "waiting"},
    ]


@pytest.mark.parametrize("place", [0, 4095])
def test_job_is_due_in_its_whole_ms_and_not_before(rig, place):
    rig.add(delay_ms=20)
    rig.raw.zincrby(rig.key("delayed"), place, "1")
    rig.now += 19
    assert rig.try_lease() == NothingToLease(NOW_MS + 20)
    rig.now += 1
    assert rig.lease().job_id == "1"


def test_at_most_1000_jobs_are_promoted_at_once(rig):
    # conformance: C-039
    rig.client.run_many(
        [ops.add(rig.q, name="a", data=b"{}", opts=b"{}", timestamp_ms=NOW_MS, delay_ms=1) for _ in range(1001)]
    )
    rig.now += 1
    assert rig.lease().job_id == "1"
    assert rig.raw.llen(rig.key("wait")) == 999
    assert list(rig.zset("delayed")) == ["1001"]


@pytest.mark.parametrize(
    ("closed", "refusal"),
    [({"paused": 1}, 0), ({"concurrency": 0}, 0), ({"max": 1, "duration": 1000}, None)],
)
def test_due_jobs_are_promoted_even_when_none_may_start(rig, closed, refusal):
    rig.meta(**closed)
    if refusal is None:
        rig.raw.set(rig.key("limiter"), 1, px=50_000)
    rig.add(delay_ms=5)
    rig.now += 5
    reply = rig.try_lease()
    assert isinstance(reply, LeaseRefused)
    assert rig.list("wait") == ["1"]
    assert rig.zset("marker").get("0") == (0.0 if refusal is None else None)


def test_promotion_while_paused_keeps_the_list_in_use(rig):
    rig.meta(paused=1, version="bullmq:5.81.5")
    rig.add(delay_ms=5)
    rig.add(delay_ms=5)
    rig.now += 5
    rig.try_lease()
    assert rig.list("paused") == ["2", "1"]
    assert not rig.exists("wait")


def test_delayed_id_without_a_job_is_dropped(rig):
    rig.raw.zadd(rig.key("delayed"), {"ghost": 1})
    assert rig.try_lease() == NothingToLease(None)
    assert not rig.exists("ghost")
    assert not rig.exists("delayed")
    assert not rig.exists("wait")


# -- refusals


def test_paused_queue_is_refused_whatever_the_value(rig):
    rig.add()
    rig.meta(paused="")
    assert rig.try_lease() == LeaseRefused(0)
    assert rig.list("wait") == ["1"]


def test_paused_list_is_never_leased_from(rig):
    rig.raw.rpush(rig.key("paused"), "a")
    assert rig.try_lease() == NothingToLease(None)


def test_global_concurrency_is_obeyed(rig):
    rig.meta(concurrency=2)
    for _ in range(3):
        rig.add()
    leases = [rig.lease(), rig.lease()]
    assert rig.try_lease() == LeaseRefused(0)
    rig.settle("complete", leases[0])
    assert rig.lease().job_id == "3"


def test_marker_is_set_after_a_lease_even_at_the_concurrency(rig):
    rig.meta(concurrency=1)
    rig.add()
    rig.raw.delete(rig.key("marker"))
    rig.lease()
    assert rig.zset("marker") == {"0": 0.0}


def test_rate_limit_counts_starts_and_refuses_with_the_wait(rig):
    rig.meta(max=2, duration=60_000)
    for _ in range(3):
        rig.add()
    rig.lease()
    assert 0 < rig.raw.pttl(rig.key("limiter")) <= 60_000
    rig.lease()
    assert rig.text("limiter") == "2"
    reply = rig.try_lease()
    assert isinstance(reply, LeaseRefused)
    assert 0 < reply.wait_ms <= 60_000
    rig.raw.delete(rig.key("limiter"))
    assert isinstance(rig.try_lease(), LeasedJob)


def test_rate_limit_is_told_before_pause(rig):
    rig.meta(max=1, duration=60_000, paused=1)
    rig.raw.set(rig.key("limiter"), 1, px=50_000)
    reply = rig.try_lease()
    assert isinstance(reply, LeaseRefused)
    assert reply.wait_ms > 0


def test_manual_rate_limit_blocks_only_a_queue_with_a_limit(rig):
    rig.add()
    rig.add()
    rig.raw.set(rig.key("limiter"), 9007199254740991, px=50_000)
    assert isinstance(rig.try_lease(), LeasedJob)
    rig.meta(max=5, duration=1000)
    assert isinstance(rig.try_lease(), LeaseRefused)


def test_a_workers_limit_counts_starts_and_lives_for_its_window(rig):
    # conformance: C-108
    for _ in range(3):
        rig.add()
    limiter = (2, 60_000)
    rig.lease(limiter=limiter)
    rig.lease()  # a worker without a limit counts nothing
    assert rig.text("limiter") == "1"
    assert 0 < rig.raw.pttl(rig.key("limiter")) <= 60_000
    rig.raw.set(rig.key("limiter"), 2, px=50_000)
    reply = rig.try_lease(limiter=limiter)
    assert isinstance(reply, LeaseRefused)
    assert 0 < reply.wait_ms <= 50_000
    assert isinstance(rig.try_lease(), LeasedJob)


@pytest.mark.parametrize(("limiter", "window_ms"), [((5, 60_000), 60_000), (None, 1000)])
def test_the_queues_limit_goes_before_the_workers_and_the_workers_window_before_the_queues(rig, limiter, window_ms):
    rig.meta(max=1, duration=1000)
    rig.add()
    rig.add()
    rig.lease(limiter=limiter)
    assert window_ms / 2 < rig.raw.pttl(rig.key("limiter")) <= window_ms
    assert isinstance(rig.try_lease(limiter=limiter), LeaseRefused)


@pytest.mark.parametrize("bad", [("x", 1000), (5, "x")])
def test_a_limit_that_is_no_number_takes_no_job(rig, bad):
    rig.add()
    before = rig.dump()
    with pytest.raises(RedisReplyError, match="number"):
        rig.try_lease(limiter=bad)
    assert rig.dump() == before


def test_limiter_without_an_end_does_not_limit(rig):
    rig.meta(max=1, duration=60_000)
    rig.raw.set(rig.key("limiter"), 3)
    rig.add()
    assert isinstance(rig.try_lease(), LeasedJob)
    assert rig.text("limiter") == "4"


def test_limit_without_a_window_counts_nothing(rig):
    rig.meta(max=1)
    rig.add()
    rig.lease()
    assert not rig.exists("limiter")


def test_deferred_failure_stays_in_the_hash_and_is_not_counted(rig):
    # conformance: C-109
    rig.meta(max=1, duration=60_000)
    rig.add()
    rig.raw.hset(rig.key("1"), "defa", "child x failed")
    assert rig.lease_job().fields[b"defa"] == b"child x failed"
    assert not rig.exists("limiter")


# -- bad data


def test_ids_without_a_job_are_dropped_and_never_made(rig):
    rig.add()
    rig.add(priority=1)
    rig.raw.rpush(rig.key("wait"), "ghost", "0:7")
    rig.raw.zadd(rig.key("prioritized"), {"ghost2": 1})
    assert [rig.lease().job_id for _ in range(2)] == ["1", "2"]
    assert rig.try_lease() == NothingToLease(None)
    assert rig.list("active") == ["2", "1"]
    assert not any(rig.exists(ghost) for ghost in ("ghost", "ghost2", "0:7", "ghost:lock", "wait", "prioritized"))


def test_thousands_of_ghosts_do_not_block_the_server_and_are_worked_off(rig):
    rig.add()
    rig.raw.rpush(rig.key("wait"), *(f"g{n}" for n in range(2500)))
    rig.raw.delete(rig.key("marker"))
    assert rig.try_lease() == NothingToLease(None)
    assert rig.zset("marker") == {"0": 0.0}, "somebody has to go on"
    assert rig.raw.llen(rig.key("wait")) == 1501
    assert rig.try_lease() == NothingToLease(None)
    assert rig.lease().job_id == "1"


def test_id_whose_key_is_no_hash_is_dropped(rig):
    rig.raw.set(rig.key("x"), "text")
    rig.raw.rpush(rig.key("wait"), "x")
    assert rig.try_lease() == NothingToLease(None)
    assert rig.text("x") == "text"
    assert not rig.exists("active")


def test_minimal_hash_is_leased(rig):
    rig.raw.hset(rig.key("m"), mapping={"name": "a", "data": "{}"})
    rig.raw.rpush(rig.key("wait"), "m")
    assert rig.lease().job_id == "m"


def test_id_that_is_no_utf8_is_leased_and_settled(rig):
    rig.raw.hset(rig.key("").encode() + b"\xff\xfe", mapping={"name": "a", "data": "{}"})
    rig.raw.rpush(rig.key("wait"), b"\xff\xfe")
    lease = rig.lease()
    assert rig.run(ops.renew(rig.q, [lease], lock_ms=1000)).lost == ()
    assert rig.settle("complete", lease) == "settled"
    assert rig.raw.zrange(rig.key("completed"), 0, -1) == [b"\xff\xfe"]


def test_old_lock_of_a_removed_job_is_replaced(rig):
    rig.add(job_id="x")
    rig.raw.set(rig.key("x:lock"), "stale")
    lease = rig.lease()
    assert rig.text("x:lock") == lease.token


# -- replay


def test_replay_returns_the_job_that_the_lost_reply_named(rig):
    for _ in range(3):
        rig.add()
    first = rig.lease_job(token="hq:w1:a")
    rig.lease(token="hq:w1:b")
    before = rig.dump()
    assert rig.lease_job(token="hq:w1:a", replay=True, now_ms=NOW_MS + 50) == first
    assert rig.dump() == before


def test_replay_finds_its_job_among_many(rig):
    token = "hq:w1:first"
    rig.add()
    lease = rig.lease(token=token)
    for n in range(250):
        rig.raw.lpush(rig.key("active"), f"other{n}")
    assert rig.lease(token=token, replay=True) == lease


def test_replay_leases_if_the_first_call_did_not_arrive(rig):
    rig.add()
    rig.add()
    rig.lease(token="hq:w1:a")
    assert rig.lease(token="hq:w1:b", replay=True).job_id == "2"
    assert rig.try_lease(token="hq:w1:c", replay=True) == NothingToLease(None)


def test_replay_after_the_lock_is_gone_takes_another_job(rig):
    rig.add()
    rig.add()
    rig.lease(token="hq:w1:a")
    rig.expire_lock("1")
    assert rig.lease(token="hq:w1:a", replay=True).job_id == "2"


def test_replay_after_the_job_was_removed_takes_another_job(rig):
    rig.add()
    rig.add()
    rig.lease(token="hq:w1:a")
    rig.raw.delete(rig.key("1"))
    assert rig.lease(token="hq:w1:a", replay=True).job_id == "2"
    assert not rig.exists("1")


@pytest.mark.parametrize("token", ["", "0"])
def test_word_for_no_lock_is_no_token(rig, token):
    with pytest.raises(ProtocolError):
        ops.lease(rig.q, token=token, now_ms=NOW_MS, lock_ms=1000, worker_name=None)


@pytest.mark.parametrize("place", [1, 2])
def test_script_checks_its_arguments_before_it_writes(rig, place):
    rig.add()
    before = rig.dump()
    op = ops.lease(rig.q, token="hq:w1:1", now_ms=NOW_MS, lock_ms=1000, worker_name=None)
    args = [*op.args]
    args[place] = ""
    with pytest.raises(RedisReplyError, match="must be a number"):
        rig.run(Op(op.verb, op.keys, tuple(args), op.read, op.replayable))
    assert rig.dump() == before
