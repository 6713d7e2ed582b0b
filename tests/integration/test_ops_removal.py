"""remove, remove_pending_children, drain, clean, obliterate: exactly what may go goes, a thousand in one call."""

from __future__ import annotations

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.parent import Parent
from heavyq.errors import UsageError, WrongState
from tests.support.ops import Rig

DAY_MS = 86_400_000


@pytest.fixture
def rig(client, raw, q) -> Rig:
    return Rig(client, raw, q)


@pytest.fixture
def other(client, raw, q) -> Rig:
    return Rig(client, raw, QueueKey(q.prefix, "other"))


def remove(rig: Rig, job_id: str, **options) -> bool | None:
    return rig.run(ops.remove(rig.q, job_id, now_ms=rig.now, **options))


def clean(rig: Rig, state: str, *, grace_ms: int = 0, limit: int = 0) -> tuple[str, ...]:
    return rig.run(ops.clean(rig.q, state=state, grace_ms=grace_ms, limit=limit, now_ms=rig.now))


def drain(rig: Rig, *, delayed: bool = False) -> int:
    return rig.run(ops.drain(rig.q, delayed=delayed, now_ms=rig.now))


def add_parent(rig: Rig, job_id: str, parent: str | None = None, **options) -> str:
    above = Parent(rig.q, parent) if parent else None
    return rig.add(job_id=job_id, waits_for_children=True, parent=above, **options)


def add_many(rig: Rig, count: int, **options) -> list[str]:
    options.setdefault("timestamp_ms", rig.now)
    add = [ops.add(rig.q, name="job", data=b"{}", opts=b"{}", **options) for _ in range(count)]
    return [added.id for added in rig.client.run_many(add)]


def put_scheduled(rig: Rig, scheduler: str, *, at: int | None = None, in_set: str = "wait") -> str:
    """What a scheduler leaves: its plan, and its next job, in the middle of `wait` or in a set."""
    planned_ms = rig.now + 60_000
    job_id = f"repeat:{scheduler}:{planned_ms}"
    rig.raw.zadd(rig.key("repeat"), {scheduler: planned_ms})
    rig.raw.hset(rig.key(f"repeat:{scheduler}"), mapping={"name": "tick", "every": "60000", "ic": "1"})
    fields = {"name": "tick", "data": "{}", "opts": "{}", "timestamp": "1", "delay": "0", "priority": "0"}
    rig.raw.hset(rig.key(job_id), mapping={**fields, "rjk": scheduler})
    if in_set != "wait":
        rig.raw.zadd(rig.key(in_set), {job_id: planned_ms * 4096})
    elif at is None:
        rig.raw.lpush(rig.key("wait"), job_id)
    else:
        rig.raw.linsert(rig.key("wait"), "BEFORE", rig.list("wait")[at], job_id)
    return job_id


# -- remove


def test_a_removed_job_leaves_nothing(rig):
    rig.add(opts=b'{"attempts":2}')
    lease = rig.lease()
    rig.run(ops.log(lease, ["row"], keep=None))
    rig.settle("fail", lease)
    assert remove(rig, lease.job_id) is True
    assert not rig.raw.keys(rig.key("1*"))
    assert rig.events()[-1] == {"event": "removed", "jobId": "1", "prev": "failed"}
    before = rig.dump()
    assert remove(rig, lease.job_id) is True
    assert rig.dump() == before, "safe to repeat, without an event"


@pytest.mark.parametrize("job_id", ["meta", "wait", "id", "repeat:s", "events", "metrics:failed"])
def test_structures_of_the_queue_are_no_jobs_to_remove(rig, job_id):
    rig.add()
    put_scheduled(rig, "s")
    rig.raw.hset(rig.key("metrics:failed"), "count", 1)
    before = rig.dump()
    assert remove(rig, job_id) is True
    assert rig.dump() == before


def test_a_job_in_work_stays_and_a_dead_one_goes(rig):
    rig.meta(concurrency=1)
    rig.add()
    rig.add()
    lease = rig.lease()
    assert remove(rig, lease.job_id) is False
    rig.expire_lock(lease.job_id)
    rig.raw.delete(rig.key("marker"))
    assert remove(rig, lease.job_id) is True
    assert rig.zset("marker") == {"0": 0.0}, "its place is free"
    assert rig.settle("complete", lease) == "gone"
    assert not rig.exists(lease.job_id)


