"""The oracle for what deletes: the same removals by BullMQ and by heavyq leave the same keyspace.

Where heavyq does better on purpose, the step names the key that differs, or heavyq alone is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.options import Keep
from heavyq.errors import WrongState
from tests.interop.node import NodeError
from tests.interop.operators import Operator
from tests.support.ops import USAGE

if TYPE_CHECKING:
    from tests.interop.trees import Trees
    from tests.interop.twins import Twins


@pytest.fixture
def operator(twins: Twins) -> Operator:
    return Operator(twins)


def tree(job_id: str, *children: dict[str, Any], at: str = "chi", **opts: Any) -> dict[str, Any]:
    """One node in BullMQ's form."""
    below = {"children": list(children)} if children else {}
    return {"name": f"n{job_id}", "queueName": at, "data": {"of": job_id}, "opts": {"jobId": job_id, **opts}, **below}


def fill(twins: Twins) -> dict[str, list[str]]:
    """Put two jobs into each state, but for `waiting-children`; return their ids."""
    ids: dict[str, list[str]] = {"completed": [], "failed": [], "active": []}
    for state, of_state in ids.items():
        for _ in range(2):
            twins.add({"of": state})
            held = twins.fetch()
            of_state.append(held.id)
            if state == "completed":
                twins.complete(held, 1)
            elif state == "failed":
                twins.log(held, "row")
                twins.fail(held)
            else:
                twins.expire_lock(held)
            twins.later(1)
    ids["waiting"] = [twins.add() for _ in range(2)]
    ids["prioritized"] = [twins.add(priority=n + 1) for n in range(2)]
    ids["delayed"] = [twins.add(delay=1000 + n) for n in range(2)]
    return ids


def test_a_job_is_removed_from_every_state(twins: Twins, operator: Operator) -> None:
    # conformance: C-160
    ids = fill(twins)
    for of_state in ids.values():
        assert operator.remove(of_state[0]) is True
    for of_state in ids.values():
        assert operator.remove(of_state[1], children=False) is True
        assert not twins.ours.raw.keys(twins.ours.key(f"{of_state[1]}*"))
    assert [event["prev"] for event in twins.ours.events() if event["event"] == "removed"] == [
        *("completed", "failed", "active", "wait", "prioritized", "delayed"),
    ] * 2


def test_a_job_that_is_not_there_is_removed_without_a_word(twins: Twins, operator: Operator) -> None:
    # conformance: C-161
    twins.add()
    assert operator.remove("none") is True
    twins.theirs.raw.delete(twins.theirs.key("1"))
    twins.ours.raw.delete(twins.ours.key("1"))
    assert operator.remove("1") is True  # only its entry in `wait` was left


def test_a_job_that_a_worker_has_is_not_removed(twins: Twins, operator: Operator) -> None:
    # conformance: C-161
    twins.add()
    held = twins.fetch()
    assert operator.remove(held.id) is False
    assert operator.remove(held.id, children=False) is False
    twins.complete(held)
    assert operator.remove(held.id) is True


def test_a_job_is_removed_from_a_paused_queue(twins: Twins, operator: Operator) -> None:
    # conformance: C-160
    twins.meta(version=f"bullmq:{twins.bull.node.version}")
    for _ in range(3):
        twins.add()
    operator.pause()
    operator.remove("2")
    operator.remove("1")
    operator.resume()
    assert twins.fetch().id == "3"


def test_the_removal_of_the_owner_frees_its_deduplication_id(trees: Trees) -> None:
    # conformance: C-122
    chi, operator = trees["chi"], Operator(trees["chi"])
    first = chi.add(deduplication={"id": "d"})
    operator.remove(first)
    second = chi.add(deduplication={"id": "d", "ttl": 60_000})
    chi.expire_lock(chi.fetch())
    operator.remove(second)
    kept = chi.add(deduplication={"id": "k", "keepLastIfActive": True})
    held = chi.fetch()
    chi.add({"n": 2}, deduplication={"id": "k", "keepLastIfActive": True})
    assert chi.ours.exists("dn:k")
    chi.expire_lock(held)
    operator.remove(kept)
    assert not chi.ours.exists("dn:k")
    assert not chi.ours.exists("de:k")


