"""Jobs that share a child: how many, who pays for whose death, and how one of them is stopped."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from heavyq.bullmq.keys import QueueKey
from tests.support.eventually import eventually
from tests.support.jobs import Jobs, lines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.worker import Worker

APP = """
    import asyncio
    import os
    import signal

    from heavyq import Queue

    q = Queue("q", concurrency=60, async_concurrency=50)


    def begin(job):
        with open("began.txt", "a") as began:
            print(job.id, os.getpid(), file=began)


    @q.processor("wait")
    async def wait(job):
        begin(job)
        while not os.path.exists("go"):
            await asyncio.sleep(0.02)
        return os.getpid()


    @q.processor("pid")
    async def pid(job):
        begin(job)
        return os.getpid()


    @q.processor("segfault")
    async def segfault(job):
        begin(job)
        while not os.path.exists("crash"):
            await asyncio.sleep(0.02)
        os.kill(os.getpid(), signal.SIGSEGV)


    @q.processor("tidy")
    async def tidy(job):
        begin(job)
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            open("tidied.txt", "a").write(job.id)
            raise


    @q.processor("deaf")
    async def deaf(job):
        begin(job)
        while True:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                pass
"""


def begun(folder: Path) -> dict[str, list[str]]:
    """Return the pids in which each job has begun, in order."""
    found: dict[str, list[str]] = {}
    for line in lines(folder / "began.txt"):
        job_id, pid = line.split()
        found.setdefault(job_id, []).append(pid)
    return found


def test_as_many_jobs_share_a_child_as_it_has_seats_and_one_child_is_filled_first(
    run_worker: Callable[..., Worker], jobs: Jobs
) -> None:
    ids = jobs.add_all([("wait", {})] * 60)
    worker = run_worker(APP)
    eventually(lambda: len(begun(worker.folder)) == 60, 15.0, "all 60 run at once")
    sharing = sorted(map(len, _by_pid(worker.folder).values()))
    assert sharing == [10, 50]
    (worker.folder / "go").touch()
    for job_id in ids:
        jobs.wait(job_id, "completed")


def _by_pid(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for job_id, (pid, *_) in begun(folder).items():
        found.setdefault(pid, []).append(job_id)
    return found


def test_of_the_jobs_whose_child_crashed_only_the_guilty_one_fails(
    run_worker: Callable[..., Worker], jobs: Jobs
) -> None:
    innocent = jobs.add_all([("wait", {})] * 4, attempts=1)
    guilty = jobs.add("segfault", attempts=1)
    worker = run_worker(APP, "-c", "1")
    eventually(lambda: len(begun(worker.folder)) == 5, 15.0, "all run")
    (worker.folder / "go").touch()
    (worker.folder / "crash").touch()
    ended = jobs.wait(guilty, "failed")
    assert ended.failure is not None
    assert (ended.failure["reason"], ended.failure["signal"]) == ("signal", signal.SIGSEGV)
    for job_id in innocent:
        assert jobs.wait(job_id, "completed").attempts_made == 1
    assert len(begun(worker.folder)[guilty]) == 2, "once beside others, once alone"


@pytest.mark.long
def test_job_that_does_not_stop_when_told_costs_the_child_but_no_neighbour_an_attempt(
    run_worker: Callable[..., Worker], jobs: Jobs
) -> None:
    deaf = jobs.add("deaf", hq={"timeout": 500})
    other = jobs.add("wait", attempts=1)
    worker = run_worker(APP, "-c", "1")
    eventually(lambda: len(begun(worker.folder)) == 2, 15.0, "both run")
    ended = jobs.wait(deaf, "failed", timeout_s=20.0)
    assert (ended.failure or {})["reason"] == "timeout"
    eventually(lambda: len(begun(worker.folder)[other]) == 2, 15.0, "the other runs again")
    (worker.folder / "go").touch()
    assert jobs.wait(other, "completed").attempts_made == 1


def test_drain_stops_shared_jobs_and_hands_them_back(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    ids = jobs.add_all([("tidy", {})] * 3)
    worker = run_worker(APP, "--drain-timeout", "0s")
    eventually(lambda: len(begun(worker.folder)) == 3, 15.0, "all run")
    worker.term()
    assert worker.wait() == 0
    assert jobs.counts() == {"waiting": 3}
    assert sorted((worker.folder / "tidied.txt").read_text()) == sorted("".join(ids))
    assert all(record.attempts_made == 0 for record in jobs.read_all(ids))


def test_queue_that_is_never_empty_lets_another_have_the_only_child(
    run_worker: Callable[..., Worker], jobs: Jobs
) -> None:
    text = (
        APP
        + """

    heavy = Queue("heavy")

    @heavy.processor
    def once(job):
        open("heavy.txt", "a").write("ran")


    @q.processor("again")
    async def again(job):
        await asyncio.sleep(0.05)
        await asyncio.to_thread(q.add, "again", {}, remove_on_complete=True)
"""
    )
    jobs.add_all([("again", {})] * 5)
    worker = run_worker(text, "-c", "1")
    eventually(lambda: jobs.counts().get("active", 0) > 0, 15.0, "the shared child is busy")
    heavy = Jobs(jobs.client, jobs.raw, QueueKey(jobs.q.prefix, "heavy"))
    heavy.wait(heavy.add("once"), "completed")
    assert (worker.folder / "heavy.txt").read_text() == "ran"


def test_shared_child_that_is_killed_from_outside_costs_nobody_an_attempt(
    run_worker: Callable[..., Worker], jobs: Jobs
) -> None:
    ids = jobs.add_all([("wait", {})] * 3, attempts=1)
    worker = run_worker(APP, "-c", "1")
    eventually(lambda: len(begun(worker.folder)) == 3, 15.0, "all run")
    (pid,) = _by_pid(worker.folder)
    os.kill(int(pid), signal.SIGKILL)
    (worker.folder / "go").touch()
    for job_id in ids:
        assert jobs.wait(job_id, "completed").attempts_made == 1
