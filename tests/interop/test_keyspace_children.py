"""The oracle, for parents and children: what a child's end leaves in its parent's queue, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from heavyq.bullmq import ops
from tests.interop.families import Family

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from heavyq.store.client import Client
    from tests.interop.families import Relatives
    from tests.interop.node import Node

FLAGS = ("failParentOnFailure", "continueParentOnFailure", "ignoreDependencyOnFailure", "removeDependencyOnFailure")


@pytest.fixture
def family(node: Node, client: Client, raw: redis.Redis, prefix: str) -> Iterator[Family]:
    """Queues of parents and children, each on both sides."""
    members = Family(node, client, raw, prefix)
    try:
        yield members
    finally:
        node.call("clock", now=None)
        errors = members.close()
    assert errors == []


@pytest.fixture
def home(family: Family) -> Relatives:
    """The queue of the parents."""
    return family["home"]


@pytest.fixture
def kids(family: Family) -> Relatives:
    """The queue of the children."""
    return family["kids"]


def child(job_id: str, queue: str = "kids", **more: Any) -> dict[str, Any]:
    opts = {name: more.pop(name) for name in tuple(more) if name != "children"}
    return {"queue": queue, "opts": {"jobId": job_id, **opts}, **more}


def test_a_parent_runs_when_its_children_are_done(home: Relatives, kids: Relatives) -> None:
    # conformance: C-125 C-128
    home.add_flow(child("a"), child("b"), jobId="p", attempts=2)
    kids.later(5)
    kids.complete(kids.fetch(), {"n": 1})
    assert home.try_fetch() is None
    kids.later(5)
    kids.complete(kids.fetch(), [None, "x"])
    parent = home.fetch()
    assert parent.id == "p"
    home.complete(parent, "all")


@pytest.mark.parametrize("opts", [{"priority": 3}, {"delay": 500}, {"delay": 500, "priority": 3}, {"lifo": True}])
def test_a_released_parent_goes_where_its_options_say(home: Relatives, kids: Relatives, opts: dict[str, Any]) -> None:
    # conformance: C-129
    home.add(priority=3)
    home.add()
    home.add_flow(child("a"), jobId="p", **opts)
    home.pop_markers()
    kids.later(50)
    kids.complete(kids.fetch())
    home.later(600)
    ran = [home.fetch().id for _ in range(3)]
    assert "p" in ran


@pytest.mark.parametrize("close", ["pause", "concurrency"])
def test_a_parent_is_released_into_a_closed_queue(home: Relatives, kids: Relatives, close: str) -> None:
    # conformance: C-103
    home.meta(version=f"bullmq:{home.bull.node.version}")
    home.add()
    home.add_flow(child("a"), child("b"), jobId="p")
    held = home.fetch()
    home.pop_markers()
    if close == "pause":
        home.both("pause")
    else:
        home.both("setConcurrency", limit=1)
    kids.complete(kids.fetch())
    kids.complete(kids.fetch())
    assert home.try_fetch() is None
    if close == "pause":
        home.both("resume")
    else:
        home.both("setConcurrency", limit=2)
    assert home.fetch().id == "p"
    home.complete(held)


@pytest.mark.parametrize("flag", [None, *FLAGS])
@pytest.mark.parametrize("last", [True, False], ids=["last", "first"])
@pytest.mark.parametrize("keep", [{}, {"removeOnFail": True}], ids=["kept", "deleted"])
def test_a_child_that_fails_for_good(
    home: Relatives, kids: Relatives, flag: str | None, last: bool, keep: dict[str, Any]
) -> None:
    # conformance: C-130 C-132 C-133 C-134 C-135 C-140
    flags = {flag: True} if flag else {}
    # A parent that a deletion lets run keeps its priority with heavyq, and loses it with BullMQ (D10).
    opts = {} if keep and not flag else {"priority": 2}
    home.add_flow(child("a", **flags, **keep), child("b"), jobId="p", **opts)
    first, second = kids.fetch(), kids.fetch()
    kids.later(3)
    if last:
        kids.complete(second, 2)
    kids.fail(first, "no rööm", unrecoverable=True)
    home.later(3)
    held = home.try_fetch()
    if not last:
        kids.complete(second, 2)
    if held:
        home.complete(held, "done") if not home.ours.exists("p:dependencies") else home.fail(held, unrecoverable=True)


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("where", ["active", "wait", "prioritized", "delayed", "completed", "failed"])
def test_a_child_fails_while_its_parent_is_elsewhere(home: Relatives, kids: Relatives, flag: str, where: str) -> None:
    # conformance: C-130
    opts = {"prioritized": {"priority": 4}, "delayed": {"delay": 1000}}
    home.add(attempts=2, **opts.get(where, {}))
    held = home.fetch() if where in ("active", "completed", "failed") else None
    if held and where == "completed":
        home.complete(held)
    if held and where == "failed":
        home.fail(held, unrecoverable=True)
    kids.add_child("home", "1", **{flag: True})
    home.later(4)
    kids.fail(kids.fetch())
    if where == "active" and held:
        home.fail(held)  # one attempt is left, and `defa` is set by fail-parent
    home.try_fetch()


def test_a_parent_that_waits_with_a_delay_is_failed_when_it_is_due(home: Relatives, kids: Relatives) -> None:
    home.add_flow(child("a", failParentOnFailure=True), jobId="p", delay=300)
    kids.fail(kids.fetch())
    assert home.try_fetch() is None
    home.later(400)
    assert home.try_fetch() is None
    assert list(home.ours.zset("failed")) == ["p"]


def test_a_failure_goes_up_three_levels(family: Family, home: Relatives, kids: Relatives) -> None:
    # conformance: C-131
    top = family["top"]
    rule = {"failParentOnFailure": True}
    middle = child("m", "home", **rule, children=[child("leaf", **rule), child("other")])
    top.add_flow(middle, jobId="t")
    kids.fail(kids.fetch())
    assert top.try_fetch() is None
    assert home.try_fetch() is None  # fails the middle one
    assert top.try_fetch() is None  # fails the top
    assert list(top.ours.zset("failed")) == ["t"]
    kids.complete(kids.fetch())


def test_parent_and_children_in_one_queue(home: Relatives) -> None:
    home.add_flow(
        child("a", "home", removeOnComplete=True),
        child("b", "home", ignoreDependencyOnFailure=True, removeOnFail=True),
        child("c", "home", children=[child("d", "home", continueParentOnFailure=True)]),
        jobId="p",
        priority=1,
    )
    for number in range(9):
        home.later(1)
        held = home.try_fetch()
        if held is None:
            break
        home.fail(held) if held.id in ("b", "d") else home.complete(held, number)
    assert list(home.ours.zset("completed")) == ["c", "p"]


def test_an_active_parent_waits_for_a_child_it_adds(home: Relatives, kids: Relatives) -> None:
    # conformance: C-136
    home.add()
    held = home.fetch()
    kids.add_child("home", held.id)
    home.later(2)
    home.wait_children(held)
    kids.later(2)
    kids.complete(kids.fetch(), {"x": None})
    again = home.fetch()
    home.complete(again)
    assert home.ours.hash("1").items() >= {"ats": "2", "atm": "1"}.items()


def test_bullmq_refuses_what_heavyq_refuses(home: Relatives, kids: Relatives) -> None:
    # conformance: C-137 C-138
    home.add()
    held = home.fetch()
    assert home.bull("waitChildren", id=held.id, token=held.token) is False
    kids.add_child("home", held.id, failParentOnFailure=True)
    with pytest.raises(Exception, match="pending"):
        home.bull("complete", id=held.id, token=held.token, value=1)
    assert home.ours.settle("complete", held.job.lease) == "pending_children"
    home.check()
    kids.fail(kids.fetch())
    with pytest.raises(Exception, match="failed"):
        home.bull("complete", id=held.id, token=held.token, value=1)
    assert home.ours.settle("complete", held.job.lease) == "failed_children"
    with pytest.raises(Exception, match="failed"):
        home.bull("waitChildren", id=held.id, token=held.token)
    assert home.ours.settle("wait_children", held.job.lease) == "failed_children"
    home.check()


@pytest.mark.parametrize("flag", [None, *FLAGS])
def test_a_failed_child_that_is_retried_counts_again(home: Relatives, kids: Relatives, flag: str | None) -> None:
    # conformance: C-135 C-144
    home.add_flow(child("a", **({flag: True} if flag else {})), child("b"), jobId="p")
    kids.fail(kids.fetch())
    kids.both("retry", id="a")
    kids.complete(kids.fetch(), 1)
    kids.complete(kids.fetch(), 2)
    while held := home.try_fetch():
        home.complete(held)


def test_a_child_is_detached(home: Relatives, kids: Relatives) -> None:
    home.add_flow(child("a"), child("b"), child("c"), jobId="p")
    kids.complete(kids.fetch())
    kids.detach("b")
    kids.detach("a")
    kids.detach("c")
    assert home.fetch().id == "p"
    kids.complete(kids.fetch())


def test_retention_of_a_failed_child_lets_its_parent_run(home: Relatives, kids: Relatives) -> None:
    home.add_flow(child("a"), jobId="p")
    kids.fail(kids.fetch())
    kids.later(1)
    kids.add_by_node(jobId="b", removeOnFail=1)
    kids.fail(kids.fetch())
    assert list(kids.ours.zset("failed")) == ["b"]
    assert home.fetch().id == "p"


def test_retention_of_a_completed_child_leaves_its_value(home: Relatives, kids: Relatives) -> None:
    # conformance: C-139
    home.add_flow(child("a", removeOnComplete=True), child("b", removeOnComplete=1), child("c"), jobId="p")
    for number in range(3):
        kids.later(1)
        kids.complete(kids.fetch(), number)
    assert list(kids.ours.zset("completed")) == ["b", "c"]
    home.complete(home.fetch())
    assert sorted(home.bull("childrenValues", id="p").values()) == [0, 1, 2]
    found = home.ours.run(ops.children(home.ours.q, "p")).processed
    assert sorted(found.values()) == [b"0", b"1", b"2"]


def test_a_stalled_parent_and_a_stalled_child(home: Relatives, kids: Relatives) -> None:
    home.add_flow(child("a", failParentOnFailure=True), jobId="p")
    for _ in range(2):
        kids.sweep()
        kids.expire_lock(kids.fetch())
        kids.sweep()
        kids.sweep()
    assert kids.try_fetch() is None  # stalled too often: failed, and so is the parent
    assert home.try_fetch() is None
    assert list(home.ours.zset("failed")) == ["p"]


def test_children_as_bullmq_reads_them(home: Relatives, kids: Relatives) -> None:
    home.add_flow(
        child("a"),
        child("b", ignoreDependencyOnFailure=True),
        child("c", failParentOnFailure=True),
        child("d"),
        jobId="p",
    )
    kids.complete(kids.fetch(), {"ä": [1]})
    kids.fail(kids.fetch(), "because")
    kids.fail(kids.fetch(), "so")
    theirs = home.bull.node.at(home.ours.q)("children", id="p")
    mine = home.ours.run(ops.children(home.ours.q, "p"))
    assert [len(group) for group in (mine.processed, mine.ignored, mine.pending, mine.failed)] == [1, 1, 1, 1]
    assert set(mine.processed) == set(theirs["processed"])
    assert mine.ignored == theirs["reasons"]
    assert list(mine.pending) == theirs["unprocessed"]
    assert list(mine.failed) == theirs["failed"]
    home.bull.node.at(home.ours.q)("close")


SPOILERS = {
    "a parent's book": ("home", lambda raw, rig: raw.hset(rig.key("p:processed"), rig.key("a"), "[2]")),
    "a pending child": ("home", lambda raw, rig: raw.sadd(rig.key("p:dependencies"), rig.key("b"))),
    "a parent's place": ("home", lambda raw, rig: raw.rpush(rig.key("wait"), "p")),
    "a child's reference": ("kids", lambda raw, rig: raw.hset(rig.key("a"), "parentKey", rig.key("q"))),
}


@pytest.mark.parametrize("name", SPOILERS)
def test_the_oracle_sees(family: Family, home: Relatives, kids: Relatives, name: str) -> None:
    home.add_flow(child("a"), child("b"), child("c"), jobId="p")
    kids.complete(kids.fetch(), [1])
    kids.complete(kids.fetch(), [1])
    queue, spoil = SPOILERS[name]
    spoil(family.raw, family[queue].ours)
    with pytest.raises(AssertionError, match="BullMQ"):
        kids.check()