def test_a_deduplication_id_that_another_job_has_by_now_stays(trees: Trees) -> None:
    chi, operator = trees["chi"], Operator(trees["chi"])
    first = chi.add(deduplication={"id": "d"})
    chi.complete(chi.fetch())
    second = chi.add(deduplication={"id": "d"})
    operator.remove(first)
    assert chi.ours.text("de:d") == second


def test_a_schedulers_next_job_is_protected(twins: Twins, operator: Operator) -> None:
    # conformance: C-154
    twins.both("schedule", id="s", repeat={"every": 60_000}, template={"name": "tick"})
    (now,) = twins.ours.list("wait")
    with pytest.raises(WrongState, match="scheduler") as refused:
        operator.remove(now)
    assert refused.value.state == "scheduled"
    twins.both(
        "schedule", id="c", repeat={"pattern": "0 0 * * * *"}, template={"name": "hour", "opts": {"priority": 3}}
    )
    (later,) = twins.ours.zset("delayed")
    with pytest.raises(WrongState):
        operator.remove(later)
    operator.drain(delayed=True)
    for state in ("waiting", "delayed"):
        assert operator.clean(state) == []
    assert twins.ours.list("wait") == [now]
    assert list(twins.ours.zset("delayed")) == [later]


# -- parents and children


def test_the_removal_of_the_last_child_releases_the_parent(trees: Trees) -> None:
    # conformance: C-143
    trees.add_flow(tree("P", tree("A"), tree("B"), at="par"))
    operator = Operator(trees["chi"])
    operator.remove("A")
    assert trees["par"].ours.zset("waiting-children")
    operator.remove("B")
    assert trees["par"].ours.list("wait") == ["P"]
    assert trees["par"].fetch().id == "P"


def test_a_parent_released_by_a_removal_waits_by_its_own_priority_and_delay(trees: Trees) -> None:
    """BullMQ puts it to the head of `wait` whatever it asked for."""
    chi, par = trees["chi"], trees["par"]
    trees.add_flow(tree("P", tree("A"), at="par", priority=3))
    trees.add_flow(tree("D", tree("B"), at="par", delay=500))
    for child in ("A", "B"):
        assert chi.ours.run(ops.remove(chi.ours.q, child, now_ms=chi.ours.now))
    assert list(par.ours.zset("prioritized")) == ["P"]
    assert par.ours.zset("delayed") == {"D": (par.ours.now + 500) * 4096.0}


def test_a_removed_parent_takes_its_tree_along(trees: Trees) -> None:
    # conformance: C-143
    trees.add_flow(
        tree("P", tree("A", tree("A1"), tree("A2", at="par")), tree("B", failParentOnFailure=True), tree("C"), at="par")
    )
    chi = trees["chi"]
    chi.complete(chi.fetch(), "b")  # B, as A1 comes a level later
    Operator(trees["par"]).remove("P")
    for name in ("par", "chi"):
        assert not {suffix for suffix in trees[name].ours.dump() if suffix[0].isupper()}


def test_a_removed_parents_failed_children_go_too(trees: Trees) -> None:
    trees.add_flow(
        tree(
            "P",
            *(
                tree(name, **{flag: True})
                for name, flag in (("A", "ignoreDependencyOnFailure"), ("B", "failParentOnFailure"))
            ),
            tree("C"),
            at="par",
        )
    )
    chi = trees["chi"]
    for _ in range(2):
        chi.fail(chi.fetch())
    Operator(trees["par"]).remove("P")
    assert chi.ours.zset("failed") == {}


def test_a_parent_is_removed_without_its_children(trees: Trees) -> None:
    trees.add_flow(tree("P", tree("A"), at="par"))
    Operator(trees["par"]).remove("P", children=False)
    chi = trees["chi"]
    assert chi.ours.list("wait") == ["A"]
    chi.complete(chi.fetch())
    Operator(chi).remove("A")


