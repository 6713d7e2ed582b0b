"""Guard and supervisor watch each other: whoever dies or stands still, nothing is left, and the jobs run elsewhere."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.support import procs
from tests.support.eventually import always, eventually
from tests.support.jobs import lines, took
from tests.support.unread import output_unread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.jobs import Jobs
    from tests.support.worker import Worker

pytestmark = pytest.mark.timeout(60)

APP = """
    import os
    import subprocess
    import time
    from pathlib import Path

    from heavyq import Queue

    q = Queue("q", lock_duration={lock!r}, stalled_interval="1s")


    @q.processor("strays")
    def strays(job):
        with open("started.txt", "a") as started:
            print(job.id, file=started)
        if job.attempts_made or len(Path("started.txt").read_text().split()) > job.data["jobs"]:
            return os.getpid()  # elsewhere, later
        mark = job.data["mark"]
        subprocess.Popen(["setsid", "sleep", mark])
        subprocess.Popen(["env", "-i", "setsid", "/bin/sh", "-c", f"trap '' TERM HUP; sleep {{mark}} & sleep {{mark}}"])
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execve("/bin/sleep", ["sleep", mark], {{}})
            os._exit(0)
        time.sleep(600)


    @q.processor("wait")
    def wait(job):
        with open("started.txt", "a") as started:
            print(job.id, file=started)
        while not Path("go").exists():
            time.sleep(0.01)
        return os.getpid()


    @q.processor("pid")
    def pid(job):
        return [os.getpid(), os.getppid()]
