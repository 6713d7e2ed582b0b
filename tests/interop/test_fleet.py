"""Ten thousand jobs by producers of both kinds, run by two heavyq and two Node workers; then the same amid kills."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from heavyq import Dedup, Flow, NoSuchJob, WrongState
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

    def hashes() -> set[bytes]:
        return set(ours.raw.scan_iter(ours.key("*"), count=1000, _type="hash"))

    before = hashes()
    removed = bull("removeOrphans")
    gone = before - hashes()
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
        next_blow_s = time.monotonic() + rand.uniform(0.5, 1.5)
        eventually(lambda at_s=next_blow_s: time.monotonic() > at_s, what="the moment of the next blow")
        if sum(kills.values()) >= 16:
            continue
        at = rand.randrange(2)
        kind = ("node", "heavyq")[len(kills)] if len(kills) < 2 else rand.choice(("node", "heavyq"))
        if kind == "node":
            nodes[at].kill()
            nodes[at].stop()  # closes its pipes
            nodes[at].start()
            start_node(nodes[at])
        else:
            workers[at].signal_tree(signal.SIGKILL)
            workers[at].wait()
            workers[at] = start_heavyq()
        kills[kind] += 1
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


MIXED_S = 6.0
_READ = {"children": True}


class Mix:
    """All that heavyq's producers and operators can do, one thing after the other at random."""

    def __init__(self, hq: Queue[Any, Any], children: Queue[Any, Any], rand: random.Random) -> None:
        self.hq, self.children, self.rand = hq, children, rand
        self.steps = (self.add, self.add, self.add_kept, self.add_flow, self.add_growing, self.schedule, self.operate)

    def step(self) -> None:
        self.rand.choice(self.steps)()

    def add(self) -> None:
        value = self.rand.choice([None, True, 1.5, 'é "☃" \n', [], {}, [1, {"a": [None]}]])
        todo: dict[str, Any] = {"returns": value, "progress": self.rand.choice([7, 0.5, {"é": "☃"}]), "rows": ['"é']}
        if self.rand.random() < 0.4:
            todo["once"] = self.rand.choice(["snooze", "retry after", "unrecoverable", "update", "boom", "no children"])
        if self.rand.random() < 0.2:
            todo["raise"] = 'no "é" \x00 \\'
        self.hq.add(
            "né",
            todo,
            attempts=self.rand.choice([1, 2, 3]),
            delay=self.rand.choice([0, 0, 0.1]),
            **self.rand.choice([{}, {}, {"priority": 3}]),
            lifo=self.rand.random() < 0.2,
            remove_on_complete=self.rand.choice([True, False, 5]),
            remove_on_fail=self.rand.choice([True, False, 5]),
        )

    def add_kept(self) -> None:
        keep = self.rand.choice([{"keep_last_if_active": True}, {"ttl": "200ms"}, {"replace": True, "ttl": "1s"}, {}])
        self.hq.add(
            {"ms": 20}, deduplication=Dedup(f"d{self.rand.randrange(3)}", **keep), delay=self.rand.choice([0, 0.2])
        )
        self.hq.add({}, job_id=f"own-{self.rand.randrange(20)}")

    def add_flow(self) -> None:
        flag: dict[str, Any] = self.rand.choice(
            [
                {},
                {"fail_parent_on_failure": True},
                {"continue_parent_on_failure": True},
                {"ignore_dependency_on_failure": True},
                {"remove_dependency_on_failure": True},
            ]
        )
        below = [Flow(self.children, self.rand.choice([{"raise": "no"}, {"returns": n}]), **flag) for n in range(2)]
        Flow(self.hq, _READ, children=[Flow(self.hq, _READ, children=below, **flag)]).add()

    def add_growing(self) -> None:
        self.hq.add({"once": "children", "children": True})

    def schedule(self) -> None:
        name = f"s{self.rand.randrange(3)}"
        if self.rand.random() < 0.3:
            self.hq.remove_scheduler(name)
        else:
            self.hq.upsert_scheduler(
                name, every=self.rand.choice([0.2, 0.5]), data={}, limit=self.rand.choice([None, 3])
            )

    def operate(self) -> None:
        match self.rand.randrange(7):
            case 0:
                self.hq.pause()
                self.hq.resume()
            case 1:
                self.hq.retry_jobs("failed", limit=5)
            case 2:
                self.hq.promote_jobs()
            case 3:
                self.hq.clean(self.rand.choice(["completed", "failed"]), limit=5)
            case 4:
                for job in self.hq.jobs("failed", limit=3):
                    with contextlib.suppress(WrongState):  # a child of it may run
                        job.remove()
            case 5:
                for job in self.hq.jobs("delayed", limit=3):
                    with contextlib.suppress(NoSuchJob, WrongState):  # it may be due meanwhile
                        job.change_delay(0.1)
            case 6:
                for job in self.hq.jobs("waiting", limit=3):
                    with contextlib.suppress(NoSuchJob, WrongState):
                        job.cancel("no longer")


@pytest.mark.timeout(180)
def test_node_reads_every_event_of_a_mixed_load(
    bull: NodeQueue,
    kids: NodeQueue,
    hq: Queue[Any, Any],
    declare: Callable[..., Queue[Any, Any]],
    live_worker: StartWorker,
    ours: Rig,
) -> None:
    """One event that cannot be read would end Node's reader for good; heavyq does all it can, for some seconds."""
    # conformance: C-172 C-173
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    mix = Mix(hq, declare("kids"), random.Random(seed))
    ours.meta(**{"opts.maxLenEvents": EVERY_EVENT})
    bull("startEvents")
    kids("startEvents")
    worker = live_worker("-c", "2")
    eventually(lambda: bull("workers"), 15, "heavyq's worker is there")
    until_s = time.monotonic() + MIXED_S
    while time.monotonic() < until_s:
        mix.step()
    for scheduler in hq.schedulers():
        hq.remove_scheduler(scheduler.id)
    busy = ("waiting", "active", "delayed", "prioritized")
    eventually(lambda: not any(queue.counts()[state] for queue in (hq, mix.children) for state in busy), 60, "all done")
    last = hq.add({}, job_id="last", remove_on_complete=True)
    eventually(lambda: "completed" in [event["event"] for event in bull.events_of("last")], 60, "the reader is alive")
    told = bull("eventCounts")
    print(f"measured: {told}")
    assert told.keys() >= {
        *("added", "waiting", "active", "progress", "completed", "failed", "delayed", "retries-exhausted"),
        *("deduplicated", "duplicated", "waiting-children", "paused", "resumed", "removed", "cleaned", "drained"),
    }
    read = Counter(event.name for event in hq.events(since="0-0", timeout=0.3))
    assert {name: read[name] for name in told} == told, "heavyq's reader sees the same"
    below = mix.children.add({}, job_id="last", remove_on_complete=True)
    eventually(lambda: "completed" in [event["event"] for event in kids.events_of("last")], 60, "that of kids too")
    assert last.added
    assert below.added
    assert worker.running