def test_a_child_in_work_blocks_the_removal_of_its_parents(trees: Trees) -> None:
    # conformance: C-143
    trees.add_flow(tree("G", tree("P", tree("A"), tree("B"), at="par"), at="par"))
    chi, operator = trees["chi"], Operator(trees["par"])
    held = chi.fetch()
    assert operator.remove("G") is False
    assert operator.remove("P") is False
    assert operator.remove("P", children=False) is True
    chi.complete(held)


def test_pending_children_are_removed(trees: Trees) -> None:
    trees.add_flow(
        tree(
            "P",
            tree("A"),
            tree("B"),
            tree("C", tree("C1"), tree("C2")),
            tree("D", priority=1),
            tree("E", delay=9),
            at="par",
        )
    )
    chi = trees["chi"]
    chi.complete(chi.fetch())
    held = chi.fetch()
    Operator(trees["par"]).remove_pending("P")
    assert set(trees["par"].ours.dump()["P:dependencies"]) == {chi.ours.key(held.id)}
    chi.complete(held)
    assert trees["par"].fetch().id == "P"


def test_a_parent_that_ran_early_ends_when_its_pending_children_are_removed(trees: Trees) -> None:
    # conformance: C-134
    family = tree("P", tree("A", continueParentOnFailure=True), tree("B"), tree("C"), at="par")
    trees.add_flow(family)
    chi, par = trees["chi"], trees["par"]
    chi.fail(chi.fetch())
    held = par.fetch()
    with pytest.raises(NodeError, match="pending"):
        par.bull("complete", id=held.id, token=held.token, value=1)
    op = ops.complete(held.job.lease, now_ms=par.ours.now, returnvalue=b"1", keep=Keep(), usage=USAGE)
    assert par.ours.run(op) == "pending_children"
    par.check()
    Operator(par).remove_pending("P")
    par.complete(held, 1)
    assert not chi.ours.list("wait")


def test_pending_children_that_failed_or_are_in_work_stay(trees: Trees) -> None:
    trees.add_flow(tree("P", tree("A"), tree("B", tree("B1"), tree("B2")), at="par"))
    chi = trees["chi"]
    chi.fail(chi.fetch())
    chi.fetch()
    Operator(trees["par"]).remove_pending("P")


# -- many at once


@pytest.mark.parametrize("delayed", [False, True])
def test_drain(twins: Twins, operator: Operator, delayed: bool) -> None:
    # conformance: C-164
    fill(twins)
    twins.pop_markers()
    operator.drain(delayed=delayed)
    twins.add()
    operator.drain(delayed=delayed)
    operator.drain(delayed=delayed)


def test_drain_of_a_paused_queue(twins: Twins, operator: Operator) -> None:
    # conformance: C-164
    twins.meta(version=f"bullmq:{twins.bull.node.version}")
    fill(twins)
    operator.pause()
    twins.add()
    operator.drain(delayed=True)


def test_drain_takes_a_parent_of_the_same_queue_along_and_releases_one_of_another(trees: Trees) -> None:
    # conformance: C-145
    trees.add_flow(tree("P", tree("A"), at="par"))
    trees.add_flow(tree("G", tree("Q", tree("B"))))
    trees.add_flow(tree("R", tree("S", tree("C")), at="par"))
    trees.add_flow(tree("T", tree("U"), tree("V", delay=900)))
    Operator(trees["chi"]).drain()
    assert trees["par"].ours.list("wait") == ["R", "P"]
    assert trees["chi"].ours.zset("waiting-children").keys() == {"T"}
    Operator(trees["chi"]).drain(delayed=True)


@pytest.mark.parametrize("state", ["completed", "failed", "waiting", "prioritized", "delayed", "active"])
def test_clean_takes_the_same_jobs(twins: Twins, operator: Operator, state: str) -> None:
    # conformance: C-162
    def put(priority: int) -> None:
        options = {"prioritized": {"priority": priority}, "delayed": {"delay": 100 * priority}}.get(state, {})
        twins.add(**options)
        if state in ("completed", "failed", "active"):
            held = twins.fetch()
            twins.complete(held) if state == "completed" else twins.fail(held) if state == "failed" else None
            twins.expire_lock(held)
        twins.later(10)

    for priority in (3, 5, 1, 4, 2, 1):
        put(priority)
    for grace_ms, limit in ((100, 0), (35, 1), (35, 2), (15, 3), (10, 0), (0, 1), (0, 0), (0, 0)):
        operator.clean(state, grace_ms=grace_ms, limit=limit)
    assert not twins.ours.exists({"waiting": "wait"}.get(state, state))


