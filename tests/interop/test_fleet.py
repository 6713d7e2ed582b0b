"""Ten thousand jobs by producers of both kinds, run by two heavyq and two Node workers; then the same amid kills."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from heavyq import Queue
    from tests.interop.node import Node, NodeQueue
    from tests.support.ops import Rig
    from tests.support.worker import Worker

    StartWorker = Callable[..., Worker]

EVERY_EVENT = 500_000  # nothing of these tests is trimmed away before it was read and counted
ROWS, FAILING = 20, 25  # one job in so many writes log rows; one in so many fails every time


def add_all(bull: NodeQueue, other: NodeQueue, hq: Queue[Any, Any], many: int) -> tuple[list[str], list[str]]:
    """Add jobs by two Node producers and one of heavyq's at once; return the ids, and those that will fail."""
    a_part = many // 5
    failing = {"many": a_part // FAILING, "data": {"raise": "no"}, "opts": {"attempts": 2}}
    plain = {"many": 2 * a_part - failing["many"], "data": {"ms": 2}}  # type: ignore[operator]
    begun = [(queue, queue.begin("addMany", **what)) for queue in (bull, other) for what in (failing, plain)]
    mine = [("n", {"ms": 2, "rows": ["one", "two"] if n % ROWS == 0 else [], "progress": n}) for n in range(a_part)]
    ids = [job.id for at in range(0, a_part, 500) for job in hq.add_bulk(mine[at : at + 500])]
    replies = [queue.node.reply(n, 60) for queue, n in begun]
    return [*ids, *(job_id for reply in replies for job_id in reply)], [*replies[0], *replies[2]]


def attempts(ours: Rig, ids: list[str], field: str = "ats") -> Counter[str | None]:
    pipe = ours.raw.pipeline(transaction=False)
    for job_id in ids:
        pipe.hget(ours.key(job_id), field)
    return Counter(None if value is None else value.decode() for value in pipe.execute())


def expect_no_orphan(bull: NodeQueue, ours: Rig) -> None:
    """BullMQ's own search for jobs of no state finds none.

    It takes its own hash `metrics:failed` for a job and deletes that (seen with Node alone, both generations).
    """
    metrics = ours.key("metrics:failed")
    before = set(ours.raw.scan_iter(ours.key("*"), count=1000))
    removed = bull("removeOrphans")
    gone = before - set(ours.raw.scan_iter(ours.key("*"), count=1000))
    assert gone <= {metrics.encode()}
    assert removed == len(gone)


@pytest.mark.timeout(300)
def test_ten_thousand_jobs_are_completed_once_each(
    bull: NodeQueue, more_nodes: Callable[..., Node], hq: Queue[Any, Any], live_worker: StartWorker, ours: Rig
) -> None:
    # conformance: C-172 C-178 C-182
    ours.meta(**{"opts.maxLenEvents": EVERY_EVENT})
    bull("startEvents")
    other = more_nodes("6" if bull.node.generation == "5" else "5").at(bull.q)
    workers = [live_worker("-c", "2", "--name", f"w{n}") for n in range(2)]
    eventually(lambda: len(bull("workers")) == 2, 15, "both of heavyq's workers are there")
    node_workers = [more_nodes().at(bull.q), other]
    for node_worker in node_workers:
        node_worker("startLive", opts={"concurrency": 2, "metrics": {"maxDataPoints": 60}})
    began_s = time.monotonic()
    ids, failing = add_all(bull, other, hq, 10_000)
    assert len(set(ids)) == 10_000
    well = len(ids) - len(failing)
    eventually(lambda: hq.counts()["completed"] + hq.counts()["failed"] == 10_000, 200, "all have ended")
    print(f"measured: 10,000 jobs in {time.monotonic() - began_s:.1f} s, {bull.node.version}")

    counts = hq.counts()
    assert {state: n for state, n in counts.items() if n} == {"completed": well, "failed": len(failing)}
    in_node = bull("counts")
    assert {state: n for state, n in in_node.items() if n} == {"completed": well, "failed": len(failing)}
    will_fail = set(failing)
    assert attempts(ours, [each for each in ids if each not in will_fail]) == {"1": well}
    assert attempts(ours, failing) == {"2": len(failing)}
    by = attempts(ours, ids, "pb")
    assert all(by[f"w{n}"] > 100 for n in range(2)), by  # heavyq took a real part
    assert all(node_worker("eventCounts") is not None for node_worker in node_workers)
    assert sum(by.values()) - by["w0"] - by["w1"] > 100, by  # and Node too

    last = bull.add(removeOnComplete=True)
    eventually(lambda: "completed" in [event["event"] for event in bull.events_of(last)], 60, "the reader is alive")
    seen = bull("completedCounts")
    assert {seen.get(job_id) for job_id in ids} == {1}, "one end each"
    told = bull("eventCounts")
    assert told["added"] == 10_001
    assert told["active"] == well + 2 * len(failing) + 1
    assert (told["completed"], told["failed"]) == (well + 1, len(failing))
    assert told["progress"] > 100, "of the jobs of heavyq's producer that its own workers ran"
    assert bull("metrics", which="completed")["meta"]["count"] == well + 1
    assert bull("metrics", which="failed")["meta"]["count"] == len(failing)
    assert hq.metrics("completed").count == well + 1
    for worker in workers:
        assert worker.stop() == 0
    other("stopWorkers")
    expect_no_orphan(bull, ours)
    assert ours.list("active") == []
    assert not ours.raw.smembers(ours.key("stalled"))
    assert other("errors") == []


@pytest.mark.timeout(300)
def test_ten_thousand_jobs_while_workers_are_killed(
    bull: NodeQueue, more_nodes: Callable[..., Node], hq: Queue[Any, Any], live_worker: StartWorker, ours: Rig
) -> None:
    # conformance: C-179 C-182
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rand = random.Random(seed)
    ours.meta(**{"opts.maxLenEvents": EVERY_EVENT})
    bull("startEvents")
    other = more_nodes("6" if bull.node.generation == "5" else "5").at(bull.q)
    nodes = [more_nodes(), more_nodes()]
    quick = {"lockDuration": 2000, "stalledInterval": 500, "maxStalledCount": 100, "concurrency": 3}

    def start_node(node: Node) -> None:
        node.at(bull.q)("startLive", opts=quick)

    def start_heavyq() -> Worker:
        return live_worker("-c", "2", "--set", "q.max_stalled_count=100")

    for node in nodes:
        start_node(node)
    workers = [start_heavyq(), start_heavyq()]
    eventually(lambda: len(bull("workers")) == 4, 15, "all four workers are there")
    ids, failing = add_all(bull, other, hq, 10_000)
    kills = Counter[str]()
    deadline_s = time.monotonic() + 200
    while hq.counts()["completed"] + hq.counts()["failed"] < 10_000:
        assert time.monotonic() < deadline_s, (hq.counts(), kills)
        time.sleep(rand.uniform(0.5, 1.5))  # what is awaited here is the next blow
        if sum(kills.values()) >= 16:
            continue
        at = rand.randrange(2)
        if rand.random() < 0.5:
            nodes[at].kill()
            nodes[at].stop()  # closes its pipes
            nodes[at].start()
            start_node(nodes[at])
            kills["node"] += 1
        else:
            workers[at].signal_tree(signal.SIGKILL)
            workers[at].wait()
            workers[at] = start_heavyq()
            kills["heavyq"] += 1
    print(f"measured: killed {dict(kills)}, {bull.node.version}")
    assert kills["node"]
    assert kills["heavyq"]
    counts = {state: n for state, n in hq.counts().items() if n}
    assert counts == {"completed": len(ids) - len(failing), "failed": len(failing)}
    assert ours.list("active") == []
    last = bull.add(removeOnComplete=True)
    eventually(lambda: "completed" in [event["event"] for event in bull.events_of(last)], 60, "the reader is alive")
    seen = bull("completedCounts")
    assert min(seen.get(job_id, 0) for job_id in ids) == 1, "none is lost"
    again = {job_id for job_id in ids if ours.field(job_id, "stc") is not None}
    assert {job_id for job_id in ids if seen[job_id] > 1} == set(), "and none ends twice, however often it ran"
    assert len(again) > 0, "some were taken back from the dead"
    reasons = attempts(ours, failing, "failedReason")
    assert reasons == {"no": len(failing)}
    for worker in workers:
        worker.stop()
    for node in nodes:
        node.at(bull.q)("stopWorkers")
    expect_no_orphan(bull, ours)
    assert not ours.raw.smembers(ours.key("stalled"))
