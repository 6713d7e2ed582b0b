"""The end of a worker: it finishes what runs or gives it back, exits 0, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import pytest

from tests.support import procs
from tests.support.eventually import always, eventually
from tests.support.jobs import lines, took
from tests.support.worker import REPOSITORY, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.jobs import Jobs
    from tests.support.valkey import Valkey
    from tests.support.worker import Worker

pytestmark = pytest.mark.timeout(60)

APP = """
    import os
    import signal
    import subprocess
    import time

    from heavyq import Queue

    q = Queue("q")


    def begin(job):
        with open("ran.txt", "a") as ran:
            print(job.id, file=ran)


    @q.processor("quick")
    def quick(job):
        begin(job)
        return job.checkpoint


    @q.processor("two-seconds")
    def two_seconds(job):
        begin(job)
        time.sleep(2)
        return "done"


    @q.processor("long")
    def long(job):
        if job.checkpoint:
            return job.checkpoint
        job.save_checkpoint({"frame": 7})
        subprocess.Popen(["setsid", "sleep", job.data["mark"]])
        begin(job)
        time.sleep(600)


    @q.processor("stopped")
    def stopped(job):
        begin(job)
        os.kill(os.getpid(), signal.SIGSTOP)


    @q.processor("stubborn")
    def stubborn(job):
        begin(job)
        while True:
            try:
                time.sleep(600)
            except BaseException:
                pass
"""


@pytest.fixture
def ran(tmp_path: Path) -> Callable[[str], None]:
    """Wait until a job's function has begun."""

    def wait(job_id: str) -> None:
        eventually(lambda: job_id in lines(tmp_path / "ran.txt"), 15, f"job {job_id} runs")

    return wait


def ends(worker: Worker, *, within_s: float) -> None:
    """Wait for the worker's end and check that it was clean."""
    whole = worker.whole_tree()
    began_s = time.monotonic()
    code = worker.wait()
    print(f"measured: the worker ended after {time.monotonic() - began_s:.3f} s")
    assert code == 0, worker.tail()
    assert time.monotonic() - began_s < within_s, worker.tail()
    worker.expect_gone(whole, within_s=1)
    assert "Traceback" not in worker.log, worker.log


@pytest.mark.parametrize("whole_tree", [False, True], ids=["the-worker-alone", "every-process"])
def test_term_lets_the_running_job_complete(
    run_worker: Callable[..., Worker],
    jobs: Jobs,
    ran: Callable[[str], None],
    whole_tree: bool,
) -> None:
    # conformance: C-177
    worker = run_worker(APP, "-c", "2")
    running = jobs.add_all([("two-seconds", None)] * 2)
    for job_id in running:
        ran(job_id)
    behind = jobs.add("quick")
    for _ in range(2):  # the second one changes nothing
        if whole_tree:
            worker.signal_tree(signal.SIGTERM)
        else:
            worker.term()
        worker.wait_log("draining")
    late = jobs.add("quick")
    ends(worker, within_s=5)
    for record in jobs.read_all(running):
        assert (record.state, record.returnvalue) == ("completed", b'"done"')
        assert (record.attempts_made, record.attempts_started, record.stalled_count) == (1, 1, 0)
    assert jobs.waiting() == [behind, late], "nothing is leased while draining"


@pytest.mark.parametrize("how", ["TERM", "TERM to every process", "TERM twice"])
def test_job_longer_than_drain_timeout_goes_back_to_the_head(
    run_worker: Callable[..., Worker], jobs: Jobs, ran: Callable[[str], None], how: str
) -> None:
    worker = run_worker(APP, "-c", "1", "--drain-timeout", "1s")
    mark = procs.new_marker()
    running = jobs.add("long", {"mark": mark}, attempts=2)
    ran(running)
    behind = jobs.add_all([("quick", None)] * 2)
    began_s = time.monotonic()
    for _ in range(2 if how == "TERM twice" else 1):
        if how == "TERM to every process":
            worker.signal_tree(signal.SIGTERM)
        else:
            worker.term()
            worker.wait_log("draining")
    ends(worker, within_s=5)
    assert time.monotonic() - began_s > 1.0, "the drain has waited for --drain-timeout"
    assert jobs.waiting() == [running, *behind]
    record = jobs.read(running)
    assert (record.attempts_made, record.attempts_started, record.stalled_count) == (0, 1, 0)
    assert json.loads(record.checkpoint or b"null") == {"frame": 7}
    assert record.failed_reason is None
    assert not procs.marked(mark), "what the job had started is gone too"
    assert not jobs.raw.exists(jobs.q.key(f"{running}:lock"))
    assert jobs.raw.zscore(jobs.q.key("marker"), "0") is not None, "an idle worker elsewhere is woken"

    run_worker(APP, "-c", "1")
    assert jobs.result(running) == {"frame": 7}
    assert jobs.read(running).attempts_made == 1


