"""Memory, the everyday part: a job over its limit is stopped and says why, is retried if so wished, and costs no other.

The jobs here go over their limit and stay there until they are stopped: how far a fast one gets is measured in
tests/bench and tests/chaos/test_memory_*.py, where what takes a gigabyte, or hundreds of jobs, is too.
"""

from __future__ import annotations

import json
import os
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from heavyq.bullmq.keys import QueueKey
from tests.support import procs
from tests.support.eventually import eventually
from tests.support.group import memory_group
from tests.support.jobs import Jobs
from tests.support.memory import APP, MIB, evidence, reason
from tests.support.worker import heavyq

if TYPE_CHECKING:
    from collections.abc import Callable

    from heavyq.bullmq.job_hash import JobRecord
    from tests.support.valkey import Valkey
    from tests.support.worker import Worker

pytestmark = pytest.mark.timeout(60)

LIMIT = 128 * MIB
OVER = {"mib": 160, "mark": "over", "go": "never"}
BELOW = {"step_mib": 8, "up_to_mib": 64}

MORE = """
    @q.processor("hold-below")
    def hold_below(job):  # it is not the child that holds it
        code = "import time; mine = b'x' * (160 * 2**20); time.sleep(60)"
        subprocess.run([sys.executable, "-c", code], check=True)


    @q.processor("hold-shared")
    def hold_shared(job):
        mine = anonymous(job.data["mib"] * MIB, shared=True)
        fill(mine)
        wait_for(job.data["go"])


    @q.processor("grow")
    def grow(job):  # by 20 MiB every 300 ms, kept to the end and after it; and 100 ms of work
        until_s = time.process_time() + 0.1
        time.sleep(1)
        for _ in range(5):
            kept.append(b"x" * (20 * MIB))
            time.sleep(0.3)
        while time.process_time() < until_s:
            pass


    @q.processor("once")
    def once(job):  # over the limit at its first start alone
        if Path("was-here").exists():
            return "completed"
        Path("was-here").touch()
        return hold(job)


    @q.processor("raise-memory-error")
    def raise_memory_error(job):
        raise MemoryError("of the job's own")
"""


