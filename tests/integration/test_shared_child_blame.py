"""Who pays in a child that jobs share, where it is not plain: hooks beside jobs, blocked loops, leaks, forgeries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import always, eventually
from tests.support.jobs import lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.jobs import Jobs
    from tests.support.worker import Worker

pytestmark = pytest.mark.long

APP = """
    import asyncio, os, signal, time
    from heavyq import Queue, RateLimited

    q = Queue("q", concurrency=50, recycle_rss="40Mi")
    kept = []


    def begin(job, *more):
        with open("began.txt", "a") as began:
            print(job.name, job.id, os.getpid(), *more, file=began)


    @q.processor("wait")
    async def wait(job):
        begin(job)
        while not os.path.exists("go"):
            await asyncio.sleep(0.02)


    @q.processor("quick")
    async def quick(job):
        begin(job)


    @q.processor("one")
    async def one(job):
        await asyncio.sleep(1.0)


    @q.processor("block")
    async def block(job):
        begin(job)
        time.sleep(3600)


    @q.processor("leak")
    async def leak(job):
        kept.append(b"x" * (10 << 20))
        await asyncio.sleep(0.1)
        begin(job, 10 * len(kept))


    @q.processor("eat")
    async def eat(job):
        mine = b"x" * (300 << 20)
        await asyncio.sleep(5)
        return len(mine)


    @q.processor("limited")
    async def limited(job):
        begin(job)
        raise RateLimited("30s")


    @q.on("completed")
    async def done(event):
        if event.job_name == "quick":
            while not os.path.exists("crash"):
                await asyncio.sleep(0.02)
            if open("crash").read():
                os.kill(os.getpid(), signal.SIGSEGV)
"""

FORGE = """
    import time
    from heavyq import Queue

    q = Queue("q")

    @q.processor
    def forge(job):
        sender = job._send.__self__
        told = {"usage": {"peak_rss_bytes": 1, "cpu_s": 0, "wall_s": 0}, "cpu_total_s": 0, "reason": "oom_killed"}
        why = {"detail": "d", "evidence": {"peak_bytes": "x"}, "final": False, "retry_ms": None}
        sender._channel.send(b"f", {"run": sender._run, "clean": True, **told, **why}, b"")
        time.sleep(60)
"""


def test_crash_of_a_hook_is_no_fault_of_the_job_beside_it(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    beside, quick = jobs.add("wait", attempts=1), jobs.add("quick")
    worker = run_worker(APP, "-c", "1")
    jobs.wait(quick, "completed")
    eventually(lambda: len(lines(worker.folder / "began.txt")) == 2, 15.0, "both have begun")
    (worker.folder / "crash").write_text("now")
    eventually(lambda: len(lines(worker.folder / "began.txt")) == 3, 15.0, "the job beside it runs again")
    (worker.folder / "go").touch()
    assert jobs.wait(beside, "completed").attempts_made == 1


def test_limit_of_one_job_holds_after_a_hook_that_outlived_another(
    run_worker: Callable[..., Worker], jobs: Jobs
) -> None:
    worker = run_worker(APP, "-c", "1")
    jobs.wait(jobs.add("quick"), "completed")
    jobs.wait(jobs.add("one"), "completed")
    (worker.folder / "crash").touch()
    ended = jobs.wait(jobs.add("eat", hq={"memoryLimit": 64 << 20}), "failed", "completed")
    assert (ended.failure or {}).get("reason") == "memory_limit"


def test_shared_child_that_is_never_idle_is_recycled_when_it_has_grown(
    run_worker: Callable[..., Worker], jobs: Jobs
) -> None:
    jobs.add_all([("leak", {})] * 100)
    worker = run_worker(APP, "-c", "2")
    jobs.wait_counts({"completed": 100}, timeout_s=40.0)
    assert max(int(line.split()[3]) for line in lines(worker.folder / "began.txt")) < 600


def test_job_that_blocks_the_loop_pays_alone_in_the_end(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    timed = jobs.add("wait", hq={"timeout": 1500})
    worker = run_worker(APP, "-c", "1", "--drain-timeout", "0s")
    eventually(lambda: lines(worker.folder / "began.txt"), 15.0, "the first has begun")
    block = jobs.add("block")
    assert (jobs.wait(timed, timeout_s=20.0).failure or {})["reason"] == "timeout"
    eventually(lambda: _begun(worker, block) == 2, 15.0, "the one that blocks is run again, alone")
    assert jobs.raw.hget(jobs.q.key(block), "hq:strikes") == b"1"


def _begun(worker: Worker, job_id: str) -> int:
    return sum(line.split()[1] == job_id for line in lines(worker.folder / "began.txt"))


def test_job_that_met_a_rate_limit_is_not_run_again_before_it_is_over(
    run_worker: Callable[..., Worker], jobs: Jobs
) -> None:
    job_id = jobs.add("limited")
    worker = run_worker(APP, "-c", "1")
    eventually(lambda: _begun(worker, job_id) == 1, 15.0, "it has begun")
    always(lambda: _begun(worker, job_id) == 1, 3.0, "it waits")


def test_forged_report_costs_the_job_that_forged_it_and_is_settled(
    run_worker: Callable[..., Worker], jobs: Jobs
) -> None:
    job_id = jobs.add("forge")
    worker = run_worker(FORGE)
    assert "broke the protocol" in (jobs.wait(job_id, "failed").failed_reason or "")
    assert worker.stop() == 0
