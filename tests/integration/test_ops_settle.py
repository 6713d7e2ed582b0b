"""What all five settles share: who may write, what a second call does, what is left of the lease."""

from __future__ import annotations

from dataclasses import replace

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.op import Op
from heavyq.bullmq.options import Keep
from heavyq.errors import ProtocolError, RedisReplyError
from tests.support.ops import SETTLES, Rig, read_json

every_settle = pytest.mark.parametrize("verb", SETTLES)


@pytest.fixture
def rig(client, raw, q) -> Rig:
    return Rig(client, raw, q)


@pytest.fixture
def lease(rig):
    rig.add(opts=b'{"attempts":3}')
    rig.add("another")
    return rig.lease(worker_name="w")


@every_settle
def test_settle_ends_the_lease(rig, lease, verb):
    rig.raw.sadd(rig.key("stalled"), "1", "2")
    assert rig.settle(verb, lease) == "settled"
    assert not rig.exists("1:lock")
    assert not rig.exists("active")
    assert rig.raw.smembers(rig.key("stalled")) == {b"2"}
    assert rig.field("1", "hq:fence") is None
    assert rig.field("1", "hq:settled") == lease.token
    assert read_json(rig.field("1", "hq:usage")) == {"ats": 1}
    assert rig.field("1", "opts") == '{"attempts":3}', "options are never rewritten"


@every_settle
def test_second_call_changes_nothing_and_says_the_same(rig, lease, verb):
    rig.settle(verb, lease)
    before = rig.dump()
    rig.now += 5
    assert rig.settle(verb, lease) == "settled"
    assert rig.dump() == before


@every_settle
def test_second_call_after_others_ran_the_job_changes_nothing(rig, lease, verb):
    rig.settle("hand_back", lease)
    second = rig.lease()
    assert second.job_id == "1"
    before = rig.dump()
    assert rig.settle(verb, lease) == "settled"
    rig.settle("complete", second)
    before = rig.dump()
    assert rig.settle(verb, lease) == "lost"
    assert rig.dump() == before


@every_settle
def test_other_holder_means_lost_and_nothing_written(rig, lease, verb):
    rig.raw.set(rig.key("1:lock"), "node:7")
    before = rig.dump()
    assert rig.settle(verb, lease) == "lost"
    assert rig.dump() == before


@every_settle
def test_expired_lock_counts_while_the_job_is_still_ours(rig, lease, verb):
    rig.expire_lock("1")
    rig.raw.sadd(rig.key("stalled"), "1")
    assert rig.settle(verb, lease) == "settled"
    assert not rig.exists("stalled")
    assert not rig.exists("active")


@every_settle
@pytest.mark.parametrize("field", ["hq:fence", "ats", "processedOn", "finishedOn"])
def test_expired_lock_and_another_run_means_lost_and_nothing_written(rig, lease, verb, field):
    rig.expire_lock("1")
    rig.raw.hset(rig.key("1"), field, 17)
    before = rig.dump()
    assert rig.settle(verb, lease) == "lost"
    assert rig.dump() == before


@every_settle
@pytest.mark.parametrize("lock_stands", [True, False])
def test_job_that_is_not_active_means_lost_and_nothing_written(rig, lease, verb, lock_stands):
    rig.raw.lrem(rig.key("active"), 0, "1")
    rig.raw.rpush(rig.key("wait"), "1")
    if not lock_stands:
        rig.expire_lock("1")
    before = rig.dump()
    assert rig.settle(verb, lease) == "lost"
    assert rig.dump() == before


@every_settle
def test_swept_job_is_lost_even_before_anybody_leases_it(rig, lease, verb):
    rig.expire_lock("1")
    rig.sweep()
    assert rig.sweep() == ("1",)
    before = rig.dump()
    assert rig.settle(verb, lease) == "lost"
    assert rig.dump() == before


@every_settle
def test_job_swept_and_leased_by_node_is_lost(rig, lease, verb):
    # conformance: C-092
    """Node's scripts leave hq:fence where it is: the attempts tell."""
    rig.expire_lock("1")
    rig.raw.hset(rig.key("1"), mapping={"ats": 2, "processedOn": lease.processed_on_ms})
    before = rig.dump()
    assert rig.settle(verb, lease) == "lost"
    assert rig.dump() == before


