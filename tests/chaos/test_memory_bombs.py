"""A job that takes more memory than it may is stopped, near its limit, and says why; its sibling notices nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import procs
from tests.support.eventually import eventually
from tests.support.group import memory_group
from tests.support.memory import APP, GIB, MIB, Sampler, evidence, expect_shared_given_back, give_up_at, reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.jobs import Jobs
    from tests.support.worker import Worker

pytestmark = pytest.mark.timeout(120)

LIMIT = GIB
STOPPED_BY = 1.15 * GIB


def held(jobs: Jobs, folder: Path, mib: int) -> tuple[str, int]:
    """Start a job that holds so much until the file `go` is there; return its id and its child."""
    mark = folder / f"mark-{procs.new_marker()}"
    job_id = jobs.add("hold", {"mib": mib, "mark": str(mark), "go": str(folder / "go")})
    pid = eventually(lambda: mark.exists() and mark.read_text(), 30, "the sibling runs")
    return job_id, int(pid)


def test_bomb_of_100_mb_every_50_ms_is_stopped_near_its_limit_and_says_why(
    run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path
) -> None:
    worker = run_worker(APP, "-c", "2", "--memory-limit", "1Gi")
    sibling, sibling_pid = held(jobs, tmp_path, 200)

    with Sampler(worker) as seen:
        data = {"step_mib": 100, "pause_s": 0.05, "up_to_mib": give_up_at(LIMIT)}
        bomb = jobs.add("plain", data, attempts=3)
        record = jobs.wait(bomb, timeout_s=30)
        assert jobs.read(sibling).state == "active"
    print(
        f"measured: 100 MB every 50 ms, limit 1024 MiB: stopped at {seen.peak_bytes / MIB:.0f} MiB "
        f"by {seen.looks} looks from outside (promised: under {STOPPED_BY / MIB:.0f}); {record.failure}"
    )
    assert reason(record) == "memory_limit", record.failure or record.returnvalue
    why = evidence(record)
    assert LIMIT <= why["peak_bytes"] <= STOPPED_BY
    assert seen.peak_bytes <= STOPPED_BY
    assert (why["limit_bytes"], why["limit_of"], why["killed_by"]) == (LIMIT, "job", "heavyq")
    assert max(size for _, size in why["processes"]) > 0.9 * LIMIT
    assert (record.attempts_made, record.attempts_started) == (1, 1), "not retried, whatever its attempts"

    told = record.failed_reason or ""
    assert "memory_limit" in told
    assert "1.00 GiB" in told, "the limit is named"
    assert "memory_limit" in record.stacktrace[-1]
    assert str(why["peak_bytes"]) in record.stacktrace[-1], "the evidence is in what Bull Board shows"
    assert any(told in row for row in jobs.log(bomb)), jobs.log(bomb)

    # A child of its own takes what comes next, while the sibling goes on.
    assert jobs.result(jobs.add("pid")) not in {sibling_pid, *(p for p, n in seen.peak_of.items() if n > LIMIT)}
    (tmp_path / "go").touch()
    assert jobs.result(sibling) == sibling_pid
    assert jobs.read(sibling).attempts_started == 1
    eventually(lambda: not [p for p in worker.whole_tree() if p.zombie], 3, "no zombie stays")


@pytest.mark.parametrize("huge", [False, True], ids=["small-pages", "huge-pages"])
def test_job_that_faults_in_memory_as_fast_as_it_can_is_stopped(
    run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path, huge: bool
) -> None:
    worker = run_worker(APP, "-c", "2", "--memory-limit", "1Gi")
    sibling, sibling_pid = held(jobs, tmp_path, 50)
    over = []
    for _ in range(3):
        with Sampler(worker, 0.001) as seen:
            record = jobs.wait(jobs.add("fast", {"up_to_mib": 4 * 1024, "huge": huge}), timeout_s=30)
        assert reason(record) == "memory_limit", record.failure or record.returnvalue
        told = evidence(record)["peak_bytes"]
        over.append((round(told / MIB) - 1024, round(seen.peak_bytes / MIB) - 1024))
        assert seen.peak_bytes - told < 400 * MIB, "the evidence is near the truth"
    print(f"measured: faulting in {'huge' if huge else 'small'} pages: MiB past 1024, as told and as seen: {over}")
    (tmp_path / "go").touch()
    assert jobs.result(sibling) == sibling_pid


WAYS = {
    "numpy": {"step_mib": 20},
    "subprocess": {"step_mib": 20},
    "forks": {"step_mib": 40},
    "shared": {"step_mib": 20},
    "posix-shared": {"step_mib": 20},
    "plain": {"step_mib": 1},
}


def test_memory_is_the_job_s_whatever_way_it_was_taken(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    limit = 256 * MIB
    worker = run_worker(APP, "-c", "1", "--memory-limit", "256Mi")
    jobs.result(jobs.add("pid"), timeout_s=30)
    mark = procs.new_marker()
    for name, data in WAYS.items():
        with Sampler(worker) as seen:
            record = jobs.wait(jobs.add(name, {**data, "up_to_mib": 4 * 256, "mark": mark}), timeout_s=30)
        print(f"measured: {name}: stopped at {seen.peak_bytes / MIB:.0f} MiB of 256; {record.failure}")
        assert reason(record) == "memory_limit", f"{name}: {record.failure or record.returnvalue}"
        assert evidence(record)["peak_bytes"] >= limit
    assert jobs.result(jobs.add("pid"))
    expect_shared_given_back(mark)
    eventually(lambda: not [p for p in worker.whole_tree() if p.zombie], 3, "no zombie stays")


POOL_FIRST = """
    import multiprocessing

    import numpy


    @q.processor("pool-first")
    def pool_first(job):  # its forks seem to hold four times what it holds; when they are gone it takes all it can
        mine = numpy.ones(300 * MIB, dtype="u1")
        with multiprocessing.get_context("fork").Pool(4) as workers:
            workers.map(time.sleep, [job.data["forks_s"]] * 4, chunksize=1)
        fill(anonymous(3 * 1024 * MIB))
        return "not stopped"
