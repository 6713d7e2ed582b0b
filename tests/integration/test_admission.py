"""A job is leased only where its memory fits: what does not fit now waits, what never fits is told at start."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

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


    @heavy.processor("span")
    @q.processor("span")
    def span(job):
        began_s = time.monotonic()
        time.sleep(0.15)
        return began_s, time.monotonic()


    @heavy.processor("pid")
    def heavy_pid(job):
        return pid(job)
"""
Span = tuple[float, float]


@pytest.fixture
def heavy(jobs: Jobs) -> Jobs:
    """The queue whose jobs ask for 200 MB; those of `jobs` ask for nothing."""
    return Jobs(jobs.client, jobs.raw, QueueKey(jobs.q.prefix, "heavy"))


def together(some: list[Span], others: list[Span] | None = None) -> int:
    """Count the pairs that ran at the same time."""
    pairs = combinations(some, 2) if others is None else ((a, b) for a in some for b in others)
    return sum(a[0] < b[1] and b[0] < a[1] for a, b in pairs)


def spans(queue: Jobs, ids: list[str]) -> list[Span]:
    return [tuple(queue.result(job_id, timeout_s=30)) for job_id in ids]


def test_two_jobs_that_do_not_fit_together_never_run_at_once(
    run_worker: Callable[..., Worker], jobs: Jobs, heavy: Jobs
) -> None:
    # More that ask than that do not: by taking turns alone the last of them would be together.
    heavies, lights = heavy.add_all([("span", None)] * 7), jobs.add_all([("span", None)] * 3)
    run_worker(APP + TWO_QUEUES, "-c", "2", "--memory-budget", "300M")
    heavy_spans, light_spans = spans(heavy, heavies), spans(jobs, lights)
    print(f"measured: together: heavy {together(heavy_spans)}, heavy and light {together(heavy_spans, light_spans)}")
    assert together(heavy_spans) == 0, "200 MB and 200 MB do not fit into 300"
    assert together(heavy_spans, light_spans) >= 2, "a queue that asks for nothing runs beside it"


def test_two_jobs_that_fit_run_at_once(run_worker: Callable[..., Worker], heavy: Jobs) -> None:
    ids = heavy.add_all([("span", None)] * 6)
    run_worker(APP + TWO_QUEUES, "-c", "2", "--memory-budget", "400M")
    assert together(spans(heavy, ids)) >= 2


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


def test_budget_is_taken_from_the_container(run_worker: Callable[..., Worker], heavy: Jobs) -> None:
    ids = heavy.add_all([("span", None)] * 4)
    with memory_group(450 * MIB) as group:  # its mark is 360 MiB, and the worker itself holds some
        worker = run_worker(APP + TWO_QUEUES, "-c", "2", group=group)
        assert together(spans(heavy, ids)) == 0
        worker.stop()
