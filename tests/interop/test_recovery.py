"""Workers of both kinds die and stall on one queue; the other kind finds out, and no job is run by two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq import ops
from tests.support.eventually import always, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.interop.node import Node, NodeQueue
    from tests.support.ops import Rig
    from tests.support.worker import Worker

    StartWorker = Callable[..., Worker]

TOO_OFTEN = "job stalled more than allowable limit"
QUICK = {"lockDuration": 1500, "stalledInterval": 200}


def test_a_killed_node_worker_is_recovered_by_heavyq(
    bull: NodeQueue, more_nodes: Callable[[], Node], heavyq_worker: StartWorker, ours: Rig
) -> None:
    # conformance: C-085
    bull("startEvents")
    doomed = more_nodes()
    doomed.at(bull.q)("startWorker", opts={**QUICK, "stalledInterval": 60_000})
    job_id = bull.add({"ms": 3000, "returns": "second run"}, attempts=1)
    eventually(lambda: bull.state(job_id) == "active", 10, "active in Node")
    doomed.kill()
    ours.raw.delete(ours.key("stalled-check"))  # the dead worker's look holds for the whole of its interval
    heavyq_worker()
    assert bull("result", id=job_id, ms=15_000) == "second run"
    job = bull.find(job_id)
    assert (job["attemptsStarted"], job["attemptsMade"], job["stalledCounter"]) == (2, 1, 1)
    assert _names(bull, job_id) == [*("added", "waiting", "active"), *("waiting", "stalled", "active"), "completed"]


def test_a_killed_heavyq_worker_is_recovered_by_node(bull: NodeQueue, heavyq_worker: StartWorker, ours: Rig) -> None:
    # conformance: C-084
    bull("startEvents")
    worker = heavyq_worker()
    job_id = bull.add({"ms": 4000})
    eventually(lambda: bull.state(job_id) == "active", 10, "active in heavyq")
    worker.kill("guard")
    bull("startWorker", opts=QUICK)
    assert bull("result", id=job_id, ms=15_000) == {"ms": 4000}
    job = bull.find(job_id)
    assert (job["attemptsStarted"], job["attemptsMade"], job["stalledCounter"]) == (2, 1, 1)
    assert bull.started() == [job_id]
    assert _names(bull, job_id) == [*("added", "waiting", "active"), *("waiting", "stalled", "active"), "completed"]


def test_nodes_stall_checks_never_take_a_job_that_heavyq_renews(
    bull: NodeQueue, heavyq_worker: StartWorker, ours: Rig
) -> None:
    """Three times the lock's duration, with the GIL held in C all the while."""
    # conformance: C-083
    bull("startEvents")
    heavyq_worker()
    job_id = bull.add({"gil_ms": 6000})
    eventually(lambda: bull.state(job_id) == "active", 10, "active in heavyq")
    bull("startWorker", opts={**QUICK, "stalledInterval": 200})
    bull("startStallChecks", ms=200)
    eventually(lambda: ours.raw.sismember(ours.key("stalled"), job_id), 5, "a check suspected the job")
    always(lambda: ours.exists(f"{job_id}:lock"), 3.0, "the lock")
    assert bull("result", id=job_id, ms=15_000) == {"gil_ms": 6000}
    job = bull.find(job_id)
    assert (job["attemptsStarted"], job["stalledCounter"]) == (1, 0)
    assert bull.started() == []
    assert "stalled" not in _names(bull, job_id)