"""


def test_excuse_for_forks_is_no_credit(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    """A job that seemed over its limit and was not is not looked at closely for a second: it must not use that."""
    run_worker(APP + POOL_FIRST, "-c", "1", "--memory-limit", "512Mi")
    held = []
    for forks_s in (0.6, 1.3):
        record = jobs.wait(jobs.add("pool-first", {"forks_s": forks_s}), timeout_s=30)
        assert reason(record) == "memory_limit", record.failure or record.returnvalue
        held.append(max(size for _, size in evidence(record)["processes"]))
    print(f"measured: stopped at {[round(size / MIB) for size in held]} MiB of 512 after forks that were excused")
    assert max(held) < 800 * MIB


def test_full_container_costs_the_job_that_ran_shortest_of_the_large_ones(
    run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path
) -> None:
    """No job has a limit of its own: the container's is near, and the kernel would pick by size alone."""
    with memory_group(GIB) as group:
        worker = run_worker(APP, "-c", "3", group=group)
        old, old_pid = held(jobs, tmp_path, 300)
        small, small_pid = held(jobs, tmp_path, 10)
        supervisor = worker.find("supervisor")
        began_s = time.monotonic()
        (bomb,) = jobs.add_for_the_last_time([("plain", {"step_mib": 20, "pause_s": 0.01, "up_to_mib": 2048})])
        record = jobs.wait(bomb, timeout_s=30)
        print(f"measured: the container's guard acted after {time.monotonic() - began_s:.2f} s; {record.failure}")
        assert reason(record) == "memory_limit", record.failure or record.returnvalue
        why = evidence(record)
        assert (why["limit_of"], why["killed_by"]) == ("container", "heavyq")
        assert why["container_limit_bytes"] == GIB
        assert 0.85 * GIB <= why["container_bytes"] <= GIB
        assert group.oom_kills() == 0, "the kernel was not first"
        (tmp_path / "go").touch()
        assert jobs.result(old) == old_pid
        assert jobs.result(small) == small_pid
        assert supervisor.still_runs()
        worker.stop()