@every_settle
@pytest.mark.parametrize("still_active", [True, False])
def test_removed_job_is_gone_and_no_ghost_is_made(rig, lease, verb, still_active):
    # conformance: C-052
    rig.raw.delete(rig.key("1"))
    if not still_active:
        rig.raw.delete(rig.key("active"), rig.key("1:lock"))
    before = rig.dump()
    assert rig.settle(verb, lease) == "gone"
    assert rig.dump() == before


@every_settle
def test_job_removed_and_added_anew_is_lost(rig, verb):
    rig.add(job_id="x")
    old = rig.lease()
    rig.raw.delete(rig.key("x"), rig.key("x:lock"), rig.key("active"))
    rig.add(job_id="x")
    rig.lease()
    before = rig.dump()
    assert rig.settle(verb, old) == "lost"
    assert rig.dump() == before


@every_settle
def test_wrong_identity_without_a_lock_is_lost(rig, lease, verb):
    rig.expire_lock("1")
    before = rig.dump()
    for other in (
        replace(lease, fence=lease.fence + 1),
        replace(lease, started=2),
        replace(lease, processed_on_ms=lease.processed_on_ms + 1),
    ):
        assert rig.settle(verb, other) == "lost"
    assert rig.dump() == before


@every_settle
@pytest.mark.parametrize("started", ["retry", "fail", "complete", "delay", "hand_back"])
def test_settle_that_comes_after_another_of_the_same_lease_writes_nothing(rig, lease, started, verb):
    rig.settle(started, lease)
    before = rig.dump()
    assert rig.settle(verb, lease) == "settled"
    assert rig.dump() == before


@every_settle
def test_freed_place_at_the_global_concurrency_wakes_a_worker(rig, lease, verb):
    rig.meta(concurrency=1)
    rig.raw.delete(rig.key("marker"))
    assert rig.settle(verb, lease) == "settled"
    assert rig.zset("marker")["0"] == 0


@pytest.mark.parametrize("verb", ["complete", "fail", "delay"])
@pytest.mark.parametrize("closed", [{}, {"concurrency": 1, "paused": 1}])
def test_settle_sets_no_ready_marker_that_bullmq_would_not(rig, lease, verb, closed):
    if closed:
        rig.meta(**closed)
    rig.raw.delete(rig.key("marker"))
    rig.settle(verb, lease)
    assert "0" not in rig.zset("marker")


@every_settle
@pytest.mark.parametrize(("made", "expected"), [("x", 1), ("4", 5)])
def test_attempts_made_are_counted_as_each_outcome_says(rig, lease, verb, made, expected):
    rig.raw.hset(rig.key("1"), "atm", made)
    rig.settle(verb, lease)
    assert rig.field("1", "atm") == (made if verb in ("hand_back", "wait_children") else str(expected))


@every_settle
def test_bad_arguments_leave_no_trace(rig, lease, verb):
    before = rig.dump()
    op = rig.settle_op(verb, lease)
    odd = Op(op.verb, op.keys, op.args[:-1], op.read, op.replayable)
    with pytest.raises(RedisReplyError, match="pairs"):
        rig.run(odd)
    if verb != "hand_back":
        late = Op(op.verb, op.keys, (*op.args[:5], "", *op.args[6:]), op.read, op.replayable)
        with pytest.raises(RedisReplyError, match="must be a number"):
            rig.run(late)
    assert rig.dump() == before


@pytest.mark.parametrize("verb", ["complete", "fail"])
@pytest.mark.parametrize("place", [7, 8, 9])
def test_bad_retention_leaves_no_trace(rig, lease, verb, place):
    before = rig.dump()
    op = rig.settle_op(verb, lease, keep=Keep(1, 1, 1))
    args = [*op.args]
    args[place] = "some"
    with pytest.raises(RedisReplyError, match="must be a number"):
        rig.run(Op(op.verb, op.keys, tuple(args), op.read, op.replayable))
    assert rig.dump() == before


def test_strange_reply_is_a_bug_of_ours(rig, lease):
    op = rig.settle_op("complete", lease)
    for reply in (b"perhaps", 0, None, b"\xff"):
        with pytest.raises(ProtocolError):
            op.read(reply)
    with pytest.raises(ProtocolError):
        ops.lease(rig.q, token="t", now_ms=1, lock_ms=1, worker_name=None).read([b"perhaps"])


def test_every_settle_may_be_sent_again(rig, lease):
    assert all(rig.settle_op(verb, lease).replayable for verb in SETTLES)