def test_a_schedulers_next_job_stays_and_an_earlier_one_goes(rig):
    job_id = put_scheduled(rig, "s")
    with pytest.raises(WrongState) as refused:
        remove(rig, job_id)
    assert (refused.value.job_id, refused.value.state) == (job_id, "scheduled")
    rig.raw.zincrby(rig.key("repeat"), 60_000, "s")
    assert remove(rig, job_id) is True
    assert rig.exists("repeat:s")


def test_a_tree_of_thousands_goes_a_thousand_at_a_time(rig, other):
    add_parent(rig, "P")
    for at, count in ((rig, 700), (other, 1800)):
        add_many(at, count, parent=Parent(rig.q, "P"))
    told = []
    while (answer := remove(rig, "P")) is None:
        assert rig.exists("P"), "the parent goes last"
        assert list(rig.zset("waiting-children")) == ["P"]
        told.append(len(rig.list("wait")) + len(other.list("wait")))
    assert answer is True
    assert told == [1500, 500]
    for at in (rig, other):
        assert not {suffix for suffix in at.dump() if suffix[0].isdigit()}
    assert not rig.raw.keys(rig.key("P*"))


def test_a_tree_with_one_job_in_work_stays_whole(rig, other):
    add_parent(rig, "G")
    add_parent(rig, "P", parent="G")
    add_many(other, 3, parent=Parent(rig.q, "P"))
    other.lease()
    before = rig.dump(), other.dump()
    assert remove(rig, "G") is False
    assert (rig.dump(), other.dump()) == before
    assert remove(rig, "P", children=False) is True
    assert rig.list("wait") == ["G"], "it waited for P only"


def test_deep_trees_come_to_an_end(rig):
    """Far deeper than calls may be nested in the server."""
    for depth in range(300):
        add_parent(rig, f"p{depth}", parent=f"p{depth - 1}" if depth else None)
    rig.add(job_id="leaf", parent=Parent(rig.q, "p299"))
    assert remove(rig, "p0") is True
    assert not rig.raw.keys(rig.key("p?*"))
    assert not rig.exists("leaf")


def test_silent_removal_of_a_long_line_of_parents(rig):
    for depth in range(300):
        add_parent(rig, f"p{depth}", parent=f"p{depth - 1}" if depth else None)
    rig.add(job_id="leaf", parent=Parent(rig.q, "p299"))
    assert drain(rig) == 301
    assert not rig.exists("waiting-children")
    assert not rig.raw.keys(rig.key("p?*"))


def test_books_that_lead_in_a_circle_come_to_an_end(rig):
    rig.add(job_id="a")
    rig.add(job_id="b")
    rig.raw.sadd(rig.key("a:dependencies"), rig.key("b"))
    rig.raw.hset(rig.key("b:processed"), rig.key("a"), "1")
    rig.raw.sadd(rig.key("b:dependencies"), rig.key("a"), "no key at all", "x:y")
    assert remove(rig, "a") is True
    assert not rig.list("wait")


def test_books_of_a_parent_that_are_broken_cost_no_removal(rig):
    add_parent(rig, "P")
    rig.add(job_id="c", parent=Parent(rig.q, "P"))
    rig.add(job_id="d", parent=Parent(rig.q, "P"))
    rig.raw.delete(rig.key("P:dependencies"))
    rig.raw.set(rig.key("P:dependencies"), "no set")
    assert remove(rig, "c") is True
    assert not rig.exists("c")
    assert drain(rig) == 1
    assert rig.list("wait") == []


@pytest.mark.parametrize("options", [{"priority": 4}, {"delay_ms": 900}, {}])
def test_a_removed_child_releases_the_parent_by_its_own_priority_and_delay(rig, other, options):
    # conformance: C-143
    add_parent(rig, "P", **options)
    other.add(job_id="c", parent=Parent(rig.q, "P"))
    rig.raw.delete(rig.key("marker"))
    assert remove(other, "c") is True
    found = rig.run(ops.find(rig.q, "P"))
    assert found is not None
    assert found.state == ("prioritized" if "priority" in options else "delayed" if options else "waiting")
    assert rig.zset("marker") == ({"1": rig.now + 900.0} if "delay_ms" in options else {"0": 0.0})


def test_pending_children_go_a_thousand_at_a_time(rig, other):
    add_parent(rig, "P")
    add_many(other, 2300, parent=Parent(rig.q, "P"))
    held = [other.lease() for _ in range(2)]
    op = ops.remove_pending_children(rig.q, "P", rig.now)
    assert [rig.run(op) for _ in range(4)] == [True, True, False, False]
    assert rig.raw.scard(rig.key("P:dependencies")) == 2
    for lease in held:
        assert other.settle("complete", lease) == "settled"
    assert rig.list("wait") == ["P"]


