"""heavyq's producers add, Node's workers run; and both kinds of producers on one queue."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import TypeAdapter

import heavyq
from heavyq import JobFailed, Keep, Queue, exponential
from tests.support.eventually import eventually
from tests.support.worker import heavyq as run_heavyq

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from heavyq.bullmq.keys import QueueKey
    from tests.interop.node import NodeQueue
    from tests.support.ops import Rig
    from tests.support.valkey import Valkey

JobQueue = Queue[Any, Any]


@pytest.fixture
def jobs(q: QueueKey, valkey: Valkey) -> Iterator[JobQueue]:
    """The test's queue as a heavyq program sees it."""
    yield Queue(q.name, prefix=q.prefix, connection=valkey.url, payload=TypeAdapter(Any), result=TypeAdapter(Any))
    heavyq.close()


def test_a_node_worker_completes_what_heavyq_added(bull: NodeQueue, jobs: JobQueue) -> None:
    # conformance: C-011 C-022
    bull("startWorker")
    values = [None, True, 0, 12.5, 'text "é" ☃ 😀 \n/', [], [1, [None]], {"a": {"b": [1, "two"]}}]
    added = [jobs.add("echo", value, remove_on_complete=False) for value in values]
    assert [job.result(timeout=10) for job in added] == values
    assert [job.state() for job in added] == ["completed"] * len(values)


def test_the_command_line_waits_for_a_node_worker(bull: NodeQueue, q: QueueKey, valkey: Valkey, tmp_path: Path) -> None:
    bull("startWorker")
    here = ("--redis", valkey.url, "--prefix", q.prefix)
    done = run_heavyq("add", q.name, "echo", '{"x": "é"}', "--wait", "--timeout", "10s", *here, folder=tmp_path)
    assert done.code == 0, done.err
    assert json.loads(done.out[done.out.index("{") :]) == {"x": "é"}


def test_heavyq_gets_the_result_of_a_job_that_node_removed(bull: NodeQueue, jobs: JobQueue) -> None:
    job = jobs.add("echo", {"x": 1}, remove_on_complete=True)
    bull("startWorker")
    assert job.result(timeout=10) == {"x": 1}
    assert bull("find", id=job.id) is None


def test_heavyq_gets_the_failure_of_a_node_worker(bull: NodeQueue, jobs: JobQueue) -> None:
    bull("startWorker")
    job = jobs.add({"raise": 'no "é"', "rows": ["one"], "progress": {"at": 1}}, attempts=2, backoff=exponential("20ms"))
    with pytest.raises(JobFailed, match='no "é"'):
        job.result(timeout=10)
    job.refresh()
    assert (job.attempts_made, job.progress, job.logs()) == (2, {"at": 1}, ["one", "one"])
    assert len(bull.find(job.id)["stacktrace"]) == 2


def test_node_sees_the_options_that_heavyq_stored(bull: NodeQueue, jobs: JobQueue) -> None:
    job = jobs.add(
        "clip",
        {"x": 1},
        priority=4,
        attempts=3,
        backoff=exponential("1s", jitter=0.25),
        remove_on_complete=Keep(count=5, age="1h"),
        remove_on_fail=7,
        job_id="mine",
        keep_logs=10,
        stack_trace_limit=2,
    )
    seen = bull.find("mine")
    assert job.id == "mine"
    assert (seen["name"], seen["data"], seen["priority"], seen["state"]) == ("clip", {"x": 1}, 4, "prioritized")
    opts = seen["opts"]
    assert opts["backoff"] == {"type": "exponential", "delay": 1000, "jitter": 0.25}
    assert opts["removeOnComplete"].items() >= {"count": 5, "age": 3600}.items()
    expected = {"attempts": 3, "removeOnFail": 7, "keepLogs": 10, "stackTraceLimit": 2, "jobId": "mine", "priority": 4}
    assert {name: opts[name] for name in expected} == expected


