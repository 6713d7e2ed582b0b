"""A job cannot take the worker down: however its child dies, the job alone pays, and what it left is gone."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import procs
from tests.support.eventually import always, eventually
from tests.support.jobs import lines, took

if TYPE_CHECKING:
    from collections.abc import Callable

    from heavyq.bullmq.job_hash import JobRecord
    from tests.support.jobs import Jobs
    from tests.support.worker import Worker

pytestmark = pytest.mark.timeout(60)

APP = """
    import ctypes
    import multiprocessing
    import os
    import shutil
    import signal
    import subprocess
    import sys
    import threading
    import time
    from multiprocessing import shared_memory
    from pathlib import Path

    from heavyq import Queue

    q = Queue("q", max_result="16Mi")
    opened_at_import = open("opened-at-import.txt", "a")


    @q.processor("pid")
    def pid(job):
        return os.getpid()


    @q.processor("wait")
    def wait(job):
        job.log("about to wait")
        job.update_progress(40)
        Path("started.txt").write_text(str(os.getpid()))
        while not Path("go").exists():
            time.sleep(0.005)
        return "x" * (job.data.get("size") or 1)


    @q.processor("raise")
    def fail(job):
        raise ValueError("no such video")


    @q.processor("sys-exit")
    def sys_exit(job):
        sys.exit(5)


    @q.processor("interrupt")
    def interrupt(job):
        raise KeyboardInterrupt


    @q.processor("os-exit")
    def os_exit(job):
        os._exit(job.data["code"])


    @q.processor("close-all")
    def close_all(job):
        os.closerange(0, 256)
        time.sleep(30)


    @q.processor("fork-returns")
    def fork_returns(job):
        return "forked" if os.fork() == 0 else "parent"


    @q.processor("remove-workdir")
    def remove_workdir(job):
        shutil.rmtree(job.workdir)
        return "removed"


    @q.processor("no-text")
    def no_text(job):
        class Mute(Exception):
            def __str__(self):
                raise RuntimeError

        raise Mute


    @q.processor("exec")
    def become_another_program(job):
        os.execvp("sleep", ["sleep", "0.1"])


    @q.processor("kill-group")
    def kill_group(job):
        os.killpg(0, signal.SIGKILL)


    @q.processor("reap-all")
    def reap_all(job):
        try:
            while True:
                os.waitpid(-1, 0)
        except ChildProcessError:
            return "none left"


    @q.processor("thread-left")
    def thread_left(job):
        def tell_for_ever():
            while True:
                job.update_progress(f"late news of {job.id}")
                time.sleep(0.001)

        threading.Thread(target=tell_for_ever).start()
        return "returned"


    @q.processor("progress")
    def progress(job):
        time.sleep(0.3)
        return job.progress


    @q.processor("segfault")
    def segfault(job):
        ctypes.string_at(0)


    @q.processor("kill-itself")
    def kill_itself(job):
        os.kill(os.getpid(), job.data["signal"])
        time.sleep(30)


    @q.processor("die-in-send")
    def die_in_send(job):
        main = threading.main_thread().ident

        def kill_when_stuck():
            before = None
            while True:
                frame = sys._current_frames()[main]
                if "send" in frame.f_code.co_name and frame is before:
                    Path("started.txt").write_text("half a result is sent")
                    os.kill(os.getpid(), signal.SIGKILL)
                before = frame
                time.sleep(0.2)

        threading.Thread(target=kill_when_stuck, daemon=True).start()
        return "x" * (8 << 20)


    @q.processor("children")
    def start_children(job):
        how, mark = job.data["how"], job.data["mark"]
        if how == "plain":
            subprocess.Popen(["sleep", mark])
        elif how == "setsid, empty environment":
            subprocess.Popen(["env", "-i", "setsid", "/bin/sh", "-c", f"sleep {mark} & sleep {mark}"])
        elif how == "double fork":
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.execve("/bin/sleep", ["sleep", mark], {})
                os._exit(0)
            os.wait()
        elif how == "deaf to TERM, leads a group":
            deaf = "trap '' TERM HUP INT; sleep " + mark + "; sleep " + mark
            subprocess.Popen(["/bin/sh", "-c", deaf], start_new_session=True)
        while not Path("/proc/self/task", str(os.getpid()), "children").read_text():
            time.sleep(0.001)
        time.sleep(job.data.get("stay_s", 0.05))
        return os.getpid()


    @q.processor("pool")
    def pool(job):
        with multiprocessing.Pool(2) as workers:
            squares = workers.map(square, range(10))
            busy = workers.apply_async(time.sleep, (600,))
        return squares  # leaving the block has called terminate() while one worker was busy


    @q.processor("pool-left")
    def pool_left(job):
        global kept
        kept = multiprocessing.Pool(2)
        return kept.map(square, range(4))


    def square(n):
        return n * n


    @q.processor("shared-memory")
    def shared(job):
        block = shared_memory.SharedMemory(name=job.data["name"], create=True, size=1 << 16)
        os.kill(os.getpid(), signal.SIGKILL)


    @q.processor("write")
    def write(job):
        print(job.id, file=opened_at_import, flush=True)
        print("printed by", job.id)
        return os.getpid()
