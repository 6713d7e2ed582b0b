"""Memory that only looks like a job's: files, what the zygote preloaded, what forks share. Nobody is stopped for it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.support import procs
from tests.support.eventually import eventually
from tests.support.group import memory_group
from tests.support.memory import APP, GIB, MIB, Sampler

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from heavyq.bullmq.job_hash import JobRecord
    from tests.support.group import MemoryGroup
    from tests.support.jobs import Jobs
    from tests.support.worker import Worker

pytestmark = pytest.mark.timeout(180)

LIMIT = 512 * MIB
CONTAINER = 3 * GIB // 2

POOL = """
    import multiprocessing

    import numpy

    def look(seconds):  # read all of what was inherited, for so long
        until_s, total = time.monotonic() + seconds, 0
        while time.monotonic() < until_s:
            total = int(kept[0][::4096].sum())
        return total


    @q.processor("pool")
    def pool(job):
        kept.append(numpy.ones(job.data["mib"] * MIB, dtype="u1"))
        try:
            with multiprocessing.get_context("fork").Pool(3) as workers:
                return workers.map(look, [0.5] * 18, chunksize=1)
        finally:
            kept.clear()


    @q.processor("give-back")
    def give_back(job):  # as jemalloc and Go do: resident until somebody needs it
        mine = []
        for _ in range(job.data["mib"] // 64):
            mine.append(anonymous(64 * MIB))
            fill(mine[-1])
            mine[-1].madvise(mmap.MADV_FREE)
            time.sleep(0.1)
        with open("/proc/self/smaps_rollup") as f:
            return next(int(line.split()[1]) // 1024 for line in f if line.startswith("LazyFree"))
"""

PRELOADED = """
    import numpy

    from heavyq import preload

    model = []


    @preload
    def load():
        model.append(numpy.ones(GIB // 8))


    def add_up(_):
        return float(model[0].sum())


    @q.processor("sum")
    def add_up_all(job):
        total, until_s = 0.0, time.monotonic() + job.data.get("s", 0)
        while not total or time.monotonic() < until_s:
            total = add_up(None)
        return total


    @q.processor("sum-in-forks")
    def add_up_in_forks(job):
        import multiprocessing

        with multiprocessing.get_context("fork").Pool(2) as workers:
            return workers.map(add_up, range(8), chunksize=1)


    @q.processor("sum-and-stay")
    def sum_and_stay(job):
        total = add_up(None)
        Path(f"read-{job.id}").write_text(str(os.getpid()))
        wait_for("go")
        return total
"""


def expect_untouched(worker: Worker, group: MemoryGroup, records: list[JobRecord], supervisor: procs.Proc) -> None:
    ended = {r.name: (r.state, (r.failure or {}).get("reason"), r.attempts_started) for r in records}
    assert set(ended.values()) == {("completed", None, 1)}, ended
    assert group.oom_kills() == 0
    assert supervisor.still_runs()


def test_files_and_forks_are_no_memory_of_the_job(
    run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path
) -> None:
    whole = tmp_path / "large.bin"
    with whole.open("wb") as made:
        made.truncate(2 * GIB)
    with memory_group(CONTAINER) as group:
        worker = run_worker(APP + POOL, "-c", "2", "--memory-limit", "512Mi", group=group)
        jobs.result(jobs.add("pid"), timeout_s=30)
        supervisor = worker.find("supervisor")

        pool = jobs.add("pool", {"mib": 300})
        began_s = time.monotonic()
        with Sampler(worker) as seen:
            pool_record = jobs.wait(pool, timeout_s=60)
        print(f"measured: fork pool: {seen.peak_bytes / MIB:.0f} MiB if shared pages count for each who maps them")
        assert seen.peak_bytes > 2 * LIMIT, "the trap is set: a meter by RSS would have stopped it"

        reader = jobs.add("read-file", {"path": str(whole)})
        writer = jobs.add("write-file", {"mib": 2048})
        giver = jobs.add("give-back", {"mib": 1024})
        records = [pool_record, *(jobs.wait(job_id, timeout_s=90) for job_id in (reader, writer, giver))]
        print(
            f"measured: innocents took {time.monotonic() - began_s:.1f} s; resident in the reader: "
            f"{records[1].usage['peak_rss_bytes'] / MIB if records[1].usage else 0:.0f} MiB (limit {LIMIT / MIB:.0f}); "
            f"given back and still resident: {int(records[3].returnvalue or 0)} MiB; "
            f"charged to the container with page cache: {group.peak_bytes() / MIB:.0f} of {CONTAINER / MIB:.0f} MiB"
        )
        expect_untouched(worker, group, records, supervisor)
        assert records[1].usage is not None
        assert records[1].usage["peak_rss_bytes"] > LIMIT, "the trap is set: so much of the file was resident"
        assert group.peak_bytes() > 0.9 * CONTAINER, "the trap is set: page cache had filled the container"
        worker.stop()


def test_what_the_zygote_preloaded_is_no_memory_of_the_job(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    with memory_group(CONTAINER) as group:
        worker = run_worker(APP + PRELOADED, "-c", "2", "--memory-limit", "512Mi", group=group)
        jobs.result(jobs.add("pid"), timeout_s=60)
        supervisor = worker.find("supervisor")
        names = ["sum", "sum", "sum-in-forks", "sum-in-forks"]
        ids = jobs.add_all([(name, {"s": 2.0}) for name in names])
        records = [jobs.wait(job_id, timeout_s=60) for job_id in ids]
        expect_untouched(worker, group, records, supervisor)
        print(f"measured: held by the group at the end: {group.held_bytes() / MIB:.0f} MiB; wall {records[0].usage}")
        worker.stop()


def test_eight_children_that_read_a_preloaded_gigabyte_hold_it_once(
    run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path
) -> None:
    worker = run_worker(APP + PRELOADED.replace("GIB // 8", "10**9 // 8"), "-c", "8", "--memory-limit", "512Mi")
    ids = jobs.add_all([("sum-and-stay", None)] * 8)

    def all_have_read() -> bool:
        if not worker.running or "failed" in jobs.counts():
            pytest.fail("the worker has ended, or a job has failed")
        return all((tmp_path / f"read-{job_id}").exists() for job_id in ids)

    eventually(all_have_read, 60, "all eight have read all of it")
    whole = worker.whole_tree()
    assert len(whole) == 3 + 8, procs.outline(worker.pid)
    by_process = [(proc.title[:20], procs.pss_bytes(proc.pid)) for proc in whole]
    total = sum(size for _, size in by_process)
    print(
        f"measured: PSS of guard, supervisor, zygote and 8 children of a 1 GB array: {total / 1e9:.3f} GB "
        f"(promised: under 1.6); {[f'{title} {size / MIB:.0f} MiB' for title, size in by_process]}"
    )
    assert 1e9 < total < 1.6e9
    (tmp_path / "go").touch()
    assert {jobs.result(job_id) for job_id in ids} == {10**9 // 8}
