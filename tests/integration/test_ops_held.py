"""renew, progress, checkpoint and log: what the holder of a lease writes while the job runs."""

from __future__ import annotations

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.op import Op
from heavyq.errors import RedisReplyError, RedisUnavailable
from heavyq.store.client import Client
from tests.support.ops import SETTLES, Rig


@pytest.fixture
def rig(client, raw, q) -> Rig:
    return Rig(client, raw, q)


WRITES = {
    "progress": lambda lease: ops.progress(lease, b"50"),
    "checkpoint": lambda lease: ops.checkpoint(lease, b'{"frame":1}'),
    "log": lambda lease: ops.log(lease, ["row"], keep=None),
}
every_write = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)


def renew(rig: Rig, *leases, lock_ms: int = 30_000) -> tuple[str, ...]:
    return rig.run(ops.renew(rig.q, leases, lock_ms=lock_ms)).lost


# -- renew


def test_renewal_pushes_the_expiry_back_and_clears_the_suspicion(rig):
    rig.add()
    rig.add()
    first, second = rig.lease(lock_ms=1000), rig.lease(lock_ms=1000)
    rig.raw.sadd(rig.key("stalled"), "1", "2", "3")
    assert renew(rig, first, second, lock_ms=30_000) == ()
    for lease in (first, second):
        assert 29_000 < rig.raw.pttl(rig.key(f"{lease.job_id}:lock")) <= 30_000
        assert rig.text(f"{lease.job_id}:lock") == lease.token
    assert rig.raw.smembers(rig.key("stalled")) == {b"3"}


def test_renewal_may_shorten_the_lock(rig):
    rig.add()
    renew(rig, rig.lease(lock_ms=30_000), lock_ms=500)
    assert rig.raw.pttl(rig.key("1:lock")) <= 500


def test_renewal_tells_exactly_the_lost_leases(rig):
    # conformance: C-093
    for _ in range(6):
        rig.add()
    leases = [rig.lease() for _ in range(6)]
    rig.raw.set(rig.key("2:lock"), "node:1")  # another has it
    rig.expire_lock("3")
    rig.raw.lrem(rig.key("active"), 0, "3")  # it was swept
    rig.raw.delete(rig.key("4"), rig.key("4:lock"))  # it was removed with force
    rig.expire_lock("5")
    rig.raw.hset(rig.key("5"), "ats", 2)  # another ran it meanwhile
    rig.expire_lock("6")  # nobody had it: still ours
    before = rig.dump()
    assert renew(rig, *leases) == tuple(lease.token for lease in leases[1:5])
    assert rig.text("6:lock") == leases[5].token
    assert rig.dump() == {**before, "6:lock": leases[5].token}


def test_late_renewal_of_a_settled_job_makes_no_lock(rig):
    for verb in ("complete", "fail", "retry", "delay", "hand_back"):
        rig.add()
        lease = rig.lease()
        rig.settle(verb, lease)
        before = rig.dump()
        assert renew(rig, lease) == (lease.token,)
        assert rig.dump() == before
        rig.raw.delete(rig.key("wait"), rig.key("delayed"))


def test_late_renewal_does_not_touch_the_next_lease_of_the_job(rig):
    rig.add()
    old = rig.lease()
    rig.settle("hand_back", old)
    new = rig.lease()
    rig.expire_lock("1")
    assert renew(rig, old) == (old.token,)
    assert not rig.exists("1:lock")
    assert renew(rig, old, new) == (old.token,)


def test_renewal_of_nothing_and_of_many(rig):
    assert renew(rig) == ()
    assert rig.dump() == {}
    for _ in range(300):
        rig.add()
    leases = [rig.lease() for _ in range(300)]
    assert renew(rig, *leases, lock_ms=99_000) == ()
    assert rig.raw.pttl(rig.key("300:lock")) > 90_000


def test_renewal_checks_its_arguments_before_it_writes(rig):
    rig.add()
    rig.add()
    op = ops.renew(rig.q, [rig.lease(lock_ms=1000), rig.lease(lock_ms=1000)], lock_ms=50_000)
    with pytest.raises(RedisReplyError, match="five"):
        rig.run(Op(op.verb, op.keys, op.args[:-1], op.read, op.replayable))
    with pytest.raises(RedisReplyError, match="number"):
        rig.run(Op(op.verb, op.keys, ("", *op.args[1:]), op.read, op.replayable))
    assert rig.raw.pttl(rig.key("1:lock")) <= 1000


# -- progress, checkpoint, log


@pytest.mark.parametrize("value", [b"50", b"12.5", b'"half"', b'{"a":[]}', b"null", '"ö"'.encode()])
def test_progress_stands_in_the_hash_and_in_the_event(rig, value):
    rig.add()
    lease = rig.lease()
    rig.forget_events()
    assert rig.run(ops.progress(lease, value)) is True
    assert rig.field("1", "progress") == value.decode()
    assert rig.events() == [{"event": "progress", "jobId": "1", "data": value.decode()}]


def test_progress_trims_the_stream(rig):
    rig.meta(**{"opts.maxLenEvents": 100})
    rig.add()
    lease = rig.lease()
    rig.client.run_many([ops.progress(lease, b"%d" % n) for n in range(1000)])
    assert rig.raw.xlen(rig.key("events")) <= 250
    assert rig.field("1", "progress") == "999"


