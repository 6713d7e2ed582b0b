"""The four duties of whoever takes or ends a job, on jobs that Node has added and heavyq runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.interop.node import NodeQueue
    from tests.support.ops import Rig
    from tests.support.worker import Worker

    StartWorker = Callable[..., Worker]


def child(bull: NodeQueue) -> str:
    """A child whose parent waits for it in the same queue."""
    flow = {
        "name": "parent",
        "queueName": bull.q.name,
        "data": {},
        "children": [{"name": "child", "queueName": bull.q.name, "data": {"a": 1}}],
    }
    job_id: str = bull("addFlow", flow=flow)["children"][0]
    return job_id


def test_the_next_run_of_a_scheduler_is_planned_before_its_job_runs(
    bull: NodeQueue, heavyq_worker: StartWorker, ours: Rig
) -> None:
    job_id = bull("schedule", id="tick", repeat={"every": 3_600_000}, template={"name": "tick", "data": {"ms": 1500}})
    heavyq_worker()
    eventually(lambda: bull.state(job_id) == "active", 15, "it runs")
    eventually(lambda: ours.zset("delayed"), 1, "the next one is planned while it runs")
    (planned,) = ours.zset("delayed")
    assert planned == f"repeat:tick:{int(job_id.rpartition(':')[2]) + 3_600_000}"
    assert ours.field("repeat:tick", "ic") == "2"
    eventually(lambda: bull.state(job_id) == "completed", 10, "completed")
    assert bull.state(planned) == "delayed"


def test_a_childs_result_is_put_in_its_parents_books(bull: NodeQueue, heavyq_worker: StartWorker, ours: Rig) -> None:
    job_id = child(bull)
    parent_id = bull.find(job_id)["parentKey"].rpartition(":")[2]
    heavyq_worker()
    eventually(lambda: bull.state(parent_id) == "completed", 15, "the parent ran")
    assert bull("childrenValues", id=parent_id) == {ours.key(job_id): bull.find(job_id)["returnvalue"]}


def test_a_parent_whose_children_are_done_is_run_by_heavyq(bull: NodeQueue, heavyq_worker: StartWorker) -> None:
    child_id = child(bull)
    parent_id = bull.find(child_id)["parentKey"].rpartition(":")[2]
    assert bull("fetch", token="node:1")["id"] == child_id
    bull("complete", id=child_id, token="node:1", value={"a": 2})
    heavyq_worker()
    eventually(lambda: bull.state(parent_id) == "completed", 15, "the parent ran")
    assert list(bull("childrenValues", id=parent_id).values()) == [{"a": 2}]


def test_a_parent_failed_by_its_child_is_failed_by_heavyq_without_running(
    bull: NodeQueue, heavyq_worker: StartWorker, ours: Rig
) -> None:
    flow = {
        "name": "parent",
        "queueName": bull.q.name,
        "data": {"returns": "must not run"},
        "children": [
            {"name": "child", "queueName": bull.q.name, "data": {}, "opts": {"failParentOnFailure": True}},
        ],
    }
    made = bull("addFlow", flow=flow)
    child_id = bull("fetch", token="node:1")["id"]
    assert child_id == made["children"][0]
    bull("fail", id=child_id, token="node:1", message="no")
    heavyq_worker()
    eventually(lambda: bull.state(made["id"]) == "failed", 15, "failed")
    parent = bull.find(made["id"])
    assert parent["failedReason"] == f"child {ours.key(child_id)} failed"
    assert parent.get("returnvalue") is None
    assert not parent.get("deferredFailure")


def test_a_plain_deduplication_id_is_let_go_at_the_end(bull: NodeQueue, heavyq_worker: StartWorker, ours: Rig) -> None:
    # conformance: C-114
    bull("startEvents")
    first = bull.add({"ms": 300}, deduplication={"id": "d"})
    second = bull.add({"ms": 300}, deduplication={"id": "t", "ttl": 60_000})
    assert bull.add(deduplication={"id": "d"}) == first
    heavyq_worker()
    eventually(lambda: bull.state(first) == bull.state(second) == "completed", 15, "both are completed")
    assert bull.add(deduplication={"id": "t"}) == second  # its time to live still runs
    assert bull.add(deduplication={"id": "d"}) not in (first, second)


def test_the_last_add_kept_back_while_heavyq_runs_the_first_is_requeued(
    bull: NodeQueue, heavyq_worker: StartWorker, ours: Rig
) -> None:
    # conformance: C-120
    keep = {"id": "d", "keepLastIfActive": True}
    first = bull.add({"ms": 3000}, deduplication=keep)
    heavyq_worker()
    eventually(lambda: bull.state(first) == "active", 15, "active")
    assert bull.add({"ms": 1}, deduplication=keep) == first
    assert bull.add({"ms": 2}, deduplication=keep) == first
    eventually(lambda: bull.state(first) == "completed", 15, "completed")
    eventually(lambda: ours.raw.zcard(ours.key("completed")) == 2, 15, "the last add has run, once")