# -- drain


@pytest.mark.parametrize("wait_is", ["wait", "paused"])
def test_drain_keeps_a_schedulers_next_job_where_it_stands(rig, wait_is):
    # conformance: C-164
    for _ in range(3):
        rig.add()
    rig.add(priority=1)
    rig.add(delay_ms=500)
    kept = [put_scheduled(rig, "a", at=1), put_scheduled(rig, "b")]
    later = put_scheduled(rig, "c", in_set="delayed")
    urgent = put_scheduled(rig, "d", in_set="prioritized")
    if wait_is == "paused":
        rig.raw.rename(rig.key("wait"), rig.key("paused"))
        rig.meta(paused=1)
    rig.forget_events()
    assert drain(rig) == 4
    assert rig.list(wait_is) == kept[::-1]
    assert list(rig.zset("prioritized")) == [urgent]
    assert len(rig.zset("delayed")) == 2
    assert drain(rig, delayed=True) == 1
    assert list(rig.zset("delayed")) == [later]
    assert drain(rig, delayed=True) == 0
    assert rig.events() == []


def test_drain_of_thousands(rig):
    for options in ({}, {"priority": 2}, {"delay_ms": 5}):
        add_many(rig, 700, **options)
    kept = [put_scheduled(rig, f"s{n}", at=n * 90) for n in range(7)]
    assert [drain(rig, delayed=True) for _ in range(4)] == [1000, 1000, 100, 0]
    assert sorted(rig.list("wait")) == sorted(kept)
    assert len([suffix for suffix in rig.dump() if suffix[0].isdigit()]) == 0


def test_ids_of_the_queues_own_structures_in_its_lists_are_only_taken_out(rig):
    rig.add()
    rig.raw.rpush(rig.key("wait"), "events", "prioritized", "ghost")
    rig.add(priority=1)
    rig.raw.rpush(rig.key("ghost:logs"), "row")
    events = rig.events()
    assert drain(rig) == 5
    assert rig.events() == events
    assert not rig.exists("wait")
    assert not rig.exists("ghost:logs")


def test_jobs_in_work_and_over_are_not_drained(rig):
    for _ in range(4):
        rig.add()
    rig.settle("complete", rig.lease())
    rig.settle("fail", rig.lease())
    rig.lease()
    assert drain(rig, delayed=True) == 1
    assert set(rig.zset("completed")) | set(rig.zset("failed")) | set(rig.list("active")) == {"1", "2", "3"}


@pytest.mark.parametrize("verb", ["drain", "clean", "obliterate"])
@pytest.mark.parametrize("options", [{}, {"priority": 3}, {"delay_ms": 700}])
def test_parents_of_another_queue_are_released_without_an_event(rig, other, verb, options):
    # conformance: C-145
    add_parent(rig, "P", **options)
    other.add(job_id="c", parent=Parent(rig.q, "P"))
    rig.forget_events()
    if verb == "drain":
        assert drain(other) == 1
    elif verb == "clean":
        assert clean(other, "waiting") == ("c",)
    else:
        other.run(ops.pause(other.q))
        assert other.run(ops.obliterate(other.q, force=False)) is False
    assert rig.events() == []
    found = rig.run(ops.find(rig.q, "P"))
    assert found is not None
    assert found.state == ("prioritized" if "priority" in options else "delayed" if options else "waiting")


# -- clean


def finish(rig: Rig, count: int, verb: str = "complete") -> list[str]:
    ids = []
    for _ in range(count):
        rig.add()
        lease = rig.lease()
        assert rig.settle(verb, lease) == "settled"
        ids.append(lease.job_id)
        rig.now += 10
    return ids


@pytest.mark.parametrize(("state", "verb"), [("completed", "complete"), ("failed", "fail")])
def test_clean_takes_the_oldest_that_are_over(rig, state, verb):
    ids = finish(rig, 6, verb)
    rig.forget_events()
    assert clean(rig, state, grace_ms=35, limit=2) == tuple(ids[:2])
    assert clean(rig, state, grace_ms=35) == (ids[2],)
    assert clean(rig, state, grace_ms=35) == ()
    assert list(rig.zset(state)) == ids[3:]
    assert [event["count"] for event in rig.events()] == ["2", "1", "0"]