def test_what_heavyq_adds_is_what_node_adds(bull: NodeQueue, jobs: JobQueue, ours: Rig) -> None:
    """The whole of a job, field by field, with the profile's defaults given to Node too."""
    # conformance: C-012
    options: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({"lifo": True}, {"lifo": True}),
        ({"priority": 2}, {"priority": 2}),
        ({"delay": "90s"}, {"delay": 90_000}),
        ({"remove_on_fail": True, "keep_logs": 3}, {"removeOnFail": True, "keepLogs": 3}),
    ]
    of_the_profile = {
        "attempts": 3,
        "backoff": {"type": "exponential", "delay": 1000},
        "removeOnComplete": True,
        "removeOnFail": False,
    }
    for python, node in options:
        mine = ours.hash(jobs.add("n", {"a": [1]}, **python).id)
        theirs = ours.hash(bull.add({"a": [1]}, name="n", **{**of_the_profile, **node}))
        assert abs(int(mine.pop("timestamp")) - int(theirs.pop("timestamp"))) < 5000
        for field in ("opts", "data"):
            assert json.loads(mine.pop(field)) == json.loads(theirs.pop(field))
        assert mine == theirs


def test_a_bulk_keeps_its_order(bull: NodeQueue, jobs: JobQueue) -> None:
    # conformance: C-021
    added = jobs.add_bulk([("n", {"n": n}) for n in range(100)])
    assert bull("ids", state="waiting", asc=True) == [job.id for job in added]


def test_ids_of_both_producers_are_one_sequence(bull: NodeQueue, jobs: JobQueue) -> None:
    ids = []
    for _ in range(5):
        ids += [jobs.add({}).id, bull.add()]
    assert ids == [str(n) for n in range(1, 11)]


def test_an_id_of_ones_own_is_taken_once_by_either(bull: NodeQueue, jobs: JobQueue) -> None:
    # conformance: C-020
    assert jobs.add({"by": "heavyq"}, job_id="a").added
    assert bull.add({"by": "node"}, jobId="a") == "a"
    assert bull.find("a")["data"] == {"by": "heavyq"}
    bull.add({"by": "node"}, jobId="b")
    second = jobs.add({"by": "heavyq"}, job_id="b")
    assert not second.added
    assert second.refresh().data == {"by": "node"}


def test_priorities_of_both_producers_are_one_order(bull: NodeQueue, jobs: JobQueue) -> None:
    # conformance: C-015
    first = bull.add(priority=5)
    ids = [jobs.add({}, priority=5).id, bull.add(priority=5), jobs.add({}, priority=1).id, jobs.add({}).id]
    bull("startWorker")
    eventually(lambda: len(bull.started()) == 5, 10, "all have started")
    assert bull.started() == [ids[3], ids[2], first, ids[0], ids[1]]


def test_an_idle_node_worker_is_woken_by_what_heavyq_adds(bull: NodeQueue, jobs: JobQueue) -> None:
    # conformance: C-016
    bull("startWorker", opts={"drainDelay": 30})
    warm = bull.add()
    eventually(lambda: bull.state(warm) == "completed", 10, "completed")
    for delay_ms in (0, 500):
        job = jobs.add({}, delay=delay_ms / 1000, remove_on_complete=False)
        job.result(timeout=10)
        seen = bull.find(job.id)
        assert 0 <= seen["processedOn"] - seen["timestamp"] - delay_ms < 2500


def test_a_delayed_and_prioritized_job_is_promoted_by_node(bull: NodeQueue, jobs: JobQueue) -> None:
    # conformance: C-017
    bull("startEvents")
    job = jobs.add({}, delay=0.2, priority=3, remove_on_complete=False)
    due_ms = bull.find(job.id)["timestamp"] + 200
    assert bull.state(job.id) == "delayed"
    bull("startWorker")
    job.result(timeout=10)
    eventually(lambda: "completed" in [event["event"] for event in bull.events_of(job.id)], what="the last event")
    events = bull.events_of(job.id)
    assert [event["event"] for event in events] == ["added", "delayed", "waiting", "active", "completed"]
    assert int(events[1]["delay"]) == due_ms
