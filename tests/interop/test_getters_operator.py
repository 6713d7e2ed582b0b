"""What an operator asks of a queue: Node and heavyq answer the same, whoever filled it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.clients import workers_in
from heavyq.bullmq.lease import LeasedJob
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from heavyq.bullmq.keys import QueueKey
    from tests.interop.node import NodeQueue
    from tests.support.ops import Rig
    from tests.support.worker import Worker


def fill(bull: NodeQueue) -> None:
    """Let Node put two jobs or more into each state."""
    for outcome in ("complete", "fail", "leave"):
        for n in range(3):
            token = f"{outcome}{n}"
            job_id = bull.add({}, name=outcome)
            bull("fetch", token=token)
            if outcome == "complete":
                bull("complete", id=job_id, token=token, value=n)
            elif outcome == "fail":
                bull("fail", id=job_id, token=token, message="boom", unrecoverable=False)
    for n in range(4):
        bull.add({}, priority=n % 2 + 1)
        bull.add({}, delay=60_000 * (4 - n))
        tree = {"name": "p", "queueName": bull.q.name, "prefix": bull.q.prefix}
        bull("addFlow", flow={**tree, "children": [{**tree, "name": "c"}]})
    bull.add({}, lifo=True)


@pytest.mark.parametrize("paused", [False, True])
def test_both_count_and_page_alike(bull: NodeQueue, ours: Rig, paused: bool) -> None:
    # conformance: C-158 C-159 C-169
    ours.meta(version=f"bullmq:{bull.node.version}")
    fill(bull)
    if paused:
        ours.run(ops.pause(ours.q))
        bull.add({})
    in_node = bull("counts")
    in_node["waiting"] += in_node.pop("paused", 0)  # BullMQ 5 counts by itself what it moves aside
    assert ours.run(ops.counts(ours.q)).by_state() == in_node
    for state in ops.STATES:
        assert in_node[state] >= 3, state
        named = "paused" if state == "waiting" and ours.exists("paused") else state
        for oldest_first in (True, False):
            for start, end in ((0, -1), (0, 0), (1, 2), (2, 50), (50, 60)):
                theirs = bull("ids", state=named, start=start, end=end, asc=oldest_first)
                limit = 1000 if end < 0 else end - start + 1
                jobs = ours.run(ops.page(ours.q, state, offset=start, limit=limit, newest_first=not oldest_first))
                assert [job.id for job in jobs] == theirs, (state, oldest_first, start, end)
        for job in ours.run(ops.page(ours.q, state, offset=0, limit=100, newest_first=False)):
            found = ours.run(ops.find(ours.q, job.id))
            assert found is not None
            assert found.state == bull.state(job.id) == state


def test_node_reads_the_settings_that_heavyq_made(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-009 C-106
    ours.run(ops.open_queue(ours.q))
    assert bull("meta") == {"maxLenEvents": 10_000, "paused": False}
    ours.run(ops.set_concurrency(ours.q, 4))
    ours.run(ops.set_rate_limit(ours.q, 10, 1500))
    ours.run(ops.pause(ours.q))
    told = bull("meta")
    assert told == {"maxLenEvents": 10_000, "paused": True, "concurrency": 4, "max": 10, "duration": 1500}
    assert bull("concurrency") == 4
    assert bull("rate") == {"max": 10, "duration": 1500}
    ours.run(ops.resume(ours.q))
    ours.run(ops.set_concurrency(ours.q, None))
    ours.run(ops.set_rate_limit(ours.q, None))
    assert bull("meta") == {"maxLenEvents": 10_000, "paused": False}
    assert bull("concurrency") is None
    assert bull("rate") is None


def test_heavyq_reads_the_settings_that_node_made(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-009
    assert ours.run(ops.meta(ours.q)) == ops.Meta(
        paused=False, concurrency=None, rate=None, events_kept=None, version=None, others={}
    )
    bull("setConcurrency", limit=3)
    bull("setRateLimit", max=7, ms=2000)
    bull("pause")
    ours.meta(version="bullmq:6.7.0", colour="é")
    bull.add({})
    told = ours.run(ops.meta(ours.q))
    assert (told.paused, told.concurrency, told.rate) == (True, 3, (7, 2000))
    assert (told.events_kept, told.version, dict(told.others)) == (10_000, "bullmq:6.7.0", {"colour": "é"})


def test_node_obeys_the_concurrency_that_heavyq_set(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-106
    ours.run(ops.set_concurrency(ours.q, 1))
    for _ in range(3):
        bull.add({})
    first = bull("fetch", token="t1")
    assert bull("fetch", token="t2") is None
    assert not isinstance(ours.try_lease(), LeasedJob)
    bull("complete", id=first["id"], token="t1", value=1)
    ours.run(ops.set_concurrency(ours.q, 2))
    assert bull("fetch", token="t2")["id"] == "2"
    assert ours.lease().job_id == "3"


def test_both_tell_how_long_the_rate_limit_lasts(bull: NodeQueue, ours: Rig) -> None:
    def both(most: int | None = None) -> tuple[int, int]:
        arguments = {} if most is None else {"max": most}
        return ours.run(ops.rate_limit_ttl(ours.q, most)), bull("rateLimitTtl", **arguments)

    assert both() == (-2, -2)
    assert both(3) == (0, 0)
    ours.run(ops.rate_limit(ours.q, 60_000))
    assert all(50_000 < ttl <= 60_000 for ttl in (*both(), *both(3)))
    bull("endRateLimit")
    ours.raw.set(ours.key("limiter"), 2, px=60_000)
    assert both(3) == (0, 0)
    assert all(ttl > 50_000 for ttl in both(2))
    bull("setRateLimit", max=2, ms=60_000)
    assert all(ttl > 50_000 for ttl in both())
    ours.run(ops.end_rate_limit(ours.q))
    assert both() == (0, 0)
    bull("rateLimit", ms=60_000)
    assert all(ttl > 50_000 for ttl in both())


def test_both_read_the_same_metrics(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-059
    for which in ("completed", "failed"):
        assert ours.run(ops.metrics(ours.q, which)) == ops.Metrics(0, 0, 0, (), 0)
    for minutes in (0, 1, 0, 2, 1):
        ours.now += 60_000 * minutes
        ours.add()
        lease = ours.lease()
        assert ours.settle("complete", lease, metrics_points=10) == "settled"
    for start, end in ((0, -1), (0, 1), (1, 2), (9, 10)):
        theirs = bull("metrics", which="completed", start=start, end=end)
        told = ours.run(ops.metrics(ours.q, "completed", start, end))
        assert told.count == theirs["meta"]["count"] == 5
        assert (told.prev_ms, told.prev_count) == (theirs["meta"]["prevTS"], theirs["meta"]["prevCount"])
        assert [str(each) for each in told.data] == [str(each) for each in theirs["data"]]
        assert told.points == theirs["count"]
    assert told.points == 4


def test_both_count_by_priority_alike(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-158
    for priority in (0, 0, 1, 5, 5, 2_097_151):
        bull.add({}, **({"priority": priority} if priority else {}))
    asked = [0, 1, 2, 5, 2_097_151]
    told = ours.run(ops.priority_counts(ours.q, asked))
    assert told == {0: 2, 1: 1, 2: 0, 5: 2, 2_097_151: 1}
    assert {int(priority): count for priority, count in bull("priorityCounts", priorities=asked).items()} == told
    ours.meta(version=f"bullmq:{bull.node.version}")
    bull("pause")
    assert ours.run(ops.priority_counts(ours.q, asked)) == told


# -- workers


def _workers(raw: redis.Redis, q: QueueKey) -> list[Any]:
    return workers_in(raw.execute_command("CLIENT LIST"), q)


def test_heavyq_lists_nodes_workers(bull: NodeQueue, raw: redis.Redis, q: QueueKey) -> None:
    # conformance: C-171
    assert _workers(raw, q) == []
    bull("startEvents")  # a reader names its connection after the queue too, and works on nothing
    bull("startWorker")
    bull("startWorker", opts={"name": "w 1".replace(" ", "-")})
    eventually(lambda: len(_workers(raw, q)) == 2, 10, "two workers")
    assert sorted(info.name or "" for info in _workers(raw, q)) == ["", "w-1"]
    theirs = bull("workerList")
    assert sorted(info.rawname for info in _workers(raw, q)) == sorted(each["rawname"] for each in theirs)
    assert sorted(info.addr for info in _workers(raw, q)) == sorted(each["addr"] for each in theirs)
    assert len({info.id for info in _workers(raw, q)}) == 2
    bull("stopWorkers")
    eventually(lambda: _workers(raw, q) == [], 10, "none")


def test_both_list_heavyqs_worker(
    bull: NodeQueue, raw: redis.Redis, q: QueueKey, heavyq_worker: Callable[..., Worker]
) -> None:
    # conformance: C-170 C-171
    heavyq_worker("--name", "h1")
    eventually(lambda: [info.name for info in _workers(raw, q)] == ["h1"], 15, "heavyq's worker")
    assert bull("workersCount") == 1
    assert bull("workers") == [info.rawname for info in _workers(raw, q)]


# -- events of one's own


def test_an_event_of_ones_own_arrives_in_node(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-174
    bull("listen", event="paint")
    event_id = ours.run(ops.emit(ours.q, "paint", {"colour": "é", "n": "1", "jobId": "7"}))
    eventually(lambda: bull("events"), 10, "the event")
    assert bull("events") == [["paint", {"colour": "é", "n": "1", "jobId": "7"}]]
    assert ours.raw.xrevrange(ours.key("events"))[0][0].decode() == event_id
    last = bull.add({})  # the reader goes on
    eventually(lambda: bull.events_of(last), 10, "a later event")
    assert bull("errors") == []


def test_heavyqs_and_nodes_own_events_are_written_alike(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-174
    bull("publish", event="paint", fields={"colour": "red"})
    ours.run(ops.emit(ours.q, "paint", {"colour": "red"}))
    theirs, mine = ours.events()
    assert list(mine.items()) == list(theirs.items())


# -- what Node's actions do to jobs of heavyq, and heavyq's to jobs that Node works on


def test_node_retries_a_job_that_failed_in_heavyq(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-078
    job_id = ours.add()
    ours.settle("fail", ours.lease())
    bull("reprocess", id=job_id, state="failed", opts={})
    job = ours.lease_job()
    assert job.lease.job_id == job_id
    assert not job.fields.keys() & {b"finishedOn", b"failedReason"}
    assert b"stacktrace" in job.fields
    assert ours.settle("complete", job.lease) == "settled"
    assert bull.find(job_id)["attemptsMade"] == 2


def test_heavyq_retries_a_job_that_failed_in_node(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-079
    job_id = bull.add({}, priority=4)
    bull("fetch", token="t")
    bull("fail", id=job_id, token="t", message="boom", unrecoverable=False)
    ours.run(ops.reprocess(ours.q, job_id, state="failed"))
    assert ours.events()[-1] == {"event": "waiting", "jobId": job_id, "prev": "failed"}
    assert bull.state(job_id) == "prioritized"
    assert bull("fetch", token="t2")["id"] == job_id


def test_promoted_jobs_run_in_node_at_once(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-167 C-168
    bull("startWorker", opts={"drainDelay": 30})
    ids = [bull.add({}, delay=600_000) for _ in range(3)]
    ours.run(ops.promote(ours.q, ids[2]))
    eventually(lambda: bull.state(ids[2]) == "completed", 10, "the promoted one")
    ours.run(ops.promote_jobs(ours.q))
    eventually(lambda: bull.started() == [ids[2], *ids[:2]], 10, "all")


def test_a_paused_nodes_worker_goes_on_when_heavyq_resumes(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-095 C-096
    ours.meta(version=f"bullmq:{bull.node.version}")
    bull("startWorker", opts={"drainDelay": 30})
    ours.run(ops.pause(ours.q))
    ids = [bull.add({}), ours.add()]
    ours.run(ops.resume(ours.q))
    eventually(lambda: bull.started() == ids, 10, "both run, without a poll")


def test_a_heavyq_worker_stops_and_goes_on_as_node_says(
    bull: NodeQueue, ours: Rig, heavyq_worker: Callable[..., Worker]
) -> None:
    # conformance: C-095
    ours.meta(version=f"bullmq:{bull.node.version}")
    heavyq_worker()
    first = bull.add({})
    eventually(lambda: bull.state(first) == "completed", 15, "it works")
    bull("pause")
    second = bull.add({})
    assert bull.state(second) == "waiting"
    bull("resume")
    eventually(lambda: bull.state(second) == "completed", 5, "it goes on")


def test_pending_iterations_of_nodes_scheduler_are_protected(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-154 C-164
    for n in range(3):
        bull.add({"n": n})
    bull("schedule", id="s", repeat={"every": 600_000}, template={"name": "tick"})
    for n in range(3):
        bull.add({"n": n})
    waiting = ours.list("wait")
    (iteration,) = [job_id for job_id in waiting if job_id.startswith("repeat:")]
    assert waiting.index(iteration) == 3
    before = len(ours.events())
    assert ours.run(ops.drain(ours.q, delayed=True, now_ms=ours.now)) == 6
    assert ours.list("wait") == [iteration]
    assert len(ours.events()) == before
    assert ours.run(ops.drain(ours.q, delayed=True, now_ms=ours.now)) == 0
    assert bull("schedulerIds") == ["s"]
    held = bull("fetch", token="t")
    assert held["id"] == iteration