def test_checkpoint_is_found_by_the_next_run_until_the_job_is_completed(rig):
    rig.add()
    lease = rig.lease()
    rig.forget_events()
    assert rig.run(ops.checkpoint(lease, b'{"frame":3}')) is True
    assert rig.events() == []
    for verb in ("retry", "hand_back", "delay"):
        rig.settle(verb, lease, **({"delay_ms": 0} if verb == "delay" else {}))
        leased = rig.lease_job()
        lease = leased.lease
        assert leased.fields[b"hq:checkpoint"] == b'{"frame":3}'
    rig.settle("complete", lease)
    assert rig.field("1", "hq:checkpoint") is None


def test_log_keeps_order_and_bytes(rig):
    rig.add()
    lease = rig.lease()
    assert rig.run(ops.log(lease, ["one", "zwei ö"], keep=None)) is True
    assert rig.run(ops.log(lease, ["", "three\nlines\n"], keep=None)) is True
    assert rig.list("1:logs") == ["one", "zwei ö", "", "three\nlines\n"]


@pytest.mark.parametrize(("keep", "left"), [(None, 5), (0, 0), (1, 1), (3, 3), (99, 5)])
def test_log_keeps_the_newest_rows(rig, keep, left):
    rig.add()
    lease = rig.lease()
    rig.run(ops.log(lease, ["1", "2"], keep=keep))
    rig.run(ops.log(lease, ["3", "4", "5"], keep=keep))
    assert rig.list("1:logs") == ["1", "2", "3", "4", "5"][5 - left :]


def test_log_takes_thousands_of_rows_and_none(rig):
    rig.add()
    lease = rig.lease()
    assert rig.run(ops.log(lease, [], keep=None)) is True
    assert not rig.exists("1:logs")
    assert rig.run(ops.log(lease, [str(n) for n in range(12_345)], keep=10_000)) is True
    rows = rig.list("1:logs")
    assert (len(rows), rows[0], rows[-1]) == (10_000, "2345", "12344")


def test_log_rows_with_broken_text_are_written(rig):
    rig.add()
    assert rig.run(ops.log(rig.lease(), ["a\ud800b\udcffc"], keep=None)) is True
    assert rig.raw.llen(rig.key("1:logs")) == 1


def test_only_log_may_not_be_sent_again(rig):
    rig.add()
    lease = rig.lease()
    assert {name: write(lease).replayable for name, write in WRITES.items()} == {
        "progress": True,
        "checkpoint": True,
        "log": False,
    }


@every_write
def test_holder_may_write_after_its_lock_expired_while_the_job_is_still_its(rig, write):
    rig.add()
    lease = rig.lease()
    rig.expire_lock("1")
    assert rig.run(write(lease)) is True
    assert not rig.exists("1:lock"), "writing renews nothing"


def _taken_by_node(rig: Rig) -> None:
    rig.raw.set(rig.key("1:lock"), "node:1")


def _removed(rig: Rig) -> None:
    rig.raw.delete(rig.key("1"), rig.key("1:lock"), rig.key("active"))


def _removed_but_locked(rig: Rig) -> None:
    rig.raw.delete(rig.key("1"))


def _swept(rig: Rig) -> None:
    rig.expire_lock("1")
    rig.sweep()
    assert rig.sweep() == ("1",)


def _ran_elsewhere(rig: Rig) -> None:
    rig.expire_lock("1")
    rig.raw.hincrby(rig.key("1"), "ats", 1)


def _moved_with_its_lock(rig: Rig) -> None:
    rig.raw.delete(rig.key("active"))


@every_write
@pytest.mark.parametrize(
    "happens", [_taken_by_node, _removed, _removed_but_locked, _swept, _ran_elsewhere, _moved_with_its_lock]
)
def test_nothing_is_written_after_lost(rig, write, happens):
    rig.add()
    lease = rig.lease()
    happens(rig)
    before = rig.dump()
    assert rig.run(write(lease)) is False
    assert rig.dump() == before


@every_write
@pytest.mark.parametrize("verb", ["complete", "fail", "retry", "delay", "hand_back"])
def test_nothing_is_written_after_the_settle(rig, write, verb):
    rig.add()
    lease = rig.lease()
    rig.settle(verb, lease)
    before = rig.dump()
    assert rig.run(write(lease)) is False
    assert rig.dump() == before


def test_full_server_costs_no_lease_and_takes_every_outcome(own_valkey):
    """maxmemory reached, noeviction: what would be lost if it were refused is taken all the same."""
    server = own_valkey()
    client = Client(server.url)
    with server.redis() as raw:
        rig = Rig(client, raw, QueueKey("t", "q"))
        for _ in range(8):
            rig.add()
        leases = [rig.lease(lock_ms=5_000) for _ in range(7)]
        rig.expire_lock("1")  # the first of the batch needs a new key
        raw.config_set("maxmemory", 1)
        with pytest.raises(RedisUnavailable):
            rig.add()
        with pytest.raises(RedisUnavailable):
            rig.try_lease()
        assert renew(rig, *leases, lock_ms=60_000) == ()
        assert all(raw.pttl(rig.key(f"{lease.job_id}:lock")) > 50_000 for lease in leases)
        for verb, lease in zip(SETTLES, leases, strict=False):
            assert rig.settle(verb, lease) == "settled"
        raw.config_set("maxmemory", 0)
        assert rig.list("active") == ["7"]
        assert {rig.lease().job_id for _ in range(4)} == {"3", "5", "6", "8"}
    client.close()
