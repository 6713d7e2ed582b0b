"""Jobs that run too long, make no progress, are cancelled, or were started too often: stopped, and told so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq import ops
from heavyq.bullmq.options import Keep
from heavyq.linux.clock import epoch_ms
from tests.support.eventually import eventually
from tests.support.jobs import lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.jobs import Jobs
    from tests.support.worker import Worker

APP = """
    import time

    from heavyq import Queue

    q = Queue("q", concurrency=4, max_started_attempts=2, lock_duration="3s")  # renewed, and looked at, each second


    def begin(job):
        with open("began.txt", "a") as began:
            print(job.id, file=began)


    @q.processor("still")
    def still(job):
        begin(job)
        time.sleep(600)


    @q.processor("moving")
    def moving(job):
        begin(job)
        for n in range(8):
            time.sleep(0.2)
            job.update_progress(n)
        return "done"
"""


def reason(jobs: Jobs, job_id: str, *states: str) -> tuple[str, str | None]:
    ended = jobs.wait(job_id, *states)
    return (ended.failure or {})["reason"], ended.failed_reason


def test_job_is_stopped_at_its_own_timeouts_and_while_it_moves_it_is_not(
    run_worker: Callable[..., Worker], jobs: Jobs
) -> None:
    over = jobs.add("still", attempts=2, hq={"timeout": 300})
    hung = jobs.add("still", hq={"progressTimeout": 400})
    moving = jobs.add("moving", hq={"progressTimeout": 1200})
    worker = run_worker(APP)
    assert reason(jobs, hung) == ("hung", "stopped by heavyq: no progress for 0.4 s, its progress_timeout")
    assert reason(jobs, over) == ("timeout", "stopped by heavyq: the job ran longer than its timeout, 0.3 s")
    assert lines(worker.folder / "began.txt").count(over) == 2, "a job over its time has attempts"
    assert jobs.result(moving) == "done"


def test_timeout_of_the_queue_holds_for_jobs_that_say_nothing(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    silent, patient = jobs.add("still"), jobs.add("moving", hq={"timeout": 60_000})
    run_worker(APP, "--timeout", "1s")
    assert reason(jobs, silent)[0] == "timeout"
    assert jobs.result(patient) == "done"


def test_cancelled_job_is_stopped_and_not_run_again(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    running = jobs.add("still", attempts=5)
    worker = run_worker(APP)
    eventually(lambda: lines(worker.folder / "began.txt") == [running], 15.0, "it runs")
    waiting = jobs.add("still", delay_ms=60_000)
    for job_id, answer in ((running, "asked"), (waiting, "failed")):
        op = ops.cancel(jobs.q, job_id, reason="not needed", now_ms=epoch_ms(), keep=Keep())
        assert jobs.client.run(op) == answer
    assert reason(jobs, running) == ("cancelled", "cancelled: not needed")
    assert jobs.wait(waiting, "failed").failed_reason == "cancelled: not needed"
    assert lines(worker.folder / "began.txt") == [running]


def test_job_that_was_started_too_often_is_failed_without_running(
    run_worker: Callable[..., Worker], jobs: Jobs
) -> None:
    # conformance: C-082
    job_id = jobs.add("moving")
    jobs.raw.hset(jobs.q.key(job_id), "ats", "2")
    worker = run_worker(APP)
    assert jobs.wait(job_id, "failed").failed_reason == "job started more than allowable limit"
    assert not (worker.folder / "began.txt").exists()