def test_checks_of_both_kinds_do_not_recover_a_job_at_first_sight(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-086
    ours.add()
    lease = ours.lease()
    ours.expire_lock(lease.job_id)
    ours.sweep(interval_ms=60_000, look=False)
    for _ in range(3):
        bull("checkStalled", maxStalledCount=1)  # within the interval of heavyq's look
    assert bull.state(lease.job_id) == "active"
    ours.raw.delete(ours.key("stalled-check"))
    bull("checkStalled", maxStalledCount=1)
    assert bull.state(lease.job_id) == "waiting"


def test_heavyqs_late_result_is_not_written_over_nodes_run(bull: NodeQueue, ours: Rig) -> None:
    """A lease that was lost to Node: nothing of its holder is written any more, not even with the lock gone."""
    # conformance: C-051
    ours.add(data=b'{"n":1}')
    lease = ours.lease()
    ours.expire_lock(lease.job_id)
    for _ in range(2):
        ours.raw.delete(ours.key("stalled-check"))
        bull("checkStalled", maxStalledCount=5)
    before = ours.dump()
    assert ours.run(ops.renew(ours.q, [lease], lock_ms=1000)).lost == (lease.token,)
    assert ours.settle("complete", lease) == "lost"
    assert ours.dump() == before
    fetched = bull("fetch", token="node:1")
    ours.expire_lock(lease.job_id)  # Node's own lock is gone too: still not ours
    before = ours.dump()
    for verb in ("complete", "fail", "retry", "delay", "hand_back"):
        assert ours.settle(verb, lease) == "lost"
    assert ours.run(ops.renew(ours.q, [lease], lock_ms=1000)).lost == (lease.token,)
    assert not ours.run(ops.progress(lease, b"1"))
    assert not ours.run(ops.log(lease, ["row"], keep=None))
    assert not ours.run(ops.checkpoint(lease, b"1"))
    assert ours.dump() == before
    assert fetched["id"] == lease.job_id


def test_a_stall_limit_reached_in_node_fails_the_job_in_heavyq(
    bull: NodeQueue, heavyq_worker: StartWorker, ours: Rig
) -> None:
    # conformance: C-088
    bull("startEvents")
    job_id = bull.add({"returns": "must not run"}, attempts=3)
    bull("fetch", token="node:1")
    ours.expire_lock(job_id)
    for _ in range(2):
        ours.raw.delete(ours.key("stalled-check"))
        bull("checkStalled", maxStalledCount=0)
    assert bull.find(job_id)["deferredFailure"] == TOO_OFTEN
    heavyq_worker()
    eventually(lambda: bull.state(job_id) == "failed", 15, "failed")
    job = bull.find(job_id)
    assert job["failedReason"] == TOO_OFTEN
    assert not job.get("deferredFailure")
    assert (job["attemptsStarted"], job["attemptsMade"], job.get("returnvalue")) == (2, 1, None)
    assert TOO_OFTEN in job["stacktrace"][-1]
    eventually(lambda: "failed" in _names(bull, job_id), what="the event")
    assert "retries-exhausted" not in _names(bull, job_id)


def test_a_stall_limit_reached_in_heavyq_fails_the_job_in_node(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-087
    bull("startEvents")
    job_id = ours.add(data=b'{"must not":"run"}')
    ours.lease()
    ours.expire_lock(job_id)
    for _ in range(2):
        ours.sweep(limit=0)
    assert bull.find(job_id)["deferredFailure"] == TOO_OFTEN
    bull("startWorker")
    eventually(lambda: bull.state(job_id) == "failed", 10, "failed")
    job = bull.find(job_id)
    assert job["failedReason"] == TOO_OFTEN
    assert bull.started() == []
    eventually(lambda: "failed" in _names(bull, job_id), what="the event")


def test_attempts_of_both_kinds_count_together(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-073
    job_id = bull.add(attempts=3)
    ours.settle("retry", ours.lease(), stacktrace=b'["E: one"]')
    bull("fetch", token="node:1")
    bull("fail", id=job_id, token="node:1", message="two")
    job = bull.find(job_id)
    assert (job["attemptsMade"], job["attemptsStarted"], job["state"]) == (2, 2, "waiting")
    assert [trace.splitlines()[0] for trace in job["stacktrace"]] == ["E: one", "Error: two"]
    ours.settle("fail", ours.lease(), attempts=3)
    job = bull.find(job_id)
    assert (job["attemptsMade"], job["attemptsStarted"], job["state"]) == (3, 3, "failed")


def test_a_job_obliterated_by_node_leaves_no_ghost(bull: NodeQueue, ours: Rig) -> None:
    ours.add()
    lease = ours.lease()
    bull("pause")
    bull("obliterate")
    left = ours.dump()
    assert lease.job_id not in left
    assert ours.run(ops.renew(ours.q, [lease], lock_ms=1000)).lost == (lease.token,)
    assert not ours.run(ops.progress(lease, b"1"))
    assert not ours.run(ops.checkpoint(lease, b"1"))
    for verb in ("complete", "fail", "retry", "delay", "hand_back"):
        assert ours.settle(verb, lease) == "gone"
    assert ours.dump() == left
    again = ours.add()
    assert ours.lease().fence > lease.fence
    assert bull.state(again) == "active"


def test_nodes_search_for_orphans_finds_none_of_heavyqs(bull: NodeQueue, ours: Rig) -> None:
    for outcome in ("complete", "fail", "retry", "delay", "hand_back"):
        ours.add(opts=b'{"attempts":9}')
        lease = ours.lease()
        assert ours.run(ops.checkpoint(lease, b'{"at":1}'))
        assert ours.run(ops.log(lease, ["row"], keep=None))
        ours.settle(outcome, lease)
    ours.add()
    before = ours.dump()
    assert bull("removeOrphans") == 0
    assert ours.dump() == before


def _names(bull: NodeQueue, job_id: str) -> list[str]:
    return [event["event"] for event in bull.events_of(job_id)]