"""
STRAYS = 4  # `sleep` processes that each job starts


@pytest.mark.parametrize(
    ("role", "signum", "argv", "all_s", "elsewhere_s"),
    [
        pytest.param("supervisor", signal.SIGKILL, (), 1.0, 8.0, id="supervisor-killed"),
        pytest.param("guard", signal.SIGKILL, (), 1.0, 8.0, id="guard-killed"),
        pytest.param("supervisor", signal.SIGSTOP, ("--failover-after", "3s"), 5.0, 12.0, id="supervisor-stopped"),
    ],
)
def test_nothing_survives_and_another_worker_runs_the_jobs(
    run_worker: Callable[..., Worker],
    jobs: Jobs,
    tmp_path: Path,
    role: str,
    signum: int,
    argv: tuple[str, ...],
    all_s: float,
    elsewhere_s: float,
) -> None:
    app = APP.format(lock="3s")
    worker = run_worker(app, "-c", "2", *argv)
    mark = procs.new_marker()
    ids = jobs.add_all([("strays", {"mark": mark, "jobs": 2})] * 2)
    eventually(lambda: len(procs.marked(mark)) >= 2 * STRAYS, 20, "both jobs run, with what they started")
    other = run_worker(app, "-c", "2")
    other.wait_log("serving")
    whole = worker.whole_tree()
    assert len(whole) >= 5 + 2 * STRAYS, procs.outline(worker.pid)
    ours = [proc for proc in whole if proc.title.startswith("heavyq ") and not proc.zombie]
    assert len(ours) == 5, ours

    since_s = time.monotonic()
    worker.kill(role, signum)
    what = f"{signal.Signals(signum).name} of the {role}"
    took(lambda: not [p for p in ours if p.still_runs()], all_s, f"{what}: the whole tree is gone", since_s)
    took(lambda: not procs.marked(mark), min(all_s + 2, 5.0), f"{what}: what the jobs had started is gone", since_s)
    worker.expect_gone(whole, within_s=0)
    assert worker.wait(5) == (-9 if role == "guard" else 1)

    took(
        lambda: len(lines(tmp_path / "started.txt")) >= 4,
        elsewhere_s,
        f"{what}: another worker runs the jobs",
        since_s,
    )
    for job_id in ids:
        record = jobs.wait(job_id)
        assert record.state == "completed"
        assert (record.stalled_count, record.attempts_started, record.attempts_made) == (1, 2, 1)
    assert sorted(lines(tmp_path / "started.txt")) == sorted([*ids, *ids])
    assert {int(jobs.read(i).returnvalue or 0) for i in ids} <= {p.pid for p in other.all("child")}


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_guard_cleans_up_while_nobody_reads_its_output(
    run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path, signum: int
) -> None:
    with output_unread(tmp_path):
        worker = run_worker(APP.format(lock="30s"), "-c", "1", "--failover-after", "2s")
        mark = procs.new_marker()
        jobs.add("strays", {"mark": mark, "jobs": 1})
        eventually(lambda: len(procs.marked(mark)) >= STRAYS, 20, "the job runs")
        whole = worker.whole_tree()
        (supervisor,) = worker.all("supervisor")
        os.kill(supervisor.pid, signum)
        took(lambda: not [p for p in whole if p.still_runs()], 4.0, f"{signum!r}, output unread: all is gone")


def test_tree_that_slept_as_a_whole_kills_nothing(
    run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path
) -> None:
    app = APP.format(lock="30s")
    worker = run_worker(app, "-c", "1", "--failover-after", "3s")
    job_id = jobs.add("wait")
    eventually(lambda: lines(tmp_path / "started.txt"), 20, "the job runs")
    run_worker(app, "-c", "1").wait_log("serving")
    whole = worker.signal_tree(signal.SIGSTOP)
    eventually(lambda: all((procs.look(p.pid) or p).state == "T" for p in whole), 5, "all of it is stopped")
    always(lambda: jobs.raw.pttl(jobs.q.key(f"{job_id}:lock")) > 0, 10.0, "the lock outlives the sleep")
    for proc in reversed(whole):  # the guard last: what it sees first is a tree that moves
        os.kill(proc.pid, signal.SIGCONT)
    always(lambda: all(p.still_runs() for p in whole), 5.0, "every process lives")
    (tmp_path / "go").touch()
    record = jobs.wait(job_id)
    assert (record.state, record.attempts_started, record.stalled_count) == ("completed", 1, 0)
    assert int(record.returnvalue or 0) in {p.pid for p in whole}


def test_tree_that_wakes_guard_first_kills_nothing(
    run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path
) -> None:
    """The guard may wake a little before the supervisor: the ticks that it missed do not count."""
    worker = run_worker(APP.format(lock="30s"), "-c", "1", "--failover-after", "3s")
    job_id = jobs.add("wait")
    eventually(lambda: lines(tmp_path / "started.txt"), 20, "the job runs")
    whole = worker.signal_tree(signal.SIGSTOP)
    always(lambda: True, 6.0)
    os.kill(whole[0].pid, signal.SIGCONT)
    always(lambda: all(p.still_runs() for p in whole), 1.5, "one tick later every process lives")
    for proc in whole[1:]:
        os.kill(proc.pid, signal.SIGCONT)
    always(lambda: all(p.still_runs() for p in whole), 4.0, "every process lives")
    (tmp_path / "go").touch()
    assert jobs.result(job_id) in {p.pid for p in whole}


def test_zygote_killed_while_a_job_runs(run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path) -> None:
    worker = run_worker(APP.format(lock="30s"), "-c", "2")
    job_id = jobs.add("wait")
    eventually(lambda: lines(tmp_path / "started.txt"), 20, "the job runs")
    (child,) = worker.all("child")
    first = worker.kill("zygote")
    supervisor = worker.find("supervisor")

    # The next child is another zygote's, and the job that needs it waits only for the import.
    pid, parent = jobs.result(jobs.add("pid"), timeout_s=10)
    second = eventually(lambda: [z for z in worker.all("zygote") if z.pid != first.pid], 10)[0]
    assert (parent, procs.look(pid) is not None) == (supervisor.pid, True)
    assert child.still_runs()
    (tmp_path / "go").touch()
    assert jobs.result(job_id) == child.pid
    assert jobs.read(job_id).attempts_started == 1

    # Again and again, while jobs need new children all the time.
    (tmp_path / "go").unlink()
    for _ in range(3):
        worker.kill("zygote")
        victims = worker.all("child")
        procs.kill_all(victims)
        eventually(lambda: not any(procs.look(p.pid) for p in victims), 5, "they were reaped")  # noqa: B023
        pid, parent = jobs.result(jobs.add("pid"), timeout_s=10)
        assert parent == supervisor.pid
    assert second.pid not in {z.pid for z in worker.all("zygote")}
    assert len(worker.all("zygote")) == 1
    eventually(lambda: not [p for p in worker.whole_tree() if p.zombie], 3, "no zombie stays")
