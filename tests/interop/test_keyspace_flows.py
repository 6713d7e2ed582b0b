"""The oracle for flows: a tree that heavyq adds is the tree that BullMQ adds, to the last key.

Where BullMQ 5 does otherwise than 6, heavyq does as 6: the comparison is then made with 6 only, and for 5 the test
says what heavyq does to what BullMQ 5 left.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.options import pack_options
from heavyq.bullmq.parent import Parent
from heavyq.errors import HasAnotherParent, NoSuchParent
from tests.interop.node import NodeError
from tests.support.eventually import eventually
from tests.support.ops import Rig

if TYPE_CHECKING:
    import redis

    from heavyq.store.client import Client
    from tests.interop.node import Node, NodeQueue
    from tests.interop.trees import Trees

FLAGS = ("failParentOnFailure", "continueParentOnFailure", "ignoreDependencyOnFailure", "removeDependencyOnFailure")


def tree(job_id: str, *children: dict[str, Any], at: str = "chi", **opts: Any) -> dict[str, Any]:
    """One node in BullMQ's form."""
    below = {"children": list(children)} if children else {}
    return {"name": f"n{job_id}", "queueName": at, "data": {"of": job_id}, "opts": {"jobId": job_id, **opts}, **below}


def test_a_tree_across_queues(trees: Trees) -> None:
    # conformance: C-127
    trees.add_flow(
        tree(
            "R",
            tree("A", **{FLAGS[0]: True}),
            tree("B", tree("B1", priority=4), tree("B2", delay=70), at="par", delay=7, priority=2),
            tree("C", timestamp=1_700_000_000_000, lifo=True, **{FLAGS[3]: True}),
            at="par",
            priority=3,
            delay=50,
            attempts=2,
            lifo=True,
        )
    )
    par = trees["par"].ours
    assert par.zset("waiting-children").keys() == {"R", "B"}
    assert par.dump()["R:dependencies"] == {
        trees["chi"].ours.key("A"),
        trees["par"].ours.key("B"),
        trees["chi"].ours.key("C"),
    }
    assert json.loads(trees["chi"].ours.field("A", "parent") or "") == {
        "id": "R",
        "queueKey": str(par.q),
        "fpof": True,
    }


@pytest.mark.parametrize("flag", FLAGS)
def test_each_flag_is_stored(trees: Trees, flag: str) -> None:
    trees.add_flow(tree("R", tree("A", **{flag: True}), tree("B"), at="par"))


def test_the_order_in_which_a_tree_is_added(trees: Trees) -> None:
    """Breadth first: it is the order in which the leaves of a shared queue run."""
    trees.add_flow(
        tree("G", tree("M", tree("L1"), tree("L2")), tree("L3"), tree("M2", tree("L4"), timestamp=1_700_000_000_000))
    )
    assert trees["chi"].ours.list("wait") == ["L4", "L2", "L1", "L3"]


def test_a_lone_node_and_several_trees(trees: Trees) -> None:
    trees.add_flow(*[tree("X", delay=5), tree("R", tree("A"), at="par"), tree("S", tree("A2"), tree("B2"), at="par")])


def test_a_tree_below_a_job_that_is_there(trees: Trees) -> None:
    trees["par"].add(jobId="P")
    trees.add_flow(tree("R", tree("A"), parent={"queue": "par", "id": "P"}, **{FLAGS[2]: True}))
    trees["par"].fetch()
    trees["par"].add(jobId="Q", parent={"queue": "par", "id": "P"})  # the parent runs


def test_trees_in_paused_queues(trees: Trees) -> None:
    for member in trees.pairs.values():
        member.meta(paused=1, version=f"bullmq:{trees.node.version}")
    trees.add_flow(tree("R", tree("A"), tree("B", priority=1), at="par"))


def test_the_same_tree_again(trees: Trees) -> None:
    for _ in range(2):
        trees.add_flow(tree("R", tree("A"), tree("B", tree("C")), at="par"))


def test_a_parent_that_is_missing(trees: Trees) -> None:
    # conformance: C-030
    chi = trees["chi"]
    with pytest.raises(NoSuchParent):
        chi.add(jobId="A", parent={"queue": "par", "id": "P"})
    assert not chi.ours.exists("id")
    with pytest.raises(NodeError):
        chi.bull("addFlow", flow=trees.tree_for_node(tree("R", tree("A"), parent={"queue": "par", "id": "P"})))
    with pytest.raises(NoSuchParent):
        trees.add_tree_to_ours(tree("R", tree("A"), parent={"queue": "par", "id": "P"}))
    chi.check()


