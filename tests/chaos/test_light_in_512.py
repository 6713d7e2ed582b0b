"""The LIGHT profile where it is used: fifty notifications at once, in a container of 512 MB."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually
from tests.support.group import memory_group
from tests.support.jobs import lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.jobs import Jobs
    from tests.support.worker import Worker

MB_512 = 512 * 10**6
pytestmark = pytest.mark.timeout(120)

ASYNC = """
    import asyncio, os
    from heavyq import LIGHT, Queue

    q = Queue("q", profile=LIGHT)

    @q.processor
    async def notify(job):
        with open("began.txt", "a") as began:
            print(os.getpid(), file=began)
        while not os.path.exists("go"):
            await asyncio.sleep(0.05)
        return job.data["n"]
"""

PLAIN = """
    from heavyq import LIGHT, Queue

    q = Queue("q", profile=LIGHT)

    @q.processor
    def notify(job):
        return job.data["n"]
"""


def test_fifty_async_jobs_run_at_once_in_512_mb(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    ids = jobs.add_all([("notify", {"n": n}) for n in range(200)])
    with memory_group(MB_512) as group:
        worker = run_worker(ASYNC, group=group)
        eventually(lambda: len(lines(worker.folder / "began.txt")) >= 50, 30.0, "fifty run at once")
        assert len(set(lines(worker.folder / "began.txt"))) == 1, "in one child"
        assert jobs.counts()["active"] == 50
        (worker.folder / "go").touch()
        assert [jobs.result(job_id) for job_id in ids] == list(range(200))
        assert group.oom_kills() == 0
        assert worker.stop() == 0


def test_plain_jobs_get_as_many_children_as_512_mb_take_and_the_worker_says_so(
    run_worker: Callable[..., Worker], jobs: Jobs
) -> None:
    ids = jobs.add_all([("notify", {"n": n}) for n in range(100)])
    with memory_group(MB_512) as group:
        worker = run_worker(PLAIN, group=group)
        worker.wait_log("fewer children than the queues ask for: memory takes no more.*asked=50")
        assert [jobs.result(job_id) for job_id in ids] == list(range(100))
        assert group.oom_kills() == 0
        assert worker.stop() == 0
