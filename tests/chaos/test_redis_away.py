"""Redis goes away, hangs, or forgets its scripts: the worker goes on, no job is lost, and none is run twice."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import always, eventually
from tests.support.jobs import Jobs, lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.valkey import Valkey
    from tests.support.worker import Worker

pytestmark = pytest.mark.timeout(120)

APP = """
    import os
    import time
    from pathlib import Path

    from heavyq import Queue

    q = Queue("q", lock_duration={lock!r}, stalled_interval={stalled!r})


    def begin(job):
        with open("started.txt", "a") as started:
            print(job.id, file=started)


    @q.processor("short")
    def short(job):
        begin(job)
        job.update_progress(1)
        print("printed")
        time.sleep(job.data.get("s", 0.02))
        return job.id


    @q.processor("wait")
    def wait(job):
        begin(job)
        while not Path("go").exists():
            time.sleep(0.01)
        Path("over").touch()
        return "done"
"""
STEADY = APP.format(lock="30s", stalled="30s")


@pytest.fixture
def server(own_valkey: Callable[..., Valkey]) -> Valkey:
    """A server that keeps every acknowledged write, and may be stopped and killed."""
    return own_valkey(aof=True)


@pytest.fixture
def away(server: Valkey) -> Iterator[Jobs]:
    """The jobs of a queue on that server."""
    from heavyq.bullmq.keys import QueueKey
    from heavyq.store.client import Client

    client = Client(server.url, timeout_s=10)
    with server.redis() as raw:
        yield Jobs(client, raw, QueueKey("away", "q"))
    client.close()


def start(run_worker: Callable[..., Worker], server: Valkey, app: str = STEADY, *argv: str) -> Worker:
    worker = run_worker(app, *(argv or ("-c", "2")), url=server.url, prefix="away")
    worker.wait_log("serving")
    return worker


def check_each_ran_once(jobs: Jobs, ids: list[str], tmp_path: Path, timeout_s: float = 30) -> None:
    """No job was lost, none was run twice, none was settled twice."""
    jobs.wait_counts({"completed": len(ids)}, timeout_s)
    assert Counter(lines(tmp_path / "started.txt")) == Counter(ids)
    assert jobs.settled_events() == Counter({("completed", job_id): 1 for job_id in ids})
    records = jobs.read_all(ids)
    assert {(r.attempts_started, r.attempts_made, r.stalled_count) for r in records} == {(1, 1, 0)}
    assert not jobs.raw.exists(*(jobs.q.key(f"{job_id}:lock") for job_id in ids))


@pytest.mark.parametrize("kill", [False, True], ids=["shut-down", "killed"])
def test_restart_in_the_middle_of_jobs(
    run_worker: Callable[..., Worker], server: Valkey, away: Jobs, tmp_path: Path, kill: bool
) -> None:
    worker = start(run_worker, server)
    ids = away.add_all([("short", None)] * 300)
    for done in (40, 120, 200):
        eventually(lambda done=done: len(lines(tmp_path / "started.txt")) >= done, 30, f"{done} jobs have run")
        server.restart(kill=kill)
    check_each_ran_once(away, ids, tmp_path)
    assert worker.running
    worker.wait_log("redis is away")
    worker.wait_log("redis is back")


@pytest.mark.parametrize("kill", [False, True], ids=["shut-down", "killed"])
def test_restart_while_idle(
    run_worker: Callable[..., Worker], server: Valkey, away: Jobs, tmp_path: Path, kill: bool
) -> None:
    # conformance: C-176
    start(run_worker, server)
    ids = [away.add("short")]
    away.wait(ids[0])
    for _ in range(2):
        server.restart(kill=kill)
        began_s = time.monotonic()
        ids.append(away.add("short"))
        away.wait(ids[-1])
        print(f"measured: added after a restart, done {time.monotonic() - began_s:.3f} s later (promised: 5 s)")
        assert time.monotonic() - began_s < 5
    check_each_ran_once(away, ids, tmp_path)


def test_server_that_hangs_for_five_seconds(
    run_worker: Callable[..., Worker], server: Valkey, away: Jobs, tmp_path: Path
) -> None:
    worker = start(run_worker, server)
    ids = away.add_all([("short", None)] * 300)
    for done in (50, 150):
        eventually(lambda done=done: len(lines(tmp_path / "started.txt")) >= done, 30, f"{done} jobs have run")
        server.pause()
        try:
            always(lambda: worker.running, 6.0, "the worker goes on")  # longer than its own time limit of 5 s
        finally:
            server.resume()
    check_each_ran_once(away, ids, tmp_path)


def test_server_that_hangs_while_the_worker_is_idle(
    run_worker: Callable[..., Worker], server: Valkey, away: Jobs, tmp_path: Path
) -> None:
    worker = start(run_worker, server)
    ids = [away.add("short")]
    away.wait(ids[0])
    server.pause()
    try:
        always(lambda: worker.running, 5.0, "the worker goes on")
    finally:
        server.resume()
    ids.append(away.add("short"))
    away.wait(ids[1], timeout_s=10)
    check_each_ran_once(away, ids, tmp_path)


def test_scripts_flushed_in_the_middle_of_jobs_and_while_idle(
    run_worker: Callable[..., Worker], server: Valkey, away: Jobs, tmp_path: Path
) -> None:
    worker = start(run_worker, server)
    ids = away.add_all([("short", {"s": 0})] * 500)
    flushed = 0

    def flush_until_done() -> bool:
        nonlocal flushed
        away.raw.script_flush()
        flushed += 1
        return len(lines(tmp_path / "started.txt")) >= 500

    eventually(flush_until_done, 60, "all jobs have run")
    assert flushed >= 10
    check_each_ran_once(away, ids, tmp_path)
    away.raw.script_flush()
    ids.append(away.add("short"))
    away.wait(ids[-1])
    check_each_ran_once(away, ids, tmp_path)
    assert "Traceback" not in worker.log
    assert "error" not in worker.log, worker.tail()


@pytest.mark.parametrize("kill", [False, True], ids=["shut-down", "killed"])
def test_job_that_ends_while_redis_is_away_is_committed_with_an_expired_lock(
    run_worker: Callable[..., Worker], server: Valkey, away: Jobs, tmp_path: Path, kill: bool
) -> None:
    worker = start(run_worker, server, APP.format(lock="2s", stalled="30s"), "-c", "1")
    job_id = away.add("wait")
    eventually(lambda: lines(tmp_path / "started.txt"), 15, "the job runs")

    def while_down() -> None:
        worker.wait_log("leases were not renewed")
        (tmp_path / "go").touch()
        eventually((tmp_path / "over").exists, 5, "the job ends")
        worker.wait_log("redis is away")
        always(lambda: worker.running, 3.0, "the lock's time runs out")

    server.restart(kill=kill, while_down=while_down)
    check_each_ran_once(away, [job_id], tmp_path)
    assert away.read(job_id).returnvalue == b'"done"'


def test_short_locks_and_eager_sweeps_survive_an_outage(
    run_worker: Callable[..., Worker], server: Valkey, away: Jobs, tmp_path: Path
) -> None:
    """The worker's own sweep must not take its own jobs for stalled before it could renew or commit them."""
    start(run_worker, server, APP.format(lock="2s", stalled="1s"))
    ids: list[str] = []
    for begun in (2, 4, 6):
        ids += away.add_all([("short", {"s": 2.0})] * 2)
        eventually(lambda begun=begun: len(lines(tmp_path / "started.txt")) >= begun, 15, "both jobs run")
        server.restart(while_down=lambda: always(lambda: True, 3.0))
        away.wait_counts({"completed": begun}, 20)
    check_each_ran_once(away, ids, tmp_path)


def test_redis_stays_away_while_the_worker_drains(
    run_worker: Callable[..., Worker], server: Valkey, away: Jobs, tmp_path: Path
) -> None:
    """TERM during an outage: the result waits for Redis, and is committed when it comes back in time."""
    worker = start(run_worker, server)
    job_id = away.add("wait")
    eventually(lambda: lines(tmp_path / "started.txt"), 15, "the job runs")

    def while_down() -> None:
        (tmp_path / "go").touch()
        eventually((tmp_path / "over").exists, 5, "the job ends")
        worker.term()
        worker.wait_log("draining")
        always(lambda: worker.running, 2.0, "it waits for Redis")

    server.restart(while_down=while_down)
    assert worker.wait(15) == 0, worker.tail()
    check_each_ran_once(away, [job_id], tmp_path)