def test_clean_with_a_limit_looks_at_the_first_of_the_delayed(twins: Twins, operator: Operator) -> None:
    for delay, age in ((300, 5), (200, 9000), (100, 5)):
        twins.add(delay=delay + age, timestamp=twins.ours.now - age)
    assert operator.clean("delayed", grace_ms=500, limit=1) == []
    assert operator.clean("delayed", grace_ms=500, limit=2) == ["2"]


def test_clean_of_active_jobs_skips_those_that_a_worker_has(twins: Twins, operator: Operator) -> None:
    # conformance: C-163
    for _ in range(4):
        twins.add()
    held = [twins.fetch() for _ in range(4)]
    twins.expire_lock(held[1])
    twins.expire_lock(held[3])
    twins.later(10)
    assert sorted(operator.clean("active")) == ["2", "4"]
    twins.complete(held[0])


def test_clean_with_a_limit_looks_at_the_jobs_that_would_run_next(twins: Twins, operator: Operator) -> None:
    # conformance: C-162
    for age_ms in (1, 900, 2, 800, 700):
        twins.add(timestamp=twins.ours.now - age_ms)
    assert operator.clean("waiting", grace_ms=500, limit=3) == ["2"]
    assert operator.clean("waiting", grace_ms=500, limit=4) == ["5", "4"]


PLACINGS = {"waiting": {}, "prioritized": {"priority": 1}, "delayed": {"delay": 500}}


@pytest.mark.parametrize("state", PLACINGS)
@pytest.mark.parametrize("how", ["drain", "clean", "obliterate"])
def test_parents_of_another_queue_are_released_in_bullmqs_order(trees: Trees, how: str, state: str) -> None:
    # conformance: C-145
    for n in range(3):
        trees.add_flow(tree(f"P{n}", tree(f"A{n}", **PLACINGS[state]), at="par"))
        trees.later(1)
    operator = Operator(trees["chi"])
    trees["chi"].meta(version=f"bullmq:{trees.node.version}")
    if how == "drain":
        operator.drain(delayed=True)
    elif how == "clean":
        operator.clean(state)
    else:
        operator.pause()
        operator.obliterate()
    assert len(trees["par"].ours.list("wait")) == 3


@pytest.mark.parametrize("state", ["completed", "failed", "active"])
def test_clean_of_jobs_with_parents_that_ran(trees: Trees, state: str) -> None:
    trees.add_flow(tree("P", tree("A"), tree("B"), at="par"))
    trees.add_flow(tree("Q", tree("C")))
    chi = trees["chi"]
    for _ in range(3):
        held = chi.fetch()
        chi.complete(held) if state == "completed" else chi.fail(held) if state == "failed" else chi.expire_lock(held)
        trees.later(1)
    Operator(chi).clean(state)


def test_clean_of_a_paused_queue(twins: Twins, operator: Operator) -> None:
    twins.meta(version=f"bullmq:{twins.bull.node.version}")
    for _ in range(5):
        twins.add()
        twins.later(1)
    operator.pause()
    named = "paused" if twins.bull.node.generation == "5" else "wait"
    assert operator.clean("waiting", grace_ms=3, limit=9, named=named) == ["3", "2", "1"]
    assert operator.clean("waiting", limit=1, named=named) == ["4"]


# -- the whole queue


def test_obliterate_refuses_a_queue_that_is_not_paused_or_works(twins: Twins, operator: Operator) -> None:
    # conformance: C-165
    twins.meta(version=f"bullmq:{twins.bull.node.version}")
    twins.add()
    with pytest.raises(WrongState, match="paused"):  # BullMQ's method pauses first
        twins.ours.run(ops.obliterate(twins.ours.q, force=True))
    twins.fetch()
    operator.pause()
    with pytest.raises(WrongState, match="in work") as refused:
        operator.obliterate(but="events")  # BullMQ's method pauses once more
    assert refused.value.state == "active"


