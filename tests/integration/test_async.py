"""Async processors, hooks and what jobs raise on purpose, end to end: a real worker on a real server."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.options import Keep
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.jobs import Jobs
    from tests.support.worker import Worker

pytestmark = pytest.mark.timeout(60)

MODULE = """
    import asyncio
    import os
    import time
    from contextlib import asynccontextmanager

    from heavyq import (
        Queue, RateLimited, RetryAfter, Snooze, Unrecoverable, WaitForChildren, around_job, child_start,
    )

    q = Queue("q", async_concurrency=20, lock_duration="3s")
    kids = Queue("kids", result=int)
    together = []
    full = []

    @child_start
    async def start():
        full.append(asyncio.Event())

    @around_job
    @asynccontextmanager
    async def noted(job):
        yield
        if job.name == "noted":
            job.log("after it")

    @q.processor("together")
    async def runs_together(job):
        together.append(job.id)
        if len(together) >= job.data["wanted"]:
            full[0].set()
        await full[0].wait()
        return [os.getpid(), len(together)]

    @q.processor("noted")
    async def is_noted(job):
        return job.slot

    @q.processor("fail")
    async def fails(job):
        raise ValueError("bad")

    @q.processor("hang")
    async def hangs(job):
        job.log("waits")
        await asyncio.Event().wait()

    @q.processor("crash")
    async def crashes(job):
        job.log("waits")
        while not os.path.exists("crash"):
            await asyncio.sleep(0.01)
        os._exit(9)

    @q.processor("survivor")
    async def survives(job):
        if job.attempts_made or os.path.exists("crash"):
            return "ran again"
        await asyncio.Event().wait()

    @q.processor("snooze")
    async def snoozes(job):
        seen = job.checkpoint or 0
        job.save_checkpoint(seen + 1)
        if not seen:
            raise Snooze(0.05)
        return [job.attempt, seen]

    @q.processor("retry")
    async def retries(job):
        if not job.attempts_made:
            raise RetryAfter(0.05, "not now")
        return job.attempt

    @q.processor("final")
    async def gives_up(job):
        raise Unrecoverable("never")

    @q.processor("limited")
    async def is_limited(job):
        if not job.checkpoint:
            job.save_checkpoint(True)
            raise RateLimited(0.05)
        return job.attempt

    @q.processor("custom")
    async def custom(job):
        raise OSError(job.data["what"])

    @q.backoff_strategy
    def strategy(attempts_made, kind, error, job):
        return 0.01 if str(error) == "again" else -1

    @q.processor("parent")
    async def parent(job):
        values = await asyncio.to_thread(job.children_values, kids)
        if not values:
            for n in range(2):
                await asyncio.to_thread(kids.add, {"n": n}, parent=job)
            raise WaitForChildren
        return [sorted(values.values()), job.attempt]

    @kids.processor
    def kid(job):
        return job.data["n"]

    @q.on("completed", "failed", "retrying")
    def told(event):
        with open("told", "a") as f:
            print(event.name, event.job_name, event.attempts_made, event.failure and event.failure.reason, file=f)
"""


@pytest.fixture
def told(tmp_path: Path) -> Callable[[], list[str]]:
    """What the hooks were told so far."""
    return lambda: (tmp_path / "told").read_text().splitlines() if (tmp_path / "told").exists() else []


def test_async_jobs_share_a_child_and_one_that_fails_fails_alone(run_worker: Callable[..., Worker], jobs: Jobs):
    run_worker(MODULE, "-c", "2")
    ids = jobs.add_all([("together", {"wanted": 10})] * 10)
    failing = jobs.add("fail")
    results = [jobs.result(job_id) for job_id in ids]
    assert len({pid for pid, _ in results}) == 1
    assert {count for _, count in results} == {10}
    assert jobs.wait(failing, "failed").failed_reason == "bad"
    noted = jobs.add("noted")
    assert jobs.result(noted) in {0, 1}
    eventually(lambda: jobs.log(noted) == ["after it"])
    usage = jobs.read(ids[0]).usage
    assert usage is not None
    assert 0 < usage["cpu_s"] < usage["wall_s"]


def test_what_jobs_raise_on_purpose_is_done_and_hooks_are_told(
    run_worker: Callable[..., Worker], jobs: Jobs, told: Callable[[], list[str]]
):
    worker = run_worker(MODULE, "-c", "1")
    snoozed, retried = jobs.add("snooze"), jobs.add("retry", attempts=2)
    final, limited = jobs.add("final", attempts=5), jobs.add("limited")
    custom = {"attempts": 3, "backoff": {"type": "mine", "delay": 1}}
    again, never = jobs.add("custom", {"what": "again"}, **custom), jobs.add("custom", {"what": "no"}, **custom)

    assert jobs.result(snoozed) == [1, 1]  # no attempt was burnt
    assert jobs.result(limited) == 1
    assert jobs.result(retried) == 2
    ended = {job_id: jobs.wait(job_id, "failed") for job_id in (final, again, never)}
    assert [job.attempts_made for job in ended.values()] == [1, 3, 1]
    assert jobs.read(retried).attempts_made == 2
    assert jobs.read(snoozed).attempts_made == 1
    expected = {
        "completed snooze 1 None": 1,
        "completed limited 1 None": 1,
        "completed retry 2 None": 1,
        "retrying retry 1 exception": 1,
        "failed final 1 exception": 1,
        "retrying custom 1 exception": 1,
        "retrying custom 2 exception": 1,
        "failed custom 3 exception": 1,
        "failed custom 1 exception": 1,
    }
    eventually(lambda: Counter(told()) == expected, what=f"{told()}\n{worker.tail()}")


def test_parent_waits_for_the_children_that_it_has_added(run_worker: Callable[..., Worker], jobs: Jobs):
    run_worker(MODULE, "-c", "2")
    job_id = jobs.add("parent")
    assert jobs.result(job_id) == [[0, 1], 1]
    assert (jobs.read(job_id).attempts_started, jobs.read(job_id).attempts_made) == (2, 1)


def test_jobs_beside_one_that_kills_their_child_run_again(
    run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path
):
    run_worker(MODULE, "-c", "1")
    survivors = jobs.add_all([("survivor", None)] * 5)
    crashing = jobs.add("crash", attempts=1)
    for job_id in survivors:
        jobs.wait(job_id, "active")
    eventually(lambda: "waits" in jobs.log(crashing))
    (tmp_path / "crash").touch()
    assert [jobs.result(job_id) for job_id in survivors] == ["ran again"] * 5


def test_async_job_that_is_cancelled_stops_and_its_neighbours_go_on(run_worker: Callable[..., Worker], jobs: Jobs):
    run_worker(MODULE, "-c", "2")
    hanging, other = jobs.add("hang"), jobs.add("together", {"wanted": 2})
    eventually(lambda: "waits" in jobs.log(hanging))
    keep = Keep(count=-1)
    assert jobs.client.run(ops.cancel(jobs.q, hanging, reason="not needed", now_ms=1, keep=keep)) == "asked"
    assert "not needed" in (jobs.wait(hanging, "failed").failed_reason or "")
    second = jobs.add("together", {"wanted": 2})
    assert jobs.result(second) == jobs.result(other)