def test_a_job_becomes_a_child_later(trees: Trees) -> None:
    chi, par = trees["chi"], trees["par"]
    par.add(jobId="P")
    chi.add(jobId="A")
    chi.add(jobId="A", parent={"queue": "par", "id": "P"}, delay=9, **{FLAGS[1]: True})
    chi.add(jobId="A")  # no parent named: it stays
    chi.add(jobId="A", parent={"queue": "par", "id": "P"}, **{FLAGS[3]: True})
    chi.add(parent={"queue": "par", "id": "P"}, priority=3)
    chi.add(parent={"queue": "par", "id": "P"}, delay=3)


def test_a_child_is_not_taken_from_its_parent(trees: Trees) -> None:
    # conformance: C-142
    chi, par = trees["chi"], trees["par"]
    par.add(jobId="P")
    par.add(jobId="P2")
    chi.add(jobId="A", parent={"queue": "par", "id": "P"})
    with pytest.raises(HasAnotherParent):
        chi.add(jobId="A", parent={"queue": "par", "id": "P2"})
    chi.complete(chi.fetch(), {"v": 1})
    with pytest.raises(HasAnotherParent):
        chi.add(jobId="A", parent={"queue": "par", "id": "P2"})
    trees.add_flow(tree("R", tree("A"), at="par"))
    assert par.ours.zset("waiting-children").keys() == {"R"}
    assert "flowAttachmentFailed" not in par.ours.hash("R")
    trees.add_flow(tree("S", tree("A"), tree("B"), at="par"))
    assert chi.ours.field("A", "parentKey") == par.ours.key("P")


def test_a_child_whose_parent_is_gone_is_adopted(trees: Trees) -> None:
    chi, par = trees["chi"], trees["par"]
    par.add(jobId="P")
    par.add(jobId="P2")
    chi.add(jobId="A", parent={"queue": "par", "id": "P"})
    for side in (par.ours, par.theirs):
        side.raw.delete(side.key("P"), side.key("P:dependencies"))
    if trees.generation == "6":
        chi.add(jobId="A", parent={"queue": "par", "id": "P2"})
        trees.add_flow(tree("R", tree("A2"), tree("B"), at="par"))
        return
    # BullMQ 5 leaves the child with the parent that is gone, and the new one may wait for ever: heavyq does as 6.
    op = trees.add_op(chi.ours, "job", {}, {"jobId": "A", "parent": {"queue": "par", "id": "P2"}})
    assert chi.ours.run(op).existed
    assert chi.ours.field("A", "parentKey") == par.ours.key("P2")
    assert par.ours.dump()["P2:dependencies"] == {chi.ours.key("A")}


@pytest.mark.parametrize(
    "options", [{}, {"delay": 500}, {"priority": 3}, {"timestamp": 1_700_000_000_000, "delay": 500}]
)
def test_all_children_were_completed_before(trees: Trees, options: dict[str, Any]) -> None:
    # conformance: C-141
    complete_before(trees, "A", "B")
    if trees.generation == "6":
        trees.add_flow(tree("R", tree("A"), tree("B"), at="par", **options))
    else:  # BullMQ 5 releases at the first of them, before the rest of the tree is there: heavyq does as 6
        trees.add_tree_to_ours(tree("R", tree("A"), tree("B"), at="par", **options))
    par, chi = trees["par"].ours, trees["chi"].ours
    assert par.hash("R:processed") == {chi.key("A"): '{"v": "A"}', chi.key("B"): '{"v": "B"}'}
    assert not par.exists("waiting-children")
    where = "delayed" if "delay" in options else "prioritized" if "priority" in options else None
    assert (par.zset(where).keys() == {"R"}) if where else (par.list("wait") == ["R"])
    if where == "delayed":
        assert par.zset("delayed")["R"] == (par.now + 500) * 4096


def test_some_children_were_completed_before(trees: Trees) -> None:
    # conformance: C-141
    complete_before(trees, "A")
    root = tree("R", tree("A"), tree("B"), at="par")
    if trees.generation == "6":
        trees.add_flow(root)
    else:
        trees.add_tree_to_ours(root)
    par, chi = trees["par"].ours, trees["chi"].ours
    assert par.zset("waiting-children").keys() == {"R"}
    assert par.dump()["R:dependencies"] == {chi.key("B")}
    assert [event["event"] for event in par.events()] == ["added", "waiting-children"]


