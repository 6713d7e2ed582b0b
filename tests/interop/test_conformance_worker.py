"""Conformance, areas C to G: what a heavyq worker does with jobs of Node's, seen from Node. It runs live.py."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from heavyq.bullmq.ops.find import find
from tests.support.eventually import always, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from heavyq import Queue
    from heavyq.bullmq.keys import QueueKey
    from tests.interop.node import NodeQueue
    from tests.support.ops import Rig
    from tests.support.valkey import Valkey
    from tests.support.worker import Worker

    StartWorker = Callable[..., Worker]

_SLEEPY = {"drainDelay": 30}  # an idle Node worker that nobody wakes would sleep through the test


def ended(bull: NodeQueue, job_id: str, state: str = "completed") -> dict[str, Any]:
    eventually(lambda: bull.state(job_id) == state, 15, f"{job_id} is {state}")
    return bull.find(job_id)


def names(bull: NodeQueue, job_id: str) -> list[str]:
    return [event["event"] for event in bull.events_of(job_id)]


# ---- fetching


def test_an_idle_worker_hardly_asks(own_valkey: Callable[[], Valkey], run_worker: StartWorker, prefix: str) -> None:
    # conformance: C-036
    server = own_valkey()
    run_worker(
        """
        from heavyq import Queue
        q = Queue("q")

        @q.processor
        def work(job): ...
        """,
        url=server.url,
    )
    with server.redis() as raw:

        def asked() -> int:
            stats = raw.info("commandstats")
            return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval", "bzpopmin"))

        eventually(lambda: raw.info("clients")["blocked_clients"] == 1, 10, "the worker sleeps")
        before = asked()
        always(lambda: raw.info("clients")["connected_clients"] > 0, 5.0, "the server")
        assert asked() - before <= 10, "in five seconds"


def test_delayed_jobs_are_started_at_their_moment(bull: NodeQueue, live_worker: StartWorker) -> None:
    # conformance: C-037
    live_worker()
    ended(bull, bull.add(removeOnComplete=False))
    late_ms = []
    for delay_ms in (700, 1300, 2100):
        job = ended(bull, bull.add(delay=delay_ms, removeOnComplete=False))
        late_ms.append(job["processedOn"] - job["timestamp"] - delay_ms)
    assert min(late_ms) >= 0
    assert min(late_ms) < 100, late_ms  # the best of three: the machine may be busy, a poll would always be late
    assert max(late_ms) < 2500, late_ms


def test_a_worker_that_ends_while_it_waits_makes_no_other_late(bull: NodeQueue, live_worker: StartWorker) -> None:
    # conformance: C-038
    worker = live_worker()
    ended(bull, bull.add(removeOnComplete=False))
    bull("startWorker", opts=_SLEEPY)
    job_id = bull.add(delay=2000)
    eventually(lambda: not bull.find(job_id).get("processedOn"), what="it is delayed")
    worker.stop()
    job = ended(bull, job_id)
    assert 0 <= job["processedOn"] - job["timestamp"] - 2000 < 2500


def test_no_more_jobs_are_active_than_the_concurrency_allows(
    bull: NodeQueue, live_worker: StartWorker, ours: Rig
) -> None:
    # conformance: C-042
    ids = [bull.add({"ms": 200}) for _ in range(9)]
    live_worker("-c", "3")
    seen: Counter[int] = Counter()

    def all_done() -> bool:
        seen[len(ours.list("active"))] += 1
        return int(ours.raw.zcard(ours.key("completed"))) == len(ids)

    eventually(all_done, 15, "all are completed")
    assert max(seen) == 3
    assert all(bull.state(job_id) == "completed" for job_id in ids)


def test_telemetry_reaches_the_processor(bull: NodeQueue, live_worker: StartWorker) -> None:
    # conformance: C-044
    text = '{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}'
    job_id = bull.add({"telemetry": True}, telemetry={"metadata": text})
    live_worker()
    assert ended(bull, job_id)["returnvalue"] == text


# ---- ending


def test_jobs_removed_while_they_run_do_no_harm(bull: NodeQueue, live_worker: StartWorker, ours: Rig) -> None:
    # conformance: C-052
    live_worker("-c", "1")
    gone = bull.add({"ms": 1500}, jobId="gone")
    eventually(lambda: bull.state(gone) == "active", 15, "active")
    bull("pause")
    bull("obliterate")
    last = bull.add({"returns": "next"})
    assert ended(bull, last)["returnvalue"] == "next"
    always(lambda: bull("find", id=gone) is None, 2.0, "nothing comes back of it")
    assert ours.list("active") == []


KEEPS_TWO = """
    from typing import Any
    from pydantic import TypeAdapter
    from heavyq import Queue

    q = Queue("q", payload=TypeAdapter(Any), remove_on_complete=2)

    @q.processor
    def work(job):
        return job.data