@pytest.mark.parametrize("state", ["waiting", "prioritized", "delayed"])
@pytest.mark.parametrize(("timestamp", "goes"), [("10000", True), (None, True), ("x", True), ("1" * 19, False)])
def test_moments_are_compared_as_numbers(rig, state, timestamp, goes):
    options = {"prioritized": {"priority": 1}, "delayed": {"delay_ms": 5}}.get(state, {})
    rig.add(**options)
    if timestamp:
        rig.raw.hset(rig.key("1"), "timestamp", timestamp)
    else:
        rig.raw.hdel(rig.key("1"), "timestamp")
    assert clean(rig, state, grace_ms=DAY_MS) == (("1",) if goes else ())


def test_clean_skips_what_a_worker_has_and_what_is_too_young(rig):
    # conformance: C-163
    for _ in range(3):
        rig.add()
    leases = [rig.lease() for _ in range(3)]
    rig.expire_lock("2")
    rig.now += 50
    assert clean(rig, "active", grace_ms=51) == ()
    assert clean(rig, "active", grace_ms=50) == ("2",)
    assert rig.list("active") == ["3", "1"]
    assert rig.settle("complete", leases[1]) == "gone"


def test_clean_with_a_limit_over_a_thousand_looks_as_far_as_the_limit_says(rig):
    young = add_many(rig, 300)
    old = add_many(rig, 1500, timestamp_ms=rig.now - DAY_MS)
    found: list[str] = []
    limit = 1600
    while True:
        batch = clean(rig, "waiting", grace_ms=1000, limit=limit - len(found))
        found += batch
        if len(batch) < min(ops.CLEAN_MAX, limit - len(found) + len(batch)):
            break
    assert set(found) == set(old[:1300]), "300 young ones and 1,300 old ones run before the others"
    assert rig.list("wait") == [*old[:1299:-1], *young[::-1]]


def test_clean_of_waiting_jobs_looks_in_both_lists(rig):
    add_many(rig, 4)
    rig.raw.rpush(rig.key("paused"), *[rig.raw.rpop(rig.key("wait")) for _ in range(2)][::-1])
    assert clean(rig, "waiting", limit=1) == ("1",)
    assert clean(rig, "waiting", limit=2) == ("3", "2")
    assert clean(rig, "waiting", limit=2) == ("4",)


def test_clean_with_a_limit_counts_the_young_of_the_other_list(rig):
    rig.add(timestamp_ms=rig.now - DAY_MS)
    rig.add(job_id="young")
    rig.raw.rpush(rig.key("paused"), rig.raw.lpop(rig.key("wait")))
    assert clean(rig, "waiting", grace_ms=1000, limit=1) == ()
    assert clean(rig, "waiting", grace_ms=1000, limit=2) == ("1",)


def test_clean_spares_a_schedulers_next_job(rig):
    # conformance: C-154
    put_scheduled(rig, "s")
    put_scheduled(rig, "t", in_set="delayed")
    put_scheduled(rig, "u", in_set="prioritized")
    assert [clean(rig, state) for state in ("waiting", "delayed", "prioritized")] == [(), (), ()]


@pytest.mark.parametrize("arguments", [{"state": "waiting-children"}, {"state": "x"}, {"grace_ms": -1}, {"limit": -1}])
def test_clean_of_what_cannot_be_cleaned_is_refused(rig, arguments):
    with pytest.raises(UsageError):
        ops.clean(rig.q, **{"state": "failed", "grace_ms": 0, "limit": 0, "now_ms": 1, **arguments})


# -- obliterate


def test_obliterate_in_batches(rig):
    # conformance: C-165
    for options in ({}, {"priority": 2}, {"delay_ms": 5}):
        add_many(rig, 450, **options)
    finish(rig, 3)
    finish(rig, 3, "fail")
    rig.lease()
    put_scheduled(rig, "s")
    add_parent(rig, "P")
    with pytest.raises(WrongState, match="paused"):
        rig.run(ops.obliterate(rig.q, force=True))
    rig.run(ops.pause(rig.q))
    before = rig.dump()
    with pytest.raises(WrongState, match="in work"):
        rig.run(ops.obliterate(rig.q, force=False))
    assert rig.dump() == before
    answers = []
    while not answers or answers[-1]:
        answers.append(rig.run(ops.obliterate(rig.q, force=True)))
        assert len(answers) == 2 or rig.exists("meta"), "still paused while it goes"
    assert answers == [True, False]
    assert rig.dump() == {}


def test_a_worker_learns_that_its_queue_was_obliterated(rig):
    rig.add()
    lease = rig.lease()
    rig.run(ops.pause(rig.q))
    assert rig.run(ops.obliterate(rig.q, force=True)) is False
    assert rig.settle("complete", lease) == "gone"
    assert rig.dump() == {}