def test_second_int_stops_now(run_worker: Callable[..., Worker], jobs: Jobs, ran: Callable[[str], None]) -> None:
    worker = run_worker(APP, "-c", "2", "--drain-timeout", "1h")
    running = [jobs.add("stubborn"), jobs.add("stubborn")]
    for job_id in running:
        ran(job_id)
    os.kill(worker.pid, signal.SIGINT)
    worker.wait_log("draining")
    always(lambda: worker.running, 1.0, "the first INT waits")
    os.kill(worker.pid, signal.SIGINT)
    ends(worker, within_s=3)
    assert sorted(jobs.waiting()) == sorted(running)


def test_stopped_child_is_handed_back_like_any_other(
    run_worker: Callable[..., Worker], jobs: Jobs, ran: Callable[[str], None]
) -> None:
    worker = run_worker(APP, "-c", "1", "--drain-timeout", "0s")
    running = jobs.add("stopped")
    ran(running)
    worker.term()
    ends(worker, within_s=3)
    assert jobs.waiting() == [running]
    assert jobs.read(running).attempts_made == 0


def test_quit_stops_at_once(run_worker: Callable[..., Worker], jobs: Jobs, ran: Callable[[str], None]) -> None:
    worker = run_worker(APP, "-c", "1", "--drain-timeout", "1h")
    running = jobs.add("stubborn")
    ran(running)
    os.kill(worker.pid, signal.SIGQUIT)
    ends(worker, within_s=3)
    assert jobs.waiting() == [running]


def test_hup_is_term(run_worker: Callable[..., Worker], jobs: Jobs, ran: Callable[[str], None]) -> None:
    worker = run_worker(APP, "-c", "1")
    running = jobs.add("two-seconds")
    ran(running)
    os.kill(worker.pid, signal.SIGHUP)
    ends(worker, within_s=5)
    assert jobs.read(running).state == "completed"


@contextlib.contextmanager
def ignoring(signum: int) -> Iterator[None]:
    """What is started inside ignores the signal, as under nohup: exec keeps an ignored signal ignored."""
    before = signal.signal(signum, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signum, before)


