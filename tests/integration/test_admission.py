"""A job is leased only where its memory fits: what does not fit now waits, what never fits is told at start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from heavyq.bullmq.keys import QueueKey
from tests.support.eventually import always, eventually
from tests.support.group import memory_group
from tests.support.jobs import Jobs
from tests.support.memory import APP, MIB

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.worker import Worker

pytestmark = pytest.mark.timeout(60)

TWO_QUEUES = """
    heavy = Queue("heavy", memory_request="200M")


    @q.processor("wait")
    def wait(job):  # until it may go
        Path("light-is-here").touch()
        wait_for("go")


    @heavy.processor("alone")
    def alone(job):  # until all may go, and then for a moment; was no other inside?
        try:
            Path("inside").touch(exist_ok=False)
        except FileExistsError:
            return False
        Path(f"heavy-is-here-{job.id}").touch()
        wait_for("go")
        time.sleep(0.1)
        Path("inside").unlink()
        return True


    @heavy.processor("meet")
    def meet(job):  # an other one
        Path(f"heavy-is-here-{job.id}").touch()
        until_s = time.monotonic() + 15
        while time.monotonic() < until_s and len(list(Path().glob("heavy-is-here-*"))) < 2:
            time.sleep(0.005)
        return len(list(Path().glob("heavy-is-here-*")))


    @heavy.processor("pid")
    def heavy_pid(job):
        return pid(job)
"""


@pytest.fixture
def heavy(jobs: Jobs) -> Jobs:
    """The queue whose jobs ask for 200 MB; those of `jobs` ask for nothing."""
    return Jobs(jobs.client, jobs.raw, QueueKey(jobs.q.prefix, "heavy"))


def results(queue: Jobs, ids: list[str]) -> list[Any]:
    return [queue.result(job_id, timeout_s=30) for job_id in ids]


def here(folder: Path) -> int:
    """Count the heavy jobs that have begun."""
    return len(list(folder.glob("heavy-is-here-*")))


def test_two_jobs_that_do_not_fit_together_never_run_at_once(
    run_worker: Callable[..., Worker], jobs: Jobs, heavy: Jobs, tmp_path: Path
) -> None:
    heavies, light = heavy.add_all([("alone", None)] * 4), jobs.add("wait")
    run_worker(APP + TWO_QUEUES, "-c", "3", "--memory-budget", "300M")
    eventually(lambda: here(tmp_path), 15, "a job that fits runs")
    eventually((tmp_path / "light-is-here").exists, 15, "what asks for nothing runs beside it")
    always(lambda: heavy.counts() == {"active": 1, "waiting": 3}, 1.0, "200 MB and 200 MB do not fit into 300")
    (tmp_path / "go").touch()
    assert results(heavy, heavies) == [True] * 4, "each alone, also where one follows the other"
    jobs.result(light)


def test_two_jobs_that_fit_run_at_once(run_worker: Callable[..., Worker], heavy: Jobs) -> None:
    ids = heavy.add_all([("meet", None)] * 2)
    run_worker(APP + TWO_QUEUES, "-c", "2", "--memory-budget", "400M")
    assert results(heavy, ids) == [2, 2]


def test_what_a_job_really_holds_counts_against_the_budget(
    run_worker: Callable[..., Worker], jobs: Jobs, heavy: Jobs, tmp_path: Path
) -> None:
    run_worker(APP + TWO_QUEUES, "-c", "2", "--memory-budget", "300M")
    holding = jobs.add("hold", {"mib": 150, "mark": "mark", "go": "go"})
    eventually((tmp_path / "mark").exists, 15, "150 MiB are held by a job that asked for nothing")
    blocked = heavy.add("pid")
    always(lambda: heavy.read(blocked).state == "waiting", 1.0, "it waits: not leased")
    assert jobs.result(jobs.add("pid")), "what asks for nothing is not held up"
    (tmp_path / "go").touch()
    assert jobs.result(holding)
    assert heavy.result(blocked)


@pytest.mark.parametrize("where", ["given", "auto"])
def test_queue_that_can_never_fit_is_refused_at_start(
    run_worker: Callable[..., Worker], jobs: Jobs, heavy: Jobs, where: str
) -> None:
    waiting = heavy.add("pid")
    app = (APP + TWO_QUEUES).replace('"200M"', '"400Mi"')
    if where == "given":
        worker = run_worker(app, "-c", "2", "--memory-budget", "300Mi")
        assert worker.wait(20) == 3
    else:
        with memory_group(350 * MIB) as group:
            worker = run_worker(app, "-c", "2", group=group)
            assert worker.wait(20) == 3
    (line,) = [line for line in worker.log.splitlines() if line.startswith("heavyq: ")]
    assert "Traceback" not in worker.log
    assert all(word in line for word in ("heavy", "memory_request", "400 MiB")), line
    assert "budget" in line
    assert heavy.read(waiting).state == "waiting"


def test_budget_is_taken_from_the_container(run_worker: Callable[..., Worker], heavy: Jobs, tmp_path: Path) -> None:
    ids = heavy.add_all([("alone", None)] * 3)
    with memory_group(450 * MIB) as group:  # its mark is 360 MiB, and the worker itself holds some
        worker = run_worker(APP + TWO_QUEUES, "-c", "2", group=group)
        eventually(lambda: here(tmp_path), 15, "one fits")
        always(lambda: heavy.counts() == {"active": 1, "waiting": 2}, 1.0, "two do not")
        (tmp_path / "go").touch()
        assert results(heavy, ids) == [True] * 3
        worker.stop()