"""


def test_what_the_worker_s_code_says_of_keeping_holds_for_jobs_that_say_nothing(
    bull: NodeQueue, run_worker: StartWorker
) -> None:
    # conformance: C-056 C-057
    kept = [bull.add(removeOnComplete=False) for _ in range(3)]
    gone = bull.add(removeOnComplete=True)
    run_worker(KEEPS_TWO, "-c", "1")
    for job_id in kept:
        ended(bull, job_id)
    eventually(lambda: bull("find", id=gone) is None, 15, "removed")
    silent = [bull.add() for _ in range(3)]
    eventually(lambda: bull("ids", state="completed") == silent[:0:-1], 15, "the newest two of all that ended")


def test_metrics_are_counted(bull: NodeQueue, live_worker: StartWorker) -> None:
    # conformance: C-059
    ids = [bull.add({"returns": n}) for n in range(3)] + [bull.add({"raise": "no"}) for _ in range(2)]
    live_worker()
    eventually(lambda: all(bull.state(each) in ("completed", "failed") for each in ids), 15, "all have ended")
    assert bull("metrics", which="completed")["meta"]["count"] == 3
    assert bull("metrics", which="failed")["meta"]["count"] == 2


def test_data_that_a_run_changes_stays_changed(bull: NodeQueue, live_worker: StartWorker) -> None:
    # conformance: C-062
    job_id = bull.add({"once": "update", "a": 1}, attempts=2, backoff=700)
    live_worker()
    eventually(lambda: bull.state(job_id) == "delayed", 15, "between the runs")
    changed = {"once": "update", "a": 1, "changed": [1, "é"]}
    assert bull.find(job_id)["data"] == changed
    job = ended(bull, job_id)
    assert job["data"] == job["returnvalue"] == changed


# ---- failing


def test_an_unrecoverable_failure_is_final(bull: NodeQueue, live_worker: StartWorker) -> None:
    # conformance: C-074
    bull("startEvents")
    job_id = bull.add({"once": "unrecoverable"}, attempts=5, backoff=10)
    live_worker()
    job = ended(bull, job_id, "failed")
    assert (job["attemptsMade"], job["attemptsStarted"], job["failedReason"]) == (1, 1, "never mind")
    assert job["stacktrace"][0].startswith("Unrecoverable: never mind")
    eventually(lambda: "failed" in names(bull, job_id), what="the event")
    last = bull.add()
    eventually(lambda: "completed" in names(bull, last), 10, "what would follow it has been read")
    assert "retries-exhausted" not in names(bull, job_id)


def test_a_job_whose_failed_reason_is_null_can_be_read(bull: NodeQueue, hq: Queue[Any, Any], ours: Rig) -> None:
    # conformance: C-075
    job_id = bull.add()
    bull("startThrower")
    ended(bull, job_id, "failed")
    assert ours.field(job_id, "failedReason") == "null"
    job = ours.run(find(ours.q, job_id))
    assert job is not None
    assert (job.state, job.failed_reason) == ("failed", "null")
    assert hq.handle(job_id).state() == "failed"
    hq.handle(job_id).retry()


@pytest.mark.parametrize(("what", "made"), [("snooze", 1), ("retry after", 2)])
def test_a_job_that_asks_for_time(bull: NodeQueue, live_worker: StartWorker, what: str, made: int) -> None:
    # conformance: C-076
    bull("startEvents")
    job_id = bull.add({"once": what, "returns": "at last"}, attempts=2)
    live_worker()
    job = ended(bull, job_id)
    assert (job["attemptsMade"], job["attemptsStarted"], job["returnvalue"]) == (made, 2, "at last")
    eventually(lambda: "completed" in names(bull, job_id), what="the last event")
    assert names(bull, job_id) == ["added", "waiting", "active", "delayed", "waiting", "active", "completed"]
    (delayed,) = [event for event in bull.events_of(job_id) if event["event"] == "delayed"]
    assert job["processedOn"] >= int(delayed["delay"]) >= job["timestamp"] + 400


def test_a_rate_limit_stops_the_queue_and_burns_no_attempt(bull: NodeQueue, live_worker: StartWorker) -> None:
    # conformance: C-077 C-111
    first, behind = bull.add({"once": "rate limited"}, attempts=1), bull.add()
    live_worker("-c", "1")
    one, other = ended(bull, first), ended(bull, behind)
    assert (one["attemptsMade"], one["attemptsStarted"]) == (1, 2)
    assert one["processedOn"] - one["timestamp"] >= 400
    assert one["processedOn"] <= other["processedOn"]


def test_backoffs_of_ones_own(bull: NodeQueue, live_worker: StartWorker) -> None:
    # conformance: C-081
    steps = bull.add({"raise": "again"}, attempts=3, backoff={"type": "steps", "delay": 5})
    never = bull.add({"raise": "once"}, attempts=3, backoff={"type": "never", "delay": 5})
    unknown = bull.add({"raise": "first"}, attempts=3, backoff={"type": "of another's", "delay": 5})
    live_worker("-c", "3")
    eventually(
        lambda: bull.state(steps) == "delayed" and bull.find(steps)["delay"] == 300, 15, "300 ms after the first"
    )
    eventually(lambda: bull.state(steps) == "delayed" and bull.find(steps)["delay"] == 600, 15, "600 ms after the next")
    assert ended(bull, steps, "failed")["attemptsMade"] == 3
    assert ended(bull, never, "failed")["attemptsMade"] == 1
    job = ended(bull, unknown, "failed")
    assert job["attemptsMade"] == 1
    assert "first" in job["failedReason"]
    assert "no such backoff: of another's" in job["failedReason"]


def test_a_backoff_of_an_unknown_type_without_a_strategy(
    bull: NodeQueue, kids: NodeQueue, live_worker: StartWorker
) -> None:
    # conformance: C-081
    job_id = kids.add({"raise": "first"}, attempts=3, backoff={"type": "steps", "delay": 5})
    live_worker()
    job = ended(kids, job_id, "failed")
    assert "first" in job["failedReason"]
    assert "steps" in job["failedReason"]


def test_a_backoff_stored_as_a_number(bull: NodeQueue, live_worker: StartWorker, ours: Rig) -> None:
    # conformance: C-072
    job_id = ours.add(data=b'{"once":"boom"}', opts=b'{"attempts":2,"backoff":600}')
    live_worker()
    eventually(lambda: bull.state(job_id) == "delayed", 15, "delayed")
    assert bull.find(job_id)["delay"] == 600
    assert ended(bull, job_id)["attemptsStarted"] == 2


def test_a_second_attempt_is_run_by_node_when_it_is_due(bull: NodeQueue, live_worker: StartWorker) -> None:
    # conformance: C-069
    worker = live_worker()
    job_id = bull.add({"raise": "first"}, attempts=2, backoff={"type": "fixed", "delay": 1500})
    eventually(lambda: bull.state(job_id) == "delayed", 15, "delayed")
    first = bull.find(job_id)
    assert first["delay"] == 1500
    bull("startWorker", opts=_SLEEPY)
    worker.stop()
    job = ended(bull, job_id, "failed")
    assert bull.started() == [job_id]
    assert 1500 <= job["processedOn"] - first["processedOn"] < 4000
    assert [trace.splitlines()[0] for trace in job["stacktrace"]] == ["RuntimeError: first", "Error: first"]


# ---- locks


def test_a_lock_that_another_has_taken_is_noticed(bull: NodeQueue, live_worker: StartWorker, ours: Rig) -> None:
    # conformance: C-092
    live_worker("-c", "1")
    lost = bull.add({"ms": 2500, "returns": "must not be written"})
    eventually(lambda: bull.state(lost) == "active", 15, "active")
    ours.raw.set(ours.key(f"{lost}:lock"), "node:1", px=60_000)
    after = bull.add({"returns": "next"})
    assert ended(bull, after)["returnvalue"] == "next"  # the worker goes on
    always(lambda: bull.state(lost) == "active" and not bull.find(lost).get("returnvalue"), 3.0, "it is not ours")
    assert ours.text(f"{lost}:lock") == "node:1"


# ---- pause and limits


def test_a_pause_by_node_stops_heavyq_and_a_resume_wakes_it(bull: NodeQueue, live_worker: StartWorker) -> None:
    # conformance: C-095
    live_worker()
    ended(bull, bull.add(removeOnComplete=False))
    late_ms = []
    for _ in range(3):
        bull("pause")
        job_id = bull.add(removeOnComplete=False)
        always(lambda job_id=job_id: bull.state(job_id) == "waiting", 0.4, "it waits")
        resumed_ms = time.time() * 1000
        bull("resume")
        late_ms.append(ended(bull, job_id)["processedOn"] - resumed_ms)
    assert min(late_ms) < 200, late_ms  # the best of three: the machine may be busy, a poll would always be late
    assert max(late_ms) < 2500, late_ms


def test_a_pause_by_heavyq_stops_node(bull: NodeQueue, hq: Queue[Any, Any], ours: Rig) -> None:
    # conformance: C-096 C-097 C-100
    ours.meta(version=f"bullmq:{bull.node.version}")  # as each Node producer writes it: it says where jobs wait
    bull("startEvents")
    bull("startWorker", opts=_SLEEPY)
    ended(bull, bull.add())
    hq.pause()
    assert bull("isPaused")
    assert hq.is_paused()
    ids = [hq.add({"n": n}).id for n in range(3)] + [bull.add({"n": 3})]
    always(lambda: all(bull.state(job_id) == "waiting" for job_id in ids), 0.5, "they wait")
    hq.resume()
    assert not bull("isPaused")
    eventually(lambda: bull.started()[1:] == ids, 5, "they run at once, in their order")
    eventually(lambda: {"paused", "resumed"} <= {name for name, _ in bull("events")}, 5, "both events")


def test_a_global_concurrency_set_by_heavyq(bull: NodeQueue, hq: Queue[Any, Any], ours: Rig) -> None:
    # conformance: C-106
    hq.set_global_concurrency(2)
    assert bull("concurrency") == 2
    ids = bull("addBulk", jobs=[{"name": "n", "data": {"ms": 100}}] * 8)
    bull("startWorker", opts={"concurrency": 5})
    seen: Counter[int] = Counter()

    def all_done() -> bool:
        seen[len(ours.list("active"))] += 1
        return bool(bull("counts")["completed"] == len(ids))

    eventually(all_done, 20, "all are completed")
    assert max(seen) == 2


def test_a_global_rate_limit_holds_for_both_kinds(
    bull: NodeQueue, hq: Queue[Any, Any], live_worker: StartWorker
) -> None:
    # conformance: C-107
    bull("setRateLimit", max=5, ms=1000)
    live_worker("-c", "2")
    eventually(lambda: bull("workers"), 15, "heavyq's worker is there")
    bull("startWorker", opts={"concurrency": 2})
    ids = bull("addBulk", jobs=[{"name": "n", "data": {}, "opts": {"removeOnComplete": False}}] * 20)
    eventually(lambda: bull("counts")["completed"] == len(ids), 30, "all are completed")
    starts = sorted(int(bull.find(job_id)["processedOn"]) for job_id in ids)
    for first, sixth in zip(starts, starts[10:], strict=False):  # five, and five more at the edge of a window
        assert sixth - first >= 900, starts
    assert starts[-1] - starts[0] >= 2700
    hq.set_global_rate_limit(None)
    assert bull("rate") is None


LIMITED = """
    from typing import Any
    from pydantic import TypeAdapter
    from heavyq import Queue, Rate

    q = Queue("q", payload=TypeAdapter(Any), limiter=Rate(3, per="1s"))

    @q.processor
    def work(job):
        return job.data