"""


def failed(jobs: Jobs, job_id: str, timeout_s: float = 15.0) -> JobRecord:
    return jobs.wait(job_id, "failed", timeout_s=timeout_s)


def reason(record: JobRecord) -> tuple[str, int | None]:
    assert record.failure is not None
    return record.failure["reason"], record.failure["signal"]


@pytest.fixture
def started(tmp_path: Path) -> Callable[[], str]:
    """Wait until the job `wait` runs; return its pid."""

    def look() -> str:
        path = tmp_path / "started.txt"
        return path.read_text() if path.exists() else ""

    return lambda: eventually(look, 15, "the job runs")


def test_sigkilled_child_is_in_redis_within_a_second_and_the_next_job_runs(
    run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path, started: Callable[[], str]
) -> None:
    run_worker(APP, "-c", "1")
    key = jobs.q.key("failed")
    times = []
    for _ in range(3):
        (tmp_path / "started.txt").unlink(missing_ok=True)
        killed = jobs.add("wait")
        following = jobs.add("pid")
        pid = int(started())
        since_s = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        times.append(
            took(
                lambda killed=killed: jobs.raw.zscore(key, killed) is not None,
                1.0,
                "SIGKILL of a child: failed in Redis",
                since_s,
            )
        )
        record = jobs.read(killed)
        assert reason(record) == ("signal", 9)
        assert record.failed_reason == "the child was killed by signal 9 (SIGKILL)"
        assert record.failure is not None
        assert record.failure["last_logs"] == ["about to wait"]
        assert record.failure["last_progress"] == 40
        assert (record.attempts_made, record.attempts_started, record.stalled_count) == (1, 1, 0)
        assert jobs.result(following) != pid
        assert not jobs.raw.exists(jobs.q.key(f"{killed}:lock"))
    assert min(times) < 1.0, times


def test_each_way_to_die_is_told_apart_and_costs_the_job_alone(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    worker = run_worker(APP, "-c", "1")
    ways = {
        "raise": ({}, ("exception", None)),
        "sys-exit": ({}, ("exit", None)),
        "interrupt": ({}, ("exit", None)),
        "os-exit": ({"code": 0}, ("exit", None)),
        "close-all": ({}, ("exit", None)),
        "segfault": ({}, ("signal", int(signal.SIGSEGV))),
        "kill-itself": ({"signal": int(signal.SIGKILL)}, ("signal", int(signal.SIGKILL))),
        "no such name": ({}, ("no_processor", None)),
    }
    ids = {name: jobs.add(name, data) for name, (data, _) in ways.items()}
    last = jobs.add("pid")
    assert jobs.result(last, timeout_s=30) > 0
    records = {name: failed(jobs, job_id) for name, job_id in ids.items()}
    assert {name: reason(r) for name, r in records.items()} == {name: why for name, (_, why) in ways.items()}
    told = {name: r.failed_reason for name, r in records.items()}
    assert told["raise"] == "no such video"
    assert told["sys-exit"] == "the job ended with SystemExit: 5"
    assert told["interrupt"] == "the job ended with KeyboardInterrupt"
    assert told["os-exit"] == "the child exited with code 0 in the middle of the job"
    assert told["close-all"] == "heavyq killed the child: it closed its channel to the worker"
    assert told["segfault"] == "the child was killed by signal 11 (SIGSEGV)"
    assert "ValueError: no such video" in records["raise"].stacktrace[-1]
    assert "app.py" in records["raise"].stacktrace[-1]
    assert worker.running


def test_exception_exit_and_interrupt_leave_the_child_as_it_was(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    run_worker(APP, "-c", "1")
    first = jobs.result(jobs.add("pid"))
    for name in ("raise", "sys-exit", "interrupt"):
        failed(jobs, jobs.add(name))
    assert jobs.result(jobs.add("pid")) == first


def test_child_that_dies_after_a_whole_result_has_completed_its_job(
    run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path, started: Callable[[], str]
) -> None:
    worker = run_worker(APP, "-c", "1")
    # It fits into the socket, and is more than the supervisor reads in one go.
    job_id = jobs.add("wait", {"size": 150_000})
    pid = int(started())
    supervisor = worker.kill("supervisor", signal.SIGSTOP)  # it reads nothing until the child is dead
    (tmp_path / "go").touch()
    # The title is the sign that the child has sent its report: it names no job any more.
    eventually(lambda: (procs.look(pid) or pytest.fail("it died")).title == "heavyq child idle", 5)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not procs.alive(pid), 5)
    os.kill(supervisor.pid, signal.SIGCONT)
    assert jobs.result(job_id) == "x" * 150_000
    assert jobs.result(jobs.add("pid")) != pid


def test_child_that_dies_after_half_a_result_has_failed_its_job(
    run_worker: Callable[..., Worker], jobs: Jobs, started: Callable[[], str]
) -> None:
    worker = run_worker(APP, "-c", "1")
    assert jobs.result(jobs.add("pid"))
    supervisor = worker.find("supervisor")
    child = worker.find("child")
    job_id = jobs.add("die-in-send")
    jobs.wait(job_id, "active")
    eventually(lambda: worker.all("child q"), 5, "the child has its job")
    os.kill(supervisor.pid, signal.SIGSTOP)
    try:
        started()
        eventually(lambda: not procs.alive(child.pid), 5)
    finally:
        os.kill(supervisor.pid, signal.SIGCONT)
    record = failed(jobs, job_id)
    assert reason(record) == ("signal", 9)
    assert record.returnvalue is None
    assert jobs.result(jobs.add("pid")) != child.pid


def test_jobs_that_mistreat_their_process_do_no_harm_to_others(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    run_worker(APP, "-c", "1")
    expected = {
        "fork-returns": ("completed", '"parent"'),
        "remove-workdir": ("completed", '"removed"'),
        "no-text": ("failed", "exception"),
        "exec": ("failed", "exit"),
        "kill-group": ("failed", "signal"),
        "reap-all": ("completed", '"none left"'),
        "thread-left": ("completed", '"returned"'),
        "progress": ("completed", "0"),  # what the thread tells is of no interest to the next job
    }
    ids = {name: jobs.add(name) for name in expected}
    found = {}
    for name, job_id in ids.items():
        record = jobs.wait(job_id)
        ended = (record.returnvalue or b"").decode() or (record.failure or {})["reason"]
        found[name] = (record.state, ended)
    assert found == expected
    assert jobs.read(ids["progress"]).progress is None
    assert jobs.result(jobs.add("pid"))


HOWS = ("plain", "setsid, empty environment", "double fork", "deaf to TERM, leads a group")


def test_what_a_job_leaves_running_is_gone_after_it_and_its_child_goes_on(
    run_worker: Callable[..., Worker], jobs: Jobs
) -> None:
    worker = run_worker(APP, "-c", "1")
    marks = {how: procs.new_marker() for how in HOWS}
    ids = {how: jobs.add("children", {"how": how, "mark": mark}) for how, mark in marks.items()}
    pids = {how: jobs.result(job_id) for how, job_id in ids.items()}
    for how, mark in marks.items():
        took(lambda mark=mark: not procs.marked(mark), 1.0, f"left behind ({how}): gone")
    assert len({*pids.values(), jobs.result(jobs.add("pid"))}) == 1, "the child was clean: no need for another"
    assert not [p for p in worker.whole_tree() if p.zombie]


def test_what_a_job_had_running_dies_with_its_child(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    worker = run_worker(APP, "-c", "4")
    marks = {how: procs.new_marker() for how in HOWS}
    ids = [jobs.add("children", {"how": how, "mark": mark, "stay_s": 60}) for how, mark in marks.items()]
    for how, mark in marks.items():
        eventually(lambda mark=mark: procs.marked(mark), 10, f"{how}: it runs")
    for child in worker.all("child q"):
        os.kill(child.pid, signal.SIGKILL)
    for how, mark in marks.items():
        took(lambda mark=mark: not procs.marked(mark), 1.0, f"the child was killed ({how}): gone")
    assert {reason(failed(jobs, job_id)) for job_id in ids} == {("signal", 9)}
    assert jobs.result(jobs.add("pid"))
    eventually(lambda: not [p for p in worker.whole_tree() if p.zombie], 2, "no zombie stays")


def test_multiprocessing_works_in_a_job_and_leaves_nothing(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    worker = run_worker(APP, "-c", "1")
    began_s = time.monotonic()
    assert jobs.result(jobs.add("pool")) == [n * n for n in range(10)]
    assert time.monotonic() - began_s < 15, "terminate() of a busy pool has hung for a while"
    first = jobs.result(jobs.add("pid"))
    assert jobs.result(jobs.add("pool-left")) == [0, 1, 4, 9]
    # A thread of the pool would start its workers anew whenever they are killed: only another child is clean.
    child = jobs.result(jobs.add("pid"))
    assert child != first
    always(lambda: not procs.children(child), 0.5, "nothing is below the child")
    eventually(lambda: not procs.alive(first), 5, "the child with the pool is gone")

    name = f"heavyq-test-{procs.new_marker()}"
    assert reason(failed(jobs, jobs.add("shared-memory", {"name": name}))) == ("signal", 9)
    eventually(lambda: not Path("/dev/shm", name).exists(), 5, "the tracker has emptied /dev/shm")
    eventually(lambda: len(worker.whole_tree()) <= 4, 5, "guard, supervisor, zygote, at most one child")


def test_files_that_the_module_holds_open_stay_the_modules(
    run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path
) -> None:
    worker = run_worker(APP, "-c", "2", "--max-jobs-per-child", "2")
    ids = jobs.add_all([("write", None)] * 12)
    assert len({jobs.result(job_id) for job_id in ids}) >= 6
    assert sorted(lines(tmp_path / "opened-at-import.txt")) == sorted(ids)
    for job_id in ids:
        assert jobs.log(job_id) == [f"printed by {job_id}"]
        worker.wait_log(rf"printed by {job_id}\b")


def test_children_draw_different_random_numbers(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    app = """
        import random
        import numpy
        from heavyq import Queue

        q = Queue("q")
        numpy.random.seed(1)
        random.seed(1)


        @q.processor
        def draw(job):
            return [float(numpy.random.rand()), random.random()]
    """
    run_worker(app, "-c", "1", "--max-jobs-per-child", "1")
    drawn = [jobs.result(job_id, timeout_s=30) for job_id in jobs.add_all([("draw", None)] * 4)]
    assert len({json.dumps(pair[0]) for pair in drawn}) == 4, drawn
    assert len({json.dumps(pair[1]) for pair in drawn}) == 4, drawn


def test_signals_that_a_child_gets_end_no_job(
    run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path, started: Callable[[], str]
) -> None:
    run_worker(APP, "-c", "1")
    job_id = jobs.add("wait")
    pid = int(started())
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(pid, signum)
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: (procs.look(pid) or pytest.fail("it died")).state == "T", 5)
    assert jobs.read(job_id).state == "active"
    os.kill(pid, signal.SIGCONT)
    (tmp_path / "go").touch()
    assert jobs.result(job_id) == "x"
