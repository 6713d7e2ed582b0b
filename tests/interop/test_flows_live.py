"""Flows that workers of both kinds run together: trees over two queues, and what a child's failure does (live.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from heavyq import Flow
from tests.support.eventually import always, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from heavyq import Queue
    from tests.interop.node import NodeQueue
    from tests.support.worker import Worker

    StartWorker = Callable[..., Worker]
    Declare = Callable[..., Queue[Any, Any]]
    JobQueue = Queue[Any, Any]

READ = {"children": True}  # a parent's data: it returns what it read of its children


def ended(bull: NodeQueue, job_id: str, state: str = "completed") -> dict[str, Any]:
    eventually(lambda: bull.state(job_id) == state, 20, f"{job_id} is {state}")
    return bull.find(job_id)


def node_tree(q: str) -> dict[str, Any]:
    """Three levels in two queues: a root, two middles, and five leaves below them."""

    def leaf(n: int) -> dict[str, Any]:
        return {"name": "leaf", "queueName": "kids", "data": {"returns": n}}

    middles = [
        {"name": "middle", "queueName": "kids", "data": READ, "children": [leaf(n) for n in numbers]}
        for numbers in ((1, 2), (3, 4, 5))
    ]
    return {"name": "root", "queueName": q, "data": READ, "children": middles}


def values_below(root: dict[str, Any]) -> list[list[int]]:
    """What came up through the tree: the leaves' numbers, middle by middle."""
    middles = root["returnvalue"]["children"].values()
    return sorted(sorted(middle["children"].values()) for middle in middles)


def test_a_tree_of_node_s_run_by_heavyq_alone(bull: NodeQueue, kids: NodeQueue, live_worker: StartWorker) -> None:
    # conformance: C-125
    live_worker("-c", "2")
    root = ended(bull, bull("addFlow", flow=node_tree(bull.q.name))["id"])
    assert values_below(root) == [[1, 2], [3, 4, 5]]
    assert bull("childrenValues", id=root["id"]) == root["returnvalue"]["children"]
    assert (root["attemptsMade"], root["attemptsStarted"]) == (1, 1)


def test_a_tree_of_heavyq_s_run_by_node_alone(bull: NodeQueue, kids: NodeQueue, declare: Declare, hq: JobQueue) -> None:
    # conformance: C-126
    children = declare("kids")
    middles = [
        Flow(children, "middle", READ, children=[Flow(children, "leaf", {"returns": n}) for n in numbers])
        for numbers in ((1, 2), (3, 4, 5))
    ]
    tree = Flow(hq, "root", READ, children=middles).add()
    assert bull.state(tree.job.id) == "waiting-children"
    bull("startLive")
    kids("startLive")
    root = ended(bull, tree.job.id)
    assert values_below(root) == [[1, 2], [3, 4, 5]]
    assert tree.job.children_values() == root["returnvalue"]["children"]


@pytest.mark.parametrize("by", ["heavyq", "node"])
def test_a_tree_run_by_both_kinds(
    bull: NodeQueue, kids: NodeQueue, declare: Declare, hq: JobQueue, live_worker: StartWorker, by: str
) -> None:
    """Twelve trees, so that parents and children of each are run by one and by the other."""
    # conformance: C-125 C-126 C-128
    bull("startEvents")
    if by == "node":
        roots = [bull("addFlow", flow=node_tree(bull.q.name))["id"] for _ in range(12)]
    else:
        children = declare("kids")

        def middle(*numbers: int) -> Flow[Any, Any]:
            return Flow(children, "middle", READ, children=[Flow(children, {"returns": n, "ms": 5}) for n in numbers])

        roots = [Flow(hq, "root", READ, children=[middle(1, 2), middle(3, 4, 5)]).add().job.id for _ in range(12)]
    live_worker("-c", "1")
    eventually(lambda: bull("workers"), 15, "heavyq's worker is there")
    bull("startLive", opts={"concurrency": 1})
    kids("startLive", opts={"concurrency": 1})
    for job_id in roots:
        assert values_below(ended(bull, job_id)) == [[1, 2], [3, 4, 5]]
    in_node = len(bull.started()) + len(kids.started())
    assert 0 < in_node < 12 * 8
    eventually(lambda: "completed" in [e["event"] for e in bull.events_of(roots[-1])], what="the last event")
    names = [(event["event"], event.get("prev")) for event in bull.events_of(roots[0])]
    assert names == [
        ("added", None),
        ("waiting-children", None),
        ("waiting", "waiting-children"),
        ("active", "waiting"),
        ("completed", "active"),
    ]


