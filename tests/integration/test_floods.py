"""A job that floods the worker is slowed down by its own flood; its neighbours and the worker are not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.support import procs
from tests.support.eventually import eventually
from tests.support.jobs import Jobs, lines
from tests.support.unread import output_unread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import redis

    from heavyq.store.client import Client
    from tests.support.worker import Worker

pytestmark = [pytest.mark.long, pytest.mark.timeout(110)]

APP = """
    import os
    import signal
    import subprocess
    import time

    from heavyq import Queue

    q = Queue("q", max_result="8Mi")


    @q.processor("quick")
    def quick(job):
        return job.id


    @q.processor("progress")
    def progress(job):
        for n in range(job.data["times"]):
            job.update_progress({"n": n})
        return time.monotonic()


    @q.processor("print")
    def print_lines(job):
        for n in range(job.data["times"]):
            print("line", n)


    @q.processor("log")
    def log_rows(job):
        for n in range(job.data["times"]):
            job.log(f"row {n}")


    @q.processor("one-line")
    def one_line(job):
        print("x" * job.data["size"], end="")


    @q.processor("endless-writer")
    def endless_writer(job):
        for _ in range(4):
            subprocess.Popen(["yes", job.data["mark"]])
        time.sleep(1)
        if job.data["die"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid()


    @q.processor("checkpoint")
    def checkpoint(job):
        for n in range(job.data["times"]):
            job.save_checkpoint({"n": n, "body": "x" * 100_000})
        raise ValueError("to keep the checkpoint")
"""


def neighbours(jobs: Jobs, *floods: str, limit_s: float = 60.0) -> list[float]:
    """Run short jobs, one after the other, for as long as the floods last; return the seconds of each."""
    for flood in floods:
        jobs.wait(flood, "active", timeout_s=20)
    seconds = []
    deadline = time.monotonic() + limit_s
    while any(jobs.read(flood).state == "active" for flood in floods):
        began_s = time.monotonic()
        jobs.result(jobs.add("quick"))
        seconds.append(time.monotonic() - began_s)
        assert time.monotonic() < deadline, f"the flood lasts for more than {limit_s} s"
    return seconds


def not_delayed(seconds: list[float], what: str) -> None:
    assert len(seconds) >= 3, f"{what}: over before a neighbour could be measured"
    typical = sorted(seconds)[len(seconds) // 2]
    print(
        f"measured: {len(seconds)} jobs beside {what}: median {typical:.3f} s, "
        f"slowest {max(seconds):.3f} s (promised: 1 s)"
    )
    assert max(seconds) < 1.0


def test_300_000_progress_calls_do_not_delay_a_neighbour(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    run_worker(APP, "-c", "2")
    assert jobs.result(jobs.add("quick"))
    flood = jobs.add("progress", {"times": 300_000})
    not_delayed(neighbours(jobs, flood), "300,000 progress calls")
    record = jobs.wait(flood, "completed")
    assert record.progress == b'{"n":299999}'
    events = [f[b"data"] for _, f in jobs.raw.xrange(jobs.q.key("events")) if f[b"event"] == b"progress"]
    assert events[-1] == b'{"n":299999}'
    assert len(events) < 30_000, "only the latest value is sent"


def test_a_million_printed_lines_do_not_delay_a_neighbour(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    worker = run_worker(APP, "-c", "2")
    assert jobs.result(jobs.add("quick"))
    flood = jobs.add("print", {"times": 1_000_000})
    not_delayed(neighbours(jobs, flood), "a million printed lines")
    jobs.wait(flood, "completed")
    rows = jobs.log(flood)
    assert 0 < len(rows) <= 1000
    assert "line 999999" in rows[-2:] or any("dropped" in row for row in rows), rows[-3:]
    worker.wait_log("dropped")
    assert worker.log_path.stat().st_size < 100 << 20


def test_floods_of_log_rows_and_checkpoints_do_not_delay_a_neighbour(
    run_worker: Callable[..., Worker], jobs: Jobs
) -> None:
    run_worker(APP, "-c", "3")
    assert jobs.result(jobs.add("quick"))
    rows = jobs.add("log", {"times": 100_000})
    saved = jobs.add("checkpoint", {"times": 2_000})
    not_delayed(neighbours(jobs, rows, saved), "floods of log rows and checkpoints")
    assert len(jobs.log(rows)) <= 1000
    record = jobs.wait(saved, "failed")
    assert (record.checkpoint or b"").startswith(b'{"n":1999,')


def test_a_line_without_an_end_is_cut(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    run_worker(APP, "-c", "1")
    job_id = jobs.add("one-line", {"size": 50_000_000})
    jobs.wait(job_id, "completed", timeout_s=30)
    rows = jobs.log(job_id)
    assert rows
    assert max(map(len, rows)) <= 64 * 1024
    assert len(rows) <= 1001
    assert jobs.result(jobs.add("quick"))


@pytest.mark.parametrize("die", [False, True], ids=["job-returns", "child-killed"])
def test_process_that_writes_without_end_is_no_reason_to_wait(
    run_worker: Callable[..., Worker], jobs: Jobs, die: bool
) -> None:
    """`yes`, left behind by a job, holds the child's output open and fills it faster than anyone reads."""
    worker = run_worker(APP, "-c", "2", "--failover-after", "3s")
    assert jobs.result(jobs.add("quick"))
    mark = procs.new_marker()
    writer = jobs.add("endless-writer", {"mark": mark, "die": die})
    not_delayed(neighbours(jobs, writer), "an endless writer")
    assert jobs.wait(writer).state == ("failed" if die else "completed")
    eventually(lambda: not procs.marked(mark), 3, "the writer is gone")
    assert jobs.result(jobs.add("quick"))
    assert worker.running
    assert any(mark in row for row in jobs.log(writer))


def test_two_queues_and_one_child_are_both_served(
    run_worker: Callable[..., Worker], client: Client, raw: redis.Redis, prefix: str, tmp_path: Path
) -> None:
    from heavyq.bullmq.keys import QueueKey

    app = """
        import time
        from heavyq import Queue

        many = Queue("many")
        few = Queue("few")


        @many.processor
        @few.processor
        def note(job):
            with open("ran.txt", "a") as ran:
                print(job.queue_name, file=ran)
            time.sleep(0.01)
    """
    many, few = (Jobs(client, raw, QueueKey(prefix, name)) for name in ("many", "few"))
    many.add_all([("note", None)] * 300)
    worker = run_worker(app, "-c", "1")
    # The other queue was empty for a while, and no seat was ever free to wait for it, when its jobs come.
    eventually(lambda: len(lines(tmp_path / "ran.txt")) >= 100, 20)
    added_at = len(lines(tmp_path / "ran.txt"))
    few.add_all([("note", None)] * 5)
    few.wait_counts({"completed": 5})
    many.wait_counts({"completed": 300})
    ran = lines(tmp_path / "ran.txt")
    last_few = len(ran) - ran[::-1].index("few")
    print(f"measured: the last of 5 jobs of the other queue ran as number {last_few - added_at} after the add")
    assert last_few - added_at < 100, "the long queue was served first, to its end"
    assert len(worker.all("child")) == 1


def test_jobs_go_on_while_nobody_reads_the_workers_output(
    run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path
) -> None:
    with output_unread(tmp_path):
        # Each child may print a burst of lines: together more than the worker keeps for its output.
        worker = run_worker(APP, "-c", "2", "--max-jobs-per-child", "1")
        ids = [*jobs.add_all([("print", {"times": 20_000})] * 6), *jobs.add_all([("quick", None)] * 20)]
        for job_id in ids:
            jobs.wait(job_id, "completed", timeout_s=40)
        assert len(jobs.log(ids[0])) > 100
        whole = worker.whole_tree()
        worker.term()
        eventually(lambda: not worker.running, 15, "it ends all the same")
        assert worker.wait() == 0
        worker.expect_gone(whole)
