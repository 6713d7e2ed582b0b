"""cancel: a job that waits fails at once; a run hears of it, and a cancel is never lost with the run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.options import Keep
from heavyq.bullmq.parent import Parent
from heavyq.core.outcome import cancelled
from heavyq.errors import RedisReplyError, WrongState
from tests.support.ops import NOW_MS, Rig


@pytest.fixture
def rig(client, raw, q) -> Rig:
    return Rig(client, raw, q)


def cancel(rig: Rig, job_id: str = "1", reason: str = "not wanted", keep: Keep | None = None) -> ops.Cancelled:
    return rig.run(ops.cancel(rig.q, job_id, reason=reason, now_ms=rig.now, keep=keep or Keep()))


def renew(rig: Rig, *leases) -> ops.Renewed:
    return rig.run(ops.renew(rig.q, leases, lock_ms=30_000))


# -- a job that waits


@pytest.mark.parametrize(
    ("options", "prev"),
    [
        ({}, "waiting"),
        ({"lifo": True}, "waiting"),
        ({"priority": 3}, "prioritized"),
        ({"delay_ms": 1000}, "delayed"),
        ({"waits_for_children": True}, "waiting-children"),
    ],
)
def test_a_job_that_waits_fails_at_once(rig, options, prev):
    rig.add(job_id="before")
    rig.add(job_id="x", **options)
    rig.forget_events()
    rig.now += 5
    assert cancel(rig, "x") == "failed"
    found = rig.hash("x")
    failure = json.loads(found.pop("hq:failure"))
    assert (failure["ats"], failure["reason"]) == (0, "cancelled")
    assert found["failedReason"] == failure["detail"] == "cancelled: not wanted"
    assert found["finishedOn"] == str(NOW_MS + 5)
    assert "atm" not in found
    assert rig.zset("failed") == {"x": NOW_MS + 5}
    assert rig.list("wait") == ["before"]
    assert not any(rig.exists(key) for key in ("prioritized", "delayed", "waiting-children"))
    assert [list(event.values()) for event in rig.events()] == [["failed", "x", "cancelled: not wanted", prev]]
    assert cancel(rig, "x") == "over"


def test_a_job_that_a_pause_of_bullmq_5_has_moved_fails_too(rig):
    rig.add()
    rig.raw.rename(rig.key("wait"), rig.key("paused"))
    rig.meta(paused=1)
    assert cancel(rig) == "failed"
    assert not rig.exists("paused")


def test_a_job_between_two_attempts_keeps_what_its_runs_have_left(rig):
    rig.add()
    rig.settle("delay", rig.lease(), strikes=2)
    rig.raw.hset(rig.key("1"), "defa", "x")
    assert cancel(rig, reason="") == "failed"
    found = rig.hash("1")
    assert found.items() >= {"atm": "1", "ats": "1", "stacktrace": '["E: boom"]', "failedReason": "cancelled"}.items()
    assert json.loads(found["hq:failure"])["ats"] == 1
    assert not found.keys() & {"defa", "hq:strikes", "hq:cancel"}


def test_a_cancelled_job_is_kept_or_deleted_as_asked(rig):
    for _ in range(3):
        rig.add()
    assert cancel(rig, "1") == cancel(rig, "2", keep=Keep(1)) == "failed"
    assert list(rig.zset("failed")) == ["2"]
    assert not rig.exists("1")
    assert cancel(rig, "3", keep=Keep(0)) == "failed"
    assert not rig.exists("3")
    assert cancel(rig, "3") == "gone"


def test_the_books_of_its_parent_are_kept(rig, client, raw, prefix):
    home = Rig(client, raw, QueueKey(prefix, "home"))
    home.add(job_id="p", waits_for_children=True)
    home.add(job_id="p2", waits_for_children=True)
    rig.add(parent=Parent(home.q, "p", "fail"))
    rig.add(parent=Parent(home.q, "p2"))
    assert cancel(rig, "1") == "failed"
    assert home.field("p", "defa") == f"child {rig.key('1')} failed"
    assert cancel(rig, "2", keep=Keep(0)) == "failed"
    assert sorted(home.list("wait")) == ["p", "p2"]


def test_a_parent_that_is_cancelled_is_not_run_by_its_children(rig, client, raw, prefix):
    home = Rig(client, raw, QueueKey(prefix, "home"))
    home.add(job_id="p", waits_for_children=True)
    rig.add(parent=Parent(home.q, "p"))
    assert cancel(home, "p") == "failed"
    assert rig.settle("complete", rig.lease()) == "settled"
    assert list(home.zset("failed")) == ["p"]
    assert not home.exists("wait")


def test_its_deduplication_id_is_free(rig):
    rig.add()
    rig.raw.hset(rig.key("1"), "deid", "d")
    rig.raw.set(rig.key("de:d"), "1")
    assert cancel(rig) == "failed"
    assert not rig.exists("de:d")


def test_the_next_run_of_a_scheduler_is_not_cancelled(rig):
    scheduled = f"repeat:nightly:{NOW_MS}"
    rig.add(job_id="other", delay_ms=10)
    rig.raw.zadd(rig.key("repeat"), {"nightly": NOW_MS})
    for job_id in (scheduled, f"repeat:nightly:{NOW_MS - 1}"):  # the second is an earlier one, which waits for a retry
        rig.raw.hset(rig.key(job_id), mapping={"name": "n", "data": "{}", "opts": "{}", "rjk": "nightly"})
        rig.raw.lpush(rig.key("wait"), job_id)
    before = rig.dump()
    with pytest.raises(WrongState, match="remove the scheduler") as raised:
        cancel(rig, scheduled)
    assert raised.value.state == "scheduled"
    assert rig.dump() == before
    assert cancel(rig, f"repeat:nightly:{NOW_MS - 1}") == "failed"


@pytest.mark.parametrize("verb", ["complete", "fail"])
def test_a_job_that_has_ended_stays_as_it_is(rig, verb):
    rig.add()
    rig.settle(verb, rig.lease())
    before = rig.dump()
    assert cancel(rig) == "over"
    assert rig.dump() == before


def test_a_job_that_is_not_there_is_not_made(rig):
    assert cancel(rig, "nobody") == "gone"
    rig.raw.lpush(rig.key("active"), "ghost")
    assert cancel(rig, "ghost") == "gone"
    assert not rig.exists("ghost")


# -- a job that runs


def test_a_run_hears_of_it_with_its_next_renewal(rig):
    for _ in range(3):
        rig.add()
    leases = [rig.lease() for _ in range(3)]
    assert renew(rig, *leases) == ops.Renewed((), {})
    assert cancel(rig, "2", reason="nöt") == "asked"
    rig.raw.set(rig.key("3:lock"), "node:1")
    assert cancel(rig, "3") == "asked"
    assert rig.field("2", "failedReason") is None
    expected = ops.Renewed((leases[2].token,), {leases[1].token: "nöt"})
    assert renew(rig, *leases) == expected
    rig.expire_lock("2")
    assert renew(rig, *leases) == expected  # until it has stopped


def test_the_latest_reason_counts(rig):
    rig.add()
    lease = rig.lease()
    cancel(rig, reason="one")
    cancel(rig, reason="")
    assert renew(rig, lease).cancelled == {lease.token: ""}


@pytest.mark.parametrize("verb", ["complete", "fail"])
def test_an_end_takes_the_wish_with_it(rig, verb):
    rig.add()
    lease = rig.lease()
    cancel(rig)
    assert rig.settle(verb, lease) == "settled"
    assert rig.field("1", "hq:cancel") is None
    assert rig.field("1", "defa") is None


@pytest.mark.parametrize("reason", ["not wanted", ""])
@pytest.mark.parametrize("verb", ["retry", "delay", "hand_back", "wait_children", "sweep"])
def test_a_run_that_ends_before_it_hears_leaves_a_job_that_fails_when_it_is_leased(rig, verb, reason):
    rig.add()
    lease = rig.lease()
    cancel(rig, reason=reason)
    if verb == "sweep":
        rig.sweep()
        rig.expire_lock("1")
        assert rig.sweep() == ("1",)
    else:
        assert rig.settle(verb, lease) == "settled"
    assert rig.field("1", "hq:cancel") is None
    rig.now += 1000
    again = rig.lease_job()
    assert again.fields[b"defa"].decode() == cancelled(reason).detail
    assert renew(rig, again.lease).cancelled == {}


def test_a_wish_that_another_worker_left_behind_is_not_the_next_runs(rig):
    rig.add()
    rig.raw.hset(rig.key("1"), "hq:cancel", "of a run by BullMQ, which has ended")
    job = rig.lease_job()
    assert b"hq:cancel" not in job.fields
    assert renew(rig, job.lease).cancelled == {}


def test_cancel_checks_its_arguments_before_it_writes(rig):
    rig.add()
    op = ops.cancel(rig.q, "1", reason="x", now_ms=NOW_MS, keep=Keep())
    before = rig.dump()
    for n in (1, 3, 5):
        with pytest.raises(RedisReplyError, match="number"):
            rig.run(replace(op, args=(*op.args[:n], "x", *op.args[n + 1 :])))
    assert rig.dump() == before