"""


def test_a_limiter_of_the_worker(bull: NodeQueue, run_worker: StartWorker, ours: Rig) -> None:
    # conformance: C-108 C-110
    ids = bull("addBulk", jobs=[{"name": "n", "data": {}}] * 9)
    run_worker(LIMITED)
    eventually(lambda: ours.exists("limiter"), 15, "starts are counted")
    assert 0 < ours.raw.pttl(ours.key("limiter")) <= 1000
    eventually(lambda: bull("counts")["completed"] == len(ids), 20, "all are completed")
    starts = sorted(int(bull.find(job_id)["processedOn"]) for job_id in ids)
    assert starts[6] - starts[0] >= 900  # three, and three more at the edge of a window
    bull("rateLimit", ms=1500)
    job = ended(bull, bull.add())
    assert job["processedOn"] - job["timestamp"] >= 1000


# ---- who is there


def test_heavyq_lists_nodes_workers(
    bull: NodeQueue, hq: Queue[Any, Any], live_worker: StartWorker, q: QueueKey
) -> None:
    # conformance: C-170 C-171
    assert hq.workers() == []
    bull("startLive", opts={"name": "node worker 1".replace(" ", "-")})
    bull("startLive")
    live_worker("--name", "w1")
    eventually(lambda: len(hq.workers()) == 3, 15, "three workers")
    assert sorted(str(worker.name) for worker in hq.workers()) == sorted(["node-worker-1", "None", "w1"])
    assert bull("workersCount") == 3
    assert sorted(worker.rawname for worker in hq.workers()) == sorted(bull("workers"))


def test_sigterm_finishes_what_runs_and_takes_nothing_more(
    bull: NodeQueue, live_worker: StartWorker, ours: Rig
) -> None:
    # conformance: C-177
    worker = live_worker("-c", "1")
    running, behind = bull.add({"ms": 1500, "returns": "finished"}), bull.add({"returns": "by Node"})
    eventually(lambda: bull.state(running) == "active", 15, "active")
    worker.term()
    assert worker.wait() == 0
    assert bull.find(running)["returnvalue"] == "finished"
    assert bull.state(behind) == "waiting"
    assert ours.list("active") == []
    assert ours.exists("marker")
    bull("startWorker", opts=_SLEEPY)
    ended(bull, behind)