def test_obliterate_leaves_nothing_but_deduplication_ids_with_a_time_to_live(twins: Twins) -> None:
    # conformance: C-165
    operator = Operator(twins)
    fill(twins)
    twins.add()
    twins.fetch()
    twins.both("schedule", id="s", repeat={"every": 60_000}, template={"name": "tick"})
    twins.both(
        "add", name="d", data={}, opts={"deduplication": {"id": "throttle", "ttl": 60_000}, "removeOnComplete": True}
    )
    twins.both("add", name="d", data={}, opts={"deduplication": {"id": "plain"}})
    operator.rate_limit(5000)
    ours = twins.ours
    ours.run(ops.pause(ours.q))
    ours.raw.hset(ours.key("metrics:completed"), "count", 1)
    assert ours.run(ops.obliterate(ours.q, force=True)) is False
    assert ours.dump() == {}
    twins.bull("obliterateQueue", force=True)


def test_obliterate_of_a_small_queue_as_bullmq_does(twins: Twins, operator: Operator) -> None:
    # conformance: C-165
    twins.meta(version=f"bullmq:{twins.bull.node.version}")
    fill(twins)
    operator.pause()
    operator.obliterate(force=True)
    twins.add()
    twins.meta(version=f"bullmq:{twins.bull.node.version}")
    operator.pause()
    operator.obliterate()
    assert twins.ours.dump() == {}


def test_obliterate_releases_parents_of_other_queues(trees: Trees) -> None:
    # conformance: C-145
    trees.add_flow(tree("P", tree("A"), at="par"))
    trees.add_flow(tree("Q", tree("B"), tree("C")))
    trees["chi"].meta(version=f"bullmq:{trees.generation}.0.0")
    operator = Operator(trees["chi"])
    operator.pause()
    operator.obliterate()
    assert trees["chi"].ours.dump() == {}
    assert trees["par"].ours.list("wait") == ["P"]


def test_obliterate_takes_along_what_waits_for_children_of_other_queues(trees: Trees) -> None:
    """BullMQ leaves them, for ever."""
    trees.add_flow(tree("P", tree("A"), at="par"))
    par = trees["par"].ours
    par.run(ops.pause(par.q))
    assert par.run(ops.obliterate(par.q, force=False)) is False
    assert par.dump() == {}


# -- children that run again


def test_a_child_that_runs_again_is_waited_for_again(trees: Trees) -> None:
    # conformance: C-144
    names = ("failParentOnFailure", "ignoreDependencyOnFailure", "removeDependencyOnFailure", "continueParentOnFailure")
    trees.add_flow(
        tree("P", *(tree(f"C{n}", **{flag: True}) for n, flag in enumerate(names)), tree("X"), tree("Z"), at="par")
    )
    chi, operator = trees["chi"], Operator(trees["chi"])
    for n in range(4):
        chi.fail(chi.fetch(), f"boom {n}")
    chi.complete(chi.fetch(), "x")
    for n in range(4):
        operator.reprocess(f"C{n}", "failed")
    operator.reprocess("X", "completed")
    dependencies = trees["par"].ours.dump()["P:dependencies"]
    assert dependencies == {chi.ours.key(name) for name in ("C0", "C1", "C3", "X", "Z")}


def test_children_that_run_again_in_bulk_are_waited_for_again(trees: Trees) -> None:
    # conformance: C-144 C-166
    trees.add_flow(tree("P", tree("A", ignoreDependencyOnFailure=True), tree("B"), at="par"))
    chi = trees["chi"]
    chi.fail(chi.fetch())
    if trees.generation == "6":
        Operator(chi).retry_jobs()
    else:  # BullMQ 5 does not keep the parent's books there
        assert chi.ours.run(ops.retry_jobs(chi.ours.q, state="failed")) is False
    assert trees["par"].ours.dump()["P:dependencies"] == {chi.ours.key("A"), chi.ours.key("B")}
    assert not trees["par"].ours.exists("P:failed")
