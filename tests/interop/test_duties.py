"""Jobs that need a duty which heavyq has not got yet: it leaves them whole, for a Node worker to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.interop.node import NodeQueue
    from tests.support.ops import Rig
    from tests.support.worker import Worker

    StartWorker = Callable[..., Worker]

DELAY_MS = 60_000
ASIDE = ("repeat", "de:", "dn:")  # what BullMQ keeps beside such jobs


def scheduled(bull: NodeQueue) -> str:
    """A scheduler's first iteration, due at once."""
    job_id: str = bull("schedule", id="tick", repeat={"every": 3_600_000}, template={"name": "tick", "data": {"a": 1}})
    return job_id


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


DUTIES = {"scheduler": scheduled, "parent": child}


@pytest.mark.parametrize("duty", DUTIES)
def test_a_job_that_needs_a_duty_is_put_off_and_stays_whole(
    bull: NodeQueue, heavyq_worker: StartWorker, ours: Rig, duty: str
) -> None:
    bull("startEvents")
    job_id = DUTIES[duty](bull)
    before = _kept(bull, job_id)
    aside = {key: value for key, value in ours.dump().items() if key.startswith(ASIDE) and key != job_id}
    worker = heavyq_worker()
    eventually(lambda: bull.state(job_id) == "delayed", 15, "delayed")
    worker.wait_log(rf"duty={duty}")
    job = bull.find(job_id)
    assert job["delay"] == DELAY_MS
    assert (job["attemptsMade"], job["attemptsStarted"], job.get("failedReason")) == (0, 1, None)
    assert not job.get("stacktrace")
    assert _kept(bull, job_id) == before
    after = ours.dump()
    assert {key: after[key] for key in aside} == aside
    assert not ours.exists(f"{job_id}:lock")
    assert ours.list("active") == []
    eventually(lambda: "delayed" in [event["event"] for event in bull.events_of(job_id)][2:], what="the event")
    worker.stop()

    bull("promote", id=job_id)
    bull("startWorker")
    eventually(lambda: bull.state(job_id) == "completed", 10, "completed in Node")
    job = bull.find(job_id)
    assert (job["attemptsMade"], job["attemptsStarted"], job["returnvalue"]) == (1, 2, {"a": 1})
    _check_duty_was_done(bull, ours, job_id, duty)


def _kept(bull: NodeQueue, job_id: str) -> dict[str, Any]:
    job = bull.find(job_id)
    names = ("name", "data", "parentKey", "repeatJobKey", "deduplicationId", "timestamp", "priority")
    return {name: job.get(name) for name in names} | {"opts": {k: v for k, v in job["opts"].items() if k != "delay"}}


def _check_duty_was_done(bull: NodeQueue, ours: Rig, job_id: str, duty: str) -> None:
    if duty == "scheduler":
        planned = [each for each in bull("ids", state="delayed") if each.startswith("repeat:tick:")]
        assert len(planned) == 1
        assert planned != [job_id]
        assert ours.field("repeat:tick", "ic") == "2"
    elif duty == "parent":
        parent_id = bull.find(job_id)["parentKey"].rpartition(":")[2]
        eventually(lambda: bull.state(parent_id) == "completed", 10, "the parent ran")
        assert bull("childrenValues", id=parent_id) == {ours.key(job_id): {"a": 1}}
    else:
        assert not ours.exists("de:d")


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