@pytest.mark.parametrize("by", ["heavyq", "node"])
@pytest.mark.parametrize(
    ("flag", "becomes"),
    [
        ("failParentOnFailure", "failed"),
        ("ignoreDependencyOnFailure", "completed"),
        ("removeDependencyOnFailure", "completed"),
        ("continueParentOnFailure", "completed"),
        (None, "waiting-children"),
    ],
)
def test_what_a_failing_child_does_to_its_parent(
    bull: NodeQueue, kids: NodeQueue, live_worker: StartWorker, flag: str | None, becomes: str, by: str
) -> None:
    """The child fails in one kind of worker, and the parent is the other's."""
    # conformance: C-130 C-131 C-132 C-133 C-135
    child = {"name": "kid", "queueName": "kids", "data": {"raise": "no"}, "opts": {flag: True} if flag else {}}
    made = bull("addFlow", flow={"name": "root", "queueName": "q", "data": READ, "children": [child]})
    parent_id, child_id = made["id"], made["children"][0]
    (kids if by == "node" else bull)("startLive")
    live_worker("--queue", "q" if by == "node" else "kids")
    assert ended(kids, child_id, "failed")["failedReason"] == "no"
    if flag is None:
        always(lambda: bull.state(parent_id) == becomes, 0.5, "the parent waits")
        kids("updateData", id=child_id, data={"returns": "mended"})
        kids("retry", id=child_id)
        assert list(ended(bull, parent_id)["returnvalue"]["children"].values()) == ["mended"]
        return
    parent = ended(bull, parent_id, becomes)
    key = kids.q.key(child_id)
    if flag == "failParentOnFailure":
        assert parent["failedReason"] == f"child {key} failed"
        assert not parent.get("returnvalue")
    else:
        told = {} if flag == "removeDependencyOnFailure" else {key: "no"}
        assert parent["returnvalue"] == {"children": {}, "failed": told}


def test_failures_go_up_through_three_levels(bull: NodeQueue, kids: NodeQueue, live_worker: StartWorker) -> None:
    # conformance: C-131
    fatal = {"opts": {"failParentOnFailure": True}}
    leaf = {"name": "leaf", "queueName": "kids", "data": {"raise": "at the bottom"}, **fatal}
    middle = {"name": "middle", "queueName": "q", "data": READ, "children": [leaf], **fatal}
    made = bull("addFlow", flow={"name": "root", "queueName": "q", "data": READ, "children": [middle]})
    kids("startLive")
    live_worker("--queue", "q")
    root = ended(bull, made["id"], "failed")
    assert root["failedReason"] == f"child {bull.q.key(made['children'][0])} failed"
    assert bull.state(made["children"][0]) == "failed"
    assert not root.get("returnvalue")


def test_a_parent_goes_on_with_children_pending(
    bull: NodeQueue, kids: NodeQueue, live_worker: StartWorker, hq: JobQueue
) -> None:
    """It runs at once; completing it is refused, and heavyq fails it and says why."""
    # conformance: C-134 C-138
    children = [
        {"name": "bad", "queueName": "kids", "data": {"raise": "no"}, "opts": {"continueParentOnFailure": True}},
        {"name": "never", "queueName": "kids", "data": {}, "opts": {"delay": 3_600_000}},
    ]
    made = bull("addFlow", flow={"name": "root", "queueName": "q", "data": READ, "children": children})
    kids("startLive")
    live_worker("--queue", "q")
    root = ended(bull, made["id"], "failed")
    assert "child" in root["failedReason"]
    assert root["attemptsStarted"] == 1
    hq.handle(made["id"]).remove_pending_children()
    hq.handle(made["id"]).retry()
    root = ended(bull, made["id"])
    assert root["returnvalue"]["failed"] == {f"{bull.q.prefix}:kids:{made['children'][0]}": "no"}


@pytest.mark.parametrize("of_kids", ["heavyq", "node"])
def test_a_running_parent_adds_children_and_waits_for_them(
    bull: NodeQueue, kids: NodeQueue, live_worker: StartWorker, of_kids: str
) -> None:
    # conformance: C-136
    job_id = bull.add({"once": "children", "children": True})
    live_worker("--queue", "q", *(["--queue", "kids"] if of_kids == "heavyq" else []))
    if of_kids == "node":
        eventually(lambda: bull.state(job_id) == "waiting-children", 15, "it waits for its children")
        kids("startLive")
    job = ended(bull, job_id)
    assert sorted(job["returnvalue"]["children"].values()) == [0, 1]
    assert (job["attemptsMade"], job["attemptsStarted"]) == (1, 2)


def test_waiting_for_no_children_runs_the_job_again_at_once(bull: NodeQueue, live_worker: StartWorker) -> None:
    # conformance: C-137
    job_id = bull.add({"once": "no children", "returns": "went on"})
    live_worker()
    job = ended(bull, job_id)
    assert (job["returnvalue"], job["attemptsMade"]) == ("went on", 1)


def test_a_child_removed_on_completion_hands_over_its_value(
    bull: NodeQueue, kids: NodeQueue, live_worker: StartWorker
) -> None:
    # conformance: C-139
    child = {"name": "kid", "queueName": "kids", "data": {"returns": "kept"}, "opts": {"removeOnComplete": True}}
    made = bull("addFlow", flow={"name": "root", "queueName": "q", "data": READ, "children": [child]})
    live_worker()
    root = ended(bull, made["id"])
    assert list(root["returnvalue"]["children"].values()) == ["kept"]
    assert kids("find", id=made["children"][0]) is None


def test_a_failing_child_removed_on_failure_releases_its_parent(
    bull: NodeQueue, kids: NodeQueue, live_worker: StartWorker
) -> None:
    # conformance: C-140
    child = {"name": "kid", "queueName": "kids", "data": {"raise": "no"}, "opts": {"removeOnFail": True}}
    made = bull("addFlow", flow={"name": "root", "queueName": "q", "data": READ, "children": [child]})
    live_worker()
    root = ended(bull, made["id"])
    assert root["returnvalue"] == {"children": {}, "failed": {}}
    assert kids("find", id=made["children"][0]) is None