@pytest.fixture
def shown(valkey: Valkey, jobs: Jobs, tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Return a job as `heavyq job --json` shows it."""

    def show(job_id: str) -> dict[str, Any]:
        place = ("--redis", valkey.url, "--prefix", jobs.q.prefix)
        done = heavyq("job", jobs.q.name, job_id, "--json", *place, folder=tmp_path)
        assert done.code == 0, done
        document: dict[str, Any] = json.loads(done.out)
        return document

    return show


def test_job_over_its_limit_fails_at_once_says_why_and_the_next_one_runs(
    run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path, shown: Callable[[str], dict[str, Any]]
) -> None:
    run_worker(APP + MORE, "-c", "1", "--memory-limit", "128Mi")
    first = jobs.result(jobs.add("pid"))
    bomb = jobs.add("hold", OVER, attempts=3)
    record = jobs.wait(bomb)
    assert reason(record) == "memory_limit", record.failure or record.returnvalue
    assert (record.attempts_made, record.attempts_started) == (1, 1), "not retried, whatever its attempts"
    why = evidence(record)
    assert why["peak_bytes"] >= LIMIT
    assert (why["limit_bytes"], why["limit_of"], why["killed_by"]) == (LIMIT, "job", "heavyq")
    assert "oom_kill" not in why, "the kernel did nothing"
    assert why["peak_bytes"] < 200 * MIB, "what it held, and nothing of the worker's"
    told = record.failed_reason or ""
    assert "memory_limit" in told
    assert "128 MiB" in told
    assert any(told in row for row in jobs.log(bomb)), jobs.log(bomb)
    assert "limit_of" in record.stacktrace[-1]
    document = shown(bomb)
    assert document["failure"]["evidence"] == why
    assert document["usage"]["memory_timeline"][-1][1] > LIMIT / 2

    # What is below the job is the job's, however it is shared; and the limit is the next job's anew.
    for name in ("hold-below", "hold-shared"):
        record = jobs.wait(jobs.add(name, OVER))
        assert reason(record) == "memory_limit", f"{name}: {record.failure or record.returnvalue}"
    assert jobs.result(jobs.add("plain", BELOW)) == "not stopped"
    assert jobs.result(jobs.add("pid")) != first

    # A SIGKILL from outside, under the same limit, is only that.
    mark = tmp_path / "mark"
    killed = jobs.add("hold", {"mark": str(mark), "go": "go", "mib": 64})
    os.kill(int(eventually(lambda: mark.exists() and mark.read_text())), signal.SIGKILL)
    record = jobs.wait(killed)
    assert (reason(record), (record.failure or {})["signal"]) == ("signal", signal.SIGKILL)
    assert "oom_kill" not in ((record.failure or {}).get("evidence") or {})


def test_job_that_may_be_retried_is_run_three_times_and_keeps_its_attempts(
    run_worker: Callable[..., Worker], jobs: Jobs
) -> None:
    run_worker(APP + MORE, "-c", "1", "--memory-limit", "128Mi", "--on-memory-limit", "retry")
    backoff = {"type": "fixed", "delay": 1000}  # so long each strike is there to be seen
    bomb = jobs.add("hold", OVER, attempts=2, backoff=backoff)
    strikes = lambda job_id: jobs.raw.hget(jobs.q.key(job_id), "hq:strikes")  # noqa: E731 - a look, no function

    for so_far in (1, 2):

        def struck(so_far: int = so_far) -> bool:
            record = jobs.read(bomb)
            assert (record.state, record.attempts_started) == ("delayed", so_far), record
            return True

        eventually(struck, 15, f"it waits for its {so_far + 1}. run")
        record = jobs.read(bomb)
        assert record.attempts_made == 0, "no attempt is burnt"
        assert strikes(bomb) == str(so_far).encode()
        assert reason(record) is None
    record = jobs.wait(bomb)
    assert reason(record) == "memory_limit", record.failure or record.returnvalue
    assert record.attempts_started == 3
    assert record.attempts_made == 1, "its end counts as an attempt, as any"
    assert "memory 3 times" in (record.failed_reason or "")
    assert strikes(bomb) is None

    once = jobs.add("once", OVER, backoff={"type": "fixed", "delay": 10})
    assert jobs.result(once) == "completed"
    assert jobs.read(once).attempts_started == 2
    assert strikes(once) is None


def test_every_job_tells_what_it_used_and_when(
    run_worker: Callable[..., Worker], jobs: Jobs, shown: Callable[[str], dict[str, Any]]
) -> None:
    run_worker(APP + MORE, "-c", "2", "--memory-limit", "512Mi")
    began_s = time.monotonic()
    grown, free = jobs.add("grow"), jobs.add("pid")
    jobs.result(grown)
    took_s = time.monotonic() - began_s
    usage = shown(grown)["usage"]
    assert usage == jobs.read(grown).usage
    print(f"measured: usage of a job that grows to 100 MiB: {usage}")
    assert usage["peak_rss_bytes"] > 100 * MIB
    assert 2.5 <= usage["wall_s"] <= took_s
    assert 0.09 <= usage["cpu_s"] <= usage["wall_s"] + 0.1
    timeline = usage["memory_timeline"]
    assert 3 <= len(timeline) <= 200
    times, sizes = zip(*timeline, strict=True)
    assert list(times) == sorted(times)
    assert 0 <= times[0] < times[-1] <= took_s, "from the run's own start"
    assert sizes[0] < 50 * MIB, "looked at from its beginning on, not only when it is large"
    assert 70 * MIB < max(sizes) < 140 * MIB
    # A tenth of slack: what is freed and taken again between two steps.
    assert all(later >= 0.9 * earlier for earlier, later in pairwise(sizes)), timeline
    short = jobs.wait(free).usage
    assert short is not None
    assert set(short) == set(usage), "a short job tells the same"


def test_rlimit_lets_an_allocation_fail_inside_the_job(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    run_worker(APP + MORE, "-c", "1", "--memory-limit", "128Mi", env={"HEAVYQ_MEMORY_RLIMIT": "true"})
    record = jobs.wait(jobs.add("numpy", {"step_mib": 8, "up_to_mib": 512}))
    assert reason(record) == "memory_limit", record.failure or record.returnvalue
    assert evidence(record)["limit_of"] == "rlimit"
    pid = jobs.result(jobs.add("pid"))
    own = jobs.wait(jobs.add("raise-memory-error"))
    assert reason(own) == "exception", "a MemoryError far from the limit is the job's own business"
    assert jobs.result(jobs.add("plain", BELOW)) == "not stopped"
    assert jobs.result(jobs.add("pid")) == pid, "an allocation that failed costs no child"


CONTAINED = """
    heavy = Queue("heavy", memory_request="16Mi")  # it takes more: what becomes of it is its own doing


    @heavy.processor("one-call")
    def unlimited(job):
        return one_call(job)


    @heavy.processor("below")
    def below(job):  # not the child is killed, but what it started
        Path(job.data["mark"]).touch()
        wait_for(job.data["go"])
        code = "import mmap; m = mmap.mmap(-1, 2**30, flags=34); m.madvise(14); m.madvise(23)"
        subprocess.run([sys.executable, "-c", code], check=True)
"""


def test_in_a_container_files_are_no_memory_and_a_kernel_kill_is_told(
    run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path
) -> None:
    with (tmp_path / "large.bin").open("wb") as made:
        made.truncate(400 * MIB)
    heavy = Jobs(jobs.client, jobs.raw, QueueKey(jobs.q.prefix, "heavy"))
    with memory_group(256 * MIB) as group:
        app = APP.replace('Queue("q")', 'Queue("q", memory_limit="64Mi")') + CONTAINED
        # The supervisor is stopped for as long as the kernel may take.
        worker = run_worker(app, "-c", "1", "--failover-after", "40s", group=group)
        supervisor = worker.find("supervisor")
        assert jobs.result(jobs.add("write-file", {"mib": 320}), timeout_s=30) == 320 * MIB
        assert jobs.result(jobs.add("read-file", {"path": str(tmp_path / "large.bin")})) == 400 * MIB
        assert group.oom_kills() == 0

        def killed_by_the_kernel(name: str) -> JobRecord:
            """Run a job that the kernel kills, or a process of its, while the supervisor stands still."""
            before = group.oom_kills()
            data = {"mib": 1024, "mark": f"mark-{name}", "go": f"go-{name}"}
            (job_id,) = heavy.add_for_the_last_time([(name, data)])
            eventually((tmp_path / f"mark-{name}").exists, 15, "it runs")
            os.kill(supervisor.pid, signal.SIGSTOP)
            try:
                (tmp_path / f"go-{name}").touch()
                eventually(lambda: group.oom_kills() == before + 1, 20, "the kernel has killed")
            finally:
                os.kill(supervisor.pid, signal.SIGCONT)
            record = heavy.wait(job_id)
            assert record.failure is not None, record
            assert evidence(record)["oom_kill"]["after"] == evidence(record)["oom_kill"]["before"] + 1
            return record

        record = killed_by_the_kernel("one-call")
        assert evidence(record)["oom_kill"]["counter"] in record.stacktrace[-1]
        assert (reason(record), evidence(record)["killed_by"]) == ("oom_killed", "kernel")
        record = killed_by_the_kernel("below")
        assert "the kernel killed a process" in (record.failed_reason or "")
        assert supervisor.still_runs()
        assert jobs.result(jobs.add("pid"))
        eventually(lambda: not [p for p in procs.tree(worker.pid) if p.zombie], 10, "no zombie stays")
        worker.stop()


DECLARED = """
    declared = Queue("declared", memory_request="200Mi")


    @declared.processor("hold")
    def hold_what_it_asked_for(job):
        return hold(job)
"""


def test_job_that_kept_to_what_it_asked_for_pays_no_attempt_for_a_full_container(
    run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path
) -> None:
    declared = Jobs(jobs.client, jobs.raw, QueueKey(jobs.q.prefix, "declared"))
    with memory_group(450 * MIB) as group:  # its mark is 360 MiB
        run_worker(APP + DECLARED, "-c", "2", "--memory-budget", "1Gi", group=group)
        older = jobs.add("hold", {"mib": 190, "mark": "older", "go": "go"})
        eventually((tmp_path / "older").exists, 15, "the first runs")
        younger = declared.add("hold", {"mib": 150, "mark": "younger", "go": "go"})
        record = declared.wait(younger, "delayed", "failed")
        assert (record.state, record.attempts_made, record.attempts_started) == ("delayed", 0, 1), record.failure
        assert declared.raw.hget(declared.q.key(younger), "hq:strikes") == b"1"
        assert jobs.read(older).state == "active", "one is enough"
        assert group.oom_kills() == 0
        (tmp_path / "go").touch()
        assert jobs.result(older)