def test_a_completed_job_becomes_the_child_of_one_that_waits(trees: Trees) -> None:
    """Outside a flow the parent is released at once; its delay counts from the add's own time."""
    complete_before(trees, "A")
    par = trees["par"]
    trees.add_flow(tree("P", tree("X"), at="par", delay=500))
    for side in (trees["chi"].ours, trees["chi"].theirs):
        side.raw.lrem(side.key("wait"), 0, "X")
        side.raw.delete(side.key("X"))
    for side in (par.ours, par.theirs):
        side.raw.delete(side.key("P:dependencies"))
    trees["chi"].add(jobId="A", parent={"queue": "par", "id": "P"}, timestamp=1_700_000_000_000)
    assert par.ours.zset("delayed") == {"P": 1_700_000_000_500 * 4096}


def test_a_tree_runs_to_its_root(trees: Trees) -> None:
    # conformance: C-127
    trees.add_flow(tree("R", tree("A"), tree("B", tree("C")), at="par"))
    for job_id in ("A", "C", "B"):
        held = trees["chi"].fetch()
        assert held.id == job_id
        trees["chi"].complete(held, {"by": job_id})
        trees.later(1)
    held = trees["par"].fetch()
    assert held.id == "R"
    trees["par"].complete(held)


# -- both on one queue


@pytest.fixture
def rigs(client: Client, raw: redis.Redis, prefix: str) -> dict[str, Rig]:
    return {name: Rig(client, raw, QueueKey(prefix, name)) for name in ("par", "chi")}


def test_node_workers_run_a_tree_that_heavyq_added(node: Node, rigs: dict[str, Rig]) -> None:
    # conformance: C-126
    bulls = {name: node.at(rig.q) for name, rig in rigs.items()}
    root = Parent(rigs["par"].q, "root")
    middle = Parent(rigs["chi"].q, "middle")

    def add(at: str, job_id: str, parent: Parent | None = None, *, waits: bool = False) -> None:
        how = {"waits_for_children": waits, "in_flow": parent is not None}
        data = json.dumps({"of": job_id}).encode()
        rigs[at].add(job_id, data=data, job_id=job_id, parent=parent, opts=pack_options(parent=parent), **how)

    add("par", "root", waits=True)
    add("chi", "leaf", root)
    add("chi", "middle", root, waits=True)
    add("chi", "low", middle)
    for parent in (root, middle):
        assert not rigs["par"].run(ops.close_flow(parent, now_ms=rigs["par"].now))
    leaf, low = (node_of(each, "chi", "waiting") for each in ("leaf", "low"))
    below = [leaf, node_of("middle", "chi", "waiting-children", low)]
    assert bulls["par"]("tree", id="root") == node_of("root", "par", "waiting-children", *below)
    assert bulls["chi"]("whole", id="leaf")["parent"] == {"id": "root", "queueKey": str(root.queue)}
    try:
        for bull in bulls.values():
            bull("startWorker")
        eventually(lambda: rigs["par"].zset("completed").keys() == {"root"})
        assert bulls["par"]("childrenValues", id="root") == {
            rigs["chi"].key("leaf"): {"of": "leaf"},
            rigs["chi"].key("middle"): {"of": "middle"},
        }
        assert bulls["chi"]("childrenValues", id="middle") == {rigs["chi"].key("low"): {"of": "low"}}
        assert [bull("errors") for bull in bulls.values()] == [[], []]
    finally:
        for bull in bulls.values():
            bull("close")


def test_a_child_by_heavyq_of_a_tree_by_node(bull: NodeQueue, ours: Rig) -> None:
    flow = {"name": "root", "queueName": "q", "opts": {"jobId": "R"}, "children": [{"name": "a", "queueName": "q"}]}
    bull("addFlow", flow=flow)
    parent = Parent(ours.q, "R", on_failure="ignore")
    ours.add(job_id="mine", parent=parent, opts=pack_options(parent=parent))
    assert ours.key("mine") in bull("dependencies", id="R")["unprocessed"]
    assert bull.find("mine")["opts"]["ignoreDependencyOnFailure"] is True
    bull("startWorker")
    eventually(lambda: bull.state("R") == "completed")


# -- helpers


def node_of(job_id: str, queue: str, state: str, *children: dict[str, Any]) -> dict[str, Any]:
    """A node as Node's getFlow shows it."""
    return {"id": job_id, "queue": queue, "name": job_id, "state": state, "children": list(children)}


def complete_before(trees: Trees, *ids: str) -> None:
    for job_id in ids:
        trees["chi"].add(jobId=job_id)
        trees["chi"].complete(trees["chi"].fetch(), {"v": job_id})
    trees.later(10)
