"""Node produces and reads, heavyq's worker runs: what a BullMQ user sees of `heavyq run`."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from tests.interop.node import NodeError
from tests.support.eventually import always, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from heavyq.bullmq.keys import QueueKey
    from tests.interop.node import Node, NodeQueue
    from tests.support.ops import Rig
    from tests.support.worker import Worker

    StartWorker = Callable[..., Worker]

_WAKE_MS = 2500  # far below the 5 s and more that an idle worker would sleep without a marker


def test_node_gets_results_through_queue_events(bull: NodeQueue, heavyq_worker: StartWorker) -> None:
    # conformance: C-046
    bull("startEvents")
    heavyq_worker("-c", "2")
    values = [None, True, 0, 12.5, 'text "é" ☃ 😀 \n', [], [1, [None]], {}, {"a": {"b": [1, "two"]}}, "x" * 100_000]
    waiting = []
    for value in values:
        job_id = bull.add({"returns": value})
        waiting.append(bull.begin("result", id=job_id, ms=15_000))
    assert [bull.node.reply(n) for n in waiting] == values


def test_node_gets_a_result_that_is_already_there(bull: NodeQueue, heavyq_worker: StartWorker) -> None:
    # conformance: C-047
    heavyq_worker()
    job_id = bull.add({"returns": {"done": 1}})
    eventually(lambda: bull.state(job_id) == "completed", 15, "completed")
    assert bull("result", id=job_id, ms=1000) == {"done": 1}


def test_payloads_of_any_json_arrive(bull: NodeQueue, heavyq_worker: StartWorker) -> None:
    # conformance: C-022 C-045
    heavyq_worker()
    values = [None, False, 7, "text", [1, {"a": []}], {"deep": {"er": None}}, {"é": "☃"}]
    ids = [bull("add", name="job", data=value, opts={}) for value in values]
    eventually(lambda: bull("counts")["completed"] == len(ids), 15, "all are completed")
    assert [bull.find(job_id)["returnvalue"] for job_id in ids] == values


def test_a_completed_job_as_node_sees_it(bull: NodeQueue, heavyq_worker: StartWorker, ours: Rig) -> None:
    # conformance: C-048 C-060 C-061
    bull("startEvents")
    heavyq_worker("--name", "w1")
    job_id = bull.add({"progress": {"frame": 3}, "rows": ["one", "two é"], "returns": 5}, name="clip")
    assert bull("result", id=job_id, ms=15_000) == 5
    job = bull.find(job_id)
    seen = {name: job.get(name) for name in ("name", "state", "progress", "attemptsMade", "attemptsStarted")}
    assert seen == {
        "name": "clip",
        "state": "completed",
        "progress": {"frame": 3},
        "attemptsMade": 1,
        "attemptsStarted": 1,
    }
    assert job["processedBy"] == "w1"
    assert job["stalledCounter"] == 0
    assert job["timestamp"] <= job["processedOn"] <= job["finishedOn"]
    assert bull("logs", id=job_id) == {"logs": ["one", "two é"], "count": 2}
    eventually(lambda: ours.list("active") == [], what="nothing is active")
    assert ours.zset("completed") == {job_id: job["finishedOn"]}
    left = {suffix for suffix in ours.dump() if not suffix.startswith("hq:")}
    assert left - {"stalled-check", "marker", "meta"} == {"id", "events", "completed", job_id, f"{job_id}:logs"}


def test_events_are_those_that_bullmq_would_emit(bull: NodeQueue, heavyq_worker: StartWorker) -> None:
    # conformance: C-033 C-060
    bull("startEvents")
    heavyq_worker()
    job_id = bull.add({"progress": 50, "returns": [1]})
    eventually(lambda: "drained" in [name for name, _ in bull("events")], 15, "drained")
    told = [[name, {k: v for k, v in fields.items() if k not in ("jobId", "event")}] for name, fields in bull("events")]
    assert [event for event in told if event[0] != "drained"] == [
        ["added", {"name": "job"}],
        ["waiting", {}],
        ["active", {"prev": "waiting"}],
        ["progress", {"data": 50}],
        ["completed", {"returnvalue": [1], "prev": "active"}],
    ]
    assert bull.state(job_id) == "completed"


def test_a_job_that_fails_every_time(bull: NodeQueue, heavyq_worker: StartWorker) -> None:
    # conformance: C-043 C-063 C-064
    bull("startEvents")
    heavyq_worker()
    backoff = {"type": "exponential", "delay": 50}
    job_id = bull.add({"raise": 'no "luck" é'}, attempts=3, backoff=backoff)
    with pytest.raises(NodeError, match='no "luck" é'):
        bull("result", id=job_id, ms=15_000)
    job = bull.find(job_id)
    assert (job["state"], job["attemptsMade"], job["attemptsStarted"]) == ("failed", 3, 3)
    assert 'no "luck" é' in job["failedReason"]
    assert len(job["stacktrace"]) == 3
    assert all(trace.startswith("RuntimeError: ") for trace in job["stacktrace"])
    eventually(lambda: "retries-exhausted" in [e["event"] for e in bull.events_of(job_id)], what="retries-exhausted")
    events = bull.events_of(job_id)
    names = [event["event"] for event in events]
    assert names == [
        *("added", "waiting", "active", "delayed"),
        *("waiting", "active", "delayed"),
        *("waiting", "active", "failed", "retries-exhausted"),
    ]
    assert events[-1]["attemptsMade"] in (3, "3")


def test_a_job_retried_by_hand_in_node_runs_again(bull: NodeQueue, heavyq_worker: StartWorker) -> None:
    # conformance: C-078
    bull("startEvents")
    heavyq_worker()
    job_id = bull.add({"raise": "first"})
    eventually(lambda: bull.state(job_id) == "failed", 15, "failed")
    bull("retry", id=job_id)
    eventually(lambda: bull.find(job_id)["attemptsStarted"] == 2 and bull.state(job_id) == "failed", 15, "failed twice")
    assert len(bull.find(job_id)["stacktrace"]) == 2


def test_nothing_stays_of_a_job_that_is_removed_on_completion(
    bull: NodeQueue, heavyq_worker: StartWorker, ours: Rig
) -> None:
    # conformance: C-053
    bull("startEvents")
    heavyq_worker()
    job_id = bull.add({"rows": ["a row"], "returns": "kept in the event"}, removeOnComplete=True)
    eventually(lambda: "completed" in [e["event"] for e in bull.events_of(job_id)], 15, "completed")
    assert bull.events_of(job_id)[-1]["returnvalue"] == "kept in the event"
    assert [suffix for suffix in ours.dump() if suffix.split(":")[0] == job_id] == []


def test_order_of_what_node_added(bull: NodeQueue, heavyq_worker: StartWorker) -> None:
    # conformance: C-031
    ids = [bull.add(priority=priority) for priority in (3, 1, 3)]
    ids += [bull.add(), bull.add(), bull.add(lifo=True)]
    heavyq_worker("-c", "1")
    eventually(lambda: bull("counts")["completed"] == 6, 15, "all six are completed")
    order = [fields["jobId"] for name, fields in _events(bull) if name == "active"]
    assert order == [ids[5], ids[3], ids[4], ids[1], ids[0], ids[2]]


def test_an_idle_worker_is_woken_by_the_marker(bull: NodeQueue, heavyq_worker: StartWorker) -> None:
    # conformance: C-035
    worker = heavyq_worker()
    warm = bull.add()
    eventually(lambda: bull.state(warm) == "completed", 15, "completed")
    at_once, later = bull.add(), bull.add(delay=1500)
    eventually(lambda: bull("counts")["completed"] == 3, 15, "all are completed")
    for job_id, delay_ms in ((at_once, 0), (later, 1500)):
        job = bull.find(job_id)
        assert 0 <= job["processedOn"] - job["timestamp"] - delay_ms < _WAKE_MS, worker.log


def test_two_idle_workers_of_both_kinds_share_two_jobs(bull: NodeQueue, heavyq_worker: StartWorker) -> None:
    # conformance: C-034
    heavyq_worker("-c", "1")
    warm = bull.add()
    eventually(lambda: bull.state(warm) == "completed", 15, "completed")
    bull("startWorker")
    ids = [bull.add({"ms": 3000}), bull.add({"ms": 3000})]
    eventually(lambda: all(bull.state(job_id) == "completed" for job_id in ids), 15, "both are completed")
    assert all((job := bull.find(job_id))["processedOn"] - job["timestamp"] < _WAKE_MS for job_id in ids)
    assert len(bull.started()) == 1


def test_a_queue_paused_by_node_starts_nothing(bull: NodeQueue, heavyq_worker: StartWorker) -> None:
    heavyq_worker()
    warm = bull.add()
    eventually(lambda: bull.state(warm) == "completed", 15, "completed")
    bull("pause")
    ids = [bull.add() for _ in range(3)]
    always(lambda: all(bull.state(job_id) == "waiting" for job_id in ids), 0.5, "they wait")
    bull("resume")
    eventually(lambda: all(bull.state(job_id) == "completed" for job_id in ids), 15, "all ran")
    ran = [bull.find(job_id)["processedOn"] for job_id in ids]
    assert ran == sorted(ran)


@pytest.mark.parametrize(("argv", "suffix"), [((), ""), (("--name", "w1"), ":w:w1")])
def test_node_lists_heavyqs_worker(
    bull: NodeQueue, heavyq_worker: StartWorker, q: QueueKey, argv: tuple[str, ...], suffix: str
) -> None:
    # conformance: C-170
    heavyq_worker(*argv)
    eventually(lambda: bull("workers") == [f"{q.prefix}:cQ=={suffix}"], 15, f"one worker with {suffix!r}")


def test_node_lists_a_worker_that_was_never_idle(bull: NodeQueue, heavyq_worker: StartWorker, q: QueueKey) -> None:
    job_id = bull.add({"ms": 1500})
    heavyq_worker("-c", "1")
    eventually(lambda: bull.state(job_id) == "active", 15, "active")
    assert bull("workers") == [f"{q.prefix}:cQ=="]


def test_a_global_concurrency_is_shared(bull: NodeQueue, heavyq_worker: StartWorker) -> None:
    """One job at a time in the whole fleet, and nobody sleeps through a freed place."""
    # conformance: C-105
    bull("setConcurrency", limit=1)
    heavyq_worker("-c", "2")
    eventually(lambda: bull("workers"), 15, "heavyq's worker is there")
    bull("startWorker", opts={"concurrency": 2, "drainDelay": 30})
    ids = [bull.add({"ms": 50}) for _ in range(20)]
    eventually(lambda: bull("counts")["completed"] == 20, 15, "all are completed")
    jobs = sorted((bull.find(job_id) for job_id in ids), key=lambda job: int(job["processedOn"]))
    for one, following in itertools.pairwise(jobs):
        assert one["finishedOn"] <= following["processedOn"] < one["finishedOn"] + _WAKE_MS


@pytest.mark.parametrize("verb", ["complete", "fail", "delay", "hand_back", "retry"])
def test_a_place_that_heavyq_frees_wakes_an_idle_node_worker(bull: NodeQueue, ours: Rig, verb: str) -> None:
    """At the global concurrency no marker stands for what waits: whoever frees the place has to set it (D11)."""
    bull("setConcurrency", limit=1)
    ids = [ours.add(), ours.add()]
    lease = ours.lease()
    bull("startWorker", opts={"drainDelay": 30})
    eventually(lambda: not ours.exists("marker"), 5, "the worker has found the queue full")
    assert ours.settle(verb, lease) == "settled"
    eventually(lambda: ids[1] in bull.started(), 5, "Node runs the other job")


def test_a_mixed_fleet_starts_each_job_once(
    bull: NodeQueue, more_nodes: Callable[..., Node], heavyq_worker: StartWorker, ours: Rig
) -> None:
    """Both generations of BullMQ and heavyq, each as producer and as worker, on one queue."""
    other = more_nodes("6" if bull.node.generation == "5" else "5").at(bull.q)
    bull("startEvents")
    heavyq_worker("-c", "2")
    eventually(lambda: bull("workers"), 15, "heavyq's worker is there")
    for node in (bull, other):
        node("startWorker")
    ids: list[str] = []
    for _ in range(5):
        for node in (bull, other):
            ids += node("addBulk", jobs=[{"name": "n", "data": {"returns": n, "ms": n % 3}} for n in range(20)])
        ids += [ours.add("p", data=b'{"ms":2}') for _ in range(20)]
    assert len(set(ids)) == 300
    eventually(lambda: bull("counts")["completed"] == 300, 30, "all are completed")
    assert {state for state, count in bull("counts").items() if count} == {"completed"}
    assert {ours.field(job_id, "ats") for job_id in ids} == {"1"}
    in_node = [len(node.started()) for node in (bull, other)]
    assert all(in_node)
    assert sum(in_node) < 300  # heavyq took part
    last = bull.add(name="last")
    eventually(lambda: bull.events_of(last), what="the reader is alive")
    assert other("errors") == []


def _events(bull: NodeQueue) -> list[tuple[str, dict[str, Any]]]:
    bull("startEvents")
    eventually(lambda: bull("events"), what="events")
    return [(name, fields) for name, fields in bull("events")]