def test_hup_is_ignored_under_nohup(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    with ignoring(signal.SIGHUP):
        worker = run_worker(APP, "-c", "1")
        worker.wait_log("serving")
    for proc in worker.whole_tree():
        os.kill(proc.pid, signal.SIGHUP)
    assert jobs.result(jobs.add("quick")) is None
    worker.signal_tree(signal.SIGHUP)
    assert jobs.result(jobs.add("quick")) is None
    assert "draining" not in worker.log


def test_signals_with_no_meaning_yet_change_nothing(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    worker = run_worker(APP, "-c", "1")
    assert jobs.result(jobs.add("quick")) is None
    for signum in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGTSTP):
        os.kill(worker.pid, signum)
    worker.wait_log("SIGTTOU")
    assert jobs.result(jobs.add("quick")) is None
    assert {proc.state for proc in worker.whole_tree()} <= {"S", "R"}


def test_term_while_idle_ends_at_once_and_every_marker_is_there(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    worker = run_worker(APP, "-c", "2")
    assert jobs.result(jobs.add("quick")) is None
    delayed = jobs.add("quick", delay_ms=3_600_000)
    marker = jobs.q.key("marker")
    eventually(lambda: not jobs.raw.exists(marker), 10, "the worker waits, and has taken the marker")
    worker.term()
    ends(worker, within_s=3)
    score = jobs.raw.zscore(jobs.q.key("delayed"), delayed)
    assert jobs.raw.zrange(marker, 0, -1, withscores=True) == [(b"1", pytest.approx(score / 4096))]


def test_a_worker_that_ends_takes_no_marker_with_it(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    """A job that is added in the very moment of the end is run by the worker that stays, at once."""
    staying = run_worker(APP, "-c", "1")
    staying.wait_log("serving")
    slowest_s = 0.0
    for _ in range(3):
        leaving = run_worker(APP, "-c", "4")
        leaving.wait_log("serving")
        assert jobs.result(jobs.add("quick")) is None
        leaving.term()
        while leaving.running:
            since_s = time.monotonic()
            job_id = jobs.add("quick")
            jobs.wait(job_id, timeout_s=12)
            slowest_s = max(slowest_s, time.monotonic() - since_s)
        assert leaving.wait() == 0
    print(f"measured: slowest job beside a worker that ends: {slowest_s:.3f} s (promised: 1 s)")
    assert slowest_s < 3.0


def test_term_while_importing(run_worker: Callable[..., Worker], tmp_path: Path) -> None:
    app = """
        import subprocess, time
        from pathlib import Path
        subprocess.Popen(["setsid", "sleep", "60"])
        Path("importing").touch()
        time.sleep(60)
    """
    worker = run_worker(app, "-c", "1")
    eventually((tmp_path / "importing").exists, 15, "the module is being imported")
    worker.term()
    ends(worker, within_s=2)


def test_term_while_connecting(run_worker: Callable[..., Worker]) -> None:
    with socket.socket() as nobody:  # bound and never listening: connections are refused
        nobody.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{nobody.getsockname()[1]}/0"
        worker = run_worker(APP, "-c", "1", "--connect-timeout", "60s", "--log-level", "debug", url=url)
        worker.find("zygote")
        worker.wait_log("connecting|importing")
        always(lambda: worker.running, 1.5, "it tries to connect")
        worker.term()
        ends(worker, within_s=2)


def test_term_while_connecting_to_a_server_that_hangs(run_worker: Callable[..., Worker]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        silent.settimeout(20)
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        worker = run_worker(APP, "-c", "1", "--connect-timeout", "60s", url=url)
        connection, _ = silent.accept()
        with connection:
            worker.term()
            ends(worker, within_s=2)


def test_term_the_moment_it_starts(run_worker: Callable[..., Worker]) -> None:
    """A TERM at any time of the start ends the worker, by its handler or by the signal's own meaning."""
    for pause_s in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4):
        worker = run_worker(APP, "-c", "1")
        until_s = time.monotonic() + pause_s
        eventually(lambda until_s=until_s: time.monotonic() >= until_s, 5)
        worker.term()
        assert worker.wait(5) in {0, -signal.SIGTERM}, worker.tail()
        assert not procs.tree(worker.pid)


def has_pid_namespaces() -> bool:
    if not (shutil.which("unshare") and shutil.which("nsenter")):
        return False
    words = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "true"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.fixture
def in_pid_namespace(valkey: Valkey, prefix: str, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that is PID 1 of its namespace; the process is `unshare`, the guard is its only child."""
    if not has_pid_namespaces():
        pytest.skip("no pid namespaces here: needs root, util-linux and a kernel that allows them")
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    run = [sys.executable, "-m", "heavyq", "run", "app", "-c", "2", "--redis", valkey.url, "--prefix", prefix]
    log = tmp_path / "worker-pid1.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *run],
            cwd=tmp_path,
            env=environment({"PYTHONPATH": str(REPOSITORY)}),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    yield process
    if process.poll() is None:
        process.kill()  # the kernel kills the namespace with its PID 1, and PID 1 with unshare
    process.wait()
    print(log.read_text())


def test_as_pid_1_it_reaps_strangers_and_drains(
    in_pid_namespace: subprocess.Popen[bytes], jobs: Jobs, ran: Callable[[str], None]
) -> None:
    running = jobs.add("two-seconds")
    ran(running)
    (guard,) = procs.children(in_pid_namespace.pid)
    mark = procs.new_marker()
    # As `docker exec` does: a process of the container that is nobody's child in it, and leaves an orphan.
    inside = ["nsenter", "--pid", "--mount", "--target", str(guard.pid), "/bin/sh", "-c"]
    subprocess.run([*inside, f"sleep {mark} & setsid sleep {mark} & exit 0"], check=True)
    eventually(lambda: len(procs.marked(mark)) == 2, 5, "two orphans live in the namespace")
    stranger = procs.marked(mark)[0]
    assert stranger.ppid == guard.pid
    os.kill(stranger.pid, signal.SIGKILL)
    eventually(lambda: procs.look(stranger.pid) is None, 3, "the dead stranger was reaped")
    os.kill(guard.pid, signal.SIGTERM)
    assert in_pid_namespace.wait(15) == 0
    record = jobs.read(running)
    assert (record.state, record.attempts_started) == ("completed", 1)
    took(lambda: not procs.marked(mark), 1.0, "PID 1 has ended: the orphan is gone")
