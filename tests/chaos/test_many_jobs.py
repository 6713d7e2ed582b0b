"""Many jobs, good and bad: each is run once and settled once, and the worker is afterwards as it was before."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import procs
from tests.support.eventually import eventually
from tests.support.jobs import lines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from heavyq.bullmq.job_hash import JobRecord
    from tests.support.jobs import Jobs
    from tests.support.worker import Worker

pytestmark = pytest.mark.timeout(240)

APP = """
    import os
    import signal
    import subprocess
    import sys
    import time

    from heavyq import Queue

    q = Queue("q")
    leaked = []


    def begin(job):
        with open("started.txt", "a") as started:
            started.write(f"{job.id} {os.getpid()}\\n")


    @q.processor("short")
    @q.processor("ok")
    def short(job):
        begin(job)
        return os.getpid()


    @q.processor("raise")
    def fail(job):
        begin(job)
        raise ValueError("no")


    @q.processor("exit")
    def end(job):
        begin(job)
        os._exit(3)


    @q.processor("kill")
    def kill(job):
        begin(job)
        os.kill(os.getpid(), signal.SIGKILL)


    @q.processor("leave")
    def leave(job):
        begin(job)
        subprocess.Popen(["setsid", "sleep", job.data["mark"]])
        if os.fork() == 0:
            os.execve("/bin/sleep", ["sleep", job.data["mark"]], {})
        return os.getpid()


    @q.processor("leak")
    def leak(job):
        begin(job)
        leaked.append(b"x" * (20 << 20))
        return os.getpid()
"""
WATCHED = ("guard", "supervisor", "zygote")


def descriptors(worker: Worker) -> dict[str, int]:
    """How many each holds; in the supervisor without those for each child: socket, log pipe, two pidfds, statm."""
    held = {role: len(procs.fds(worker.find(role).pid)) for role in WATCHED}
    return {**held, "supervisor": held["supervisor"] - 5 * len(worker.all("child"))}


def threads(worker: Worker) -> int:
    return len(os.listdir(f"/proc/{worker.find('supervisor').pid}/task"))


def settled_all(worker: Worker, jobs: Jobs, expected: dict[str, int]) -> bool:
    if not worker.running:
        pytest.fail("the worker has ended")
    return jobs.counts() == expected


def runs(tmp_path: Path) -> Counter[str]:
    """How often each job was begun."""
    return Counter(line.split()[0] for line in lines(tmp_path / "started.txt"))


def calm(worker: Worker, children_max: int = 2) -> bool:
    """Guard, supervisor, one zygote, at most so many children that wait, and nothing else; no zombie."""
    whole = worker.whole_tree()
    children = [p for p in whole if p.title.startswith("heavyq child")]
    roles = [len(worker.all(role)) for role in WATCHED]
    assert roles == [1, 1, 1], procs.outline(worker.pid)
    assert len(whole) == 3 + len(children), procs.outline(worker.pid)
    assert len(children) <= children_max, procs.outline(worker.pid)
    assert not [p for p in whole if p.zombie], procs.outline(worker.pid)
    assert all(p.title == "heavyq child idle" for p in children), procs.outline(worker.pid)
    return True


def test_2000_short_jobs_with_a_new_child_for_every_ten(
    run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path
) -> None:
    worker = run_worker(APP, "-c", "2", "--max-jobs-per-child", "10")
    jobs.add_all([("short", None)] * 100)
    jobs.wait_counts({"completed": 100}, timeout_s=30)
    eventually(lambda: calm(worker), 5)
    open_before, threads_before = descriptors(worker), threads(worker)

    began_s = time.monotonic()
    ids = jobs.add_all([("short", None)] * 2000)
    most_zombies = most_children = 0

    def all_done() -> bool:
        nonlocal most_zombies, most_children
        whole = worker.whole_tree()
        most_zombies = max(most_zombies, sum(p.zombie for p in whole))
        most_children = max(most_children, sum(p.title.startswith("heavyq child") for p in whole))
        return settled_all(worker, jobs, {"completed": 2100})

    eventually(all_done, 90, "2,000 jobs are done")
    seconds = time.monotonic() - began_s
    print(f"measured: 2,000 jobs, 200 children: {seconds:.1f} s; zombies at any time: {most_zombies}")
    counted = runs(tmp_path)
    assert set(ids) <= set(counted)
    assert set(counted.values()) == {1}, [i for i, n in counted.items() if n != 1]
    assert set(jobs.settled_events().values()) == {1}
    by_child = Counter(line.split()[1] for line in lines(tmp_path / "started.txt"))
    assert max(by_child.values()) <= 10
    assert len(by_child) >= 210
    assert most_children <= 2 + 2, "two seats, and at each of them at most one child that is about to end"
    eventually(lambda: calm(worker), 5)
    eventually(
        lambda: descriptors(worker) == open_before, 5, "no descriptor is left open"
    )  # one may be in use just now
    assert threads(worker) == threads_before


EXPECTED: dict[str, tuple[int, str, str | None, int | None]] = {
    # name: how many, state, failure.reason, failure.signal
    "ok": (350, "completed", None, None),
    "raise": (200, "failed", "exception", None),
    "exit": (120, "failed", "exit", None),
    "kill": (120, "failed", "signal", 9),
    "leave": (120, "completed", None, None),
    "leak": (90, "completed", None, None),
}


def outcome(record: JobRecord) -> tuple[str | None, str | None, int | None]:
    why: dict[str, Any] = record.failure or {}
    return record.state, why.get("reason"), why.get("signal")


def test_1000_mixed_jobs_are_settled_once_each_with_the_right_reason(
    run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path
) -> None:
    worker = run_worker(APP, "-c", "2", "--recycle-rss", "50Mi", env={"TMPDIR": str(tmp_path)})
    jobs.result(jobs.add("ok"))
    eventually(lambda: calm(worker), 5)
    open_before, threads_before = descriptors(worker), threads(worker)

    mark = procs.new_marker()
    mixed = [(name, {"mark": mark}) for name, (times, *_) in EXPECTED.items() for _ in range(times)]
    assert len(mixed) == 1000
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    random.Random(seed).shuffle(mixed)
    began_s = time.monotonic()
    ids = jobs.add_all(mixed)
    ends = {"completed": 561, "failed": 440}
    eventually(lambda: settled_all(worker, jobs, ends), 150, "1,000 jobs are settled")
    print(f"measured: 1,000 mixed jobs: {time.monotonic() - began_s:.1f} s")

    records = jobs.read_all(ids)
    wrong = [
        f"{record.id} {name}: {outcome(record)} {record.failed_reason}"
        for (name, _), record in zip(mixed, records, strict=True)
        if outcome(record) != EXPECTED[name][1:]
    ]
    assert not wrong, wrong[:10]
    assert {(r.attempts_started, r.attempts_made, r.stalled_count) for r in records} == {(1, 1, 0)}
    assert set(runs(tmp_path).values()) == {1}
    settled = jobs.settled_events()
    assert len(settled) == 1001
    assert set(settled.values()) == {1}, "each is settled once"

    in_a_row = Counter(r.returnvalue for (name, _), r in zip(mixed, records, strict=True) if name == "leak")
    print(f"measured: leaking jobs by child: {sorted(in_a_row.values())}")
    assert max(in_a_row.values()) <= 3, "20 MB a job, replaced above 50 MB"

    eventually(lambda: not procs.marked(mark), 3, "what the jobs left behind is gone")
    eventually(lambda: calm(worker), 5)
    eventually(
        lambda: descriptors(worker) == open_before, 5, "no descriptor is left open"
    )  # one may be in use just now
    assert threads(worker) == threads_before
    worker.term()
    assert worker.wait() == 0
    hashes = {"1", *ids}
    lasting = {"id", "meta", "events", "completed", "failed", "hq:counter"}
    told = {f"{record.id}:logs" for record in jobs.read_all(ids) if (record.failure or {}).get("evidence")}
    assert jobs.keys() - {"stalled-check"} == hashes | lasting | told
    assert not list(tmp_path.glob("heavyq-*"))


def test_jobs_are_settled_once_each_while_children_and_zygotes_are_killed_at_random(
    run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path
) -> None:
    worker = run_worker(APP, "-c", "3", "--max-jobs-per-child", "20")
    jobs.result(jobs.add("ok"))
    eventually(lambda: calm(worker, 3), 5)
    open_before, threads_before = descriptors(worker), threads(worker)

    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    mark = procs.new_marker()
    kinds = ("ok", "ok", "ok", "raise", "leave")
    mixed = [(dice.choice(kinds), {"mark": mark}) for _ in range(1500)]
    ids = jobs.add_all(mixed)
    killed: Counter[str] = Counter()
    zygote_spared_until_s = 0.0

    def kill_until_done() -> bool:
        nonlocal zygote_spared_until_s
        if not worker.running:
            pytest.fail("the worker has ended")
        role = "child"
        if time.monotonic() > zygote_spared_until_s:  # five that end before they could fork are the worker's end
            role, zygote_spared_until_s = "zygote", time.monotonic() + 2.0
        if victims := worker.all(role):
            killed[role] += 1
            procs.kill_all([dice.choice(victims)])
        counts = jobs.counts()
        return counts.get("completed", 0) + counts.get("failed", 0) == len(ids) + 1

    eventually(kill_until_done, 100, "all jobs are settled")
    records = jobs.read_all(ids)
    print(f"measured: killed {dict(killed)}; {Counter(map(outcome, records))}")
    may_be = {
        "ok": {("completed", None, None), ("failed", "signal", 9)},
        "raise": {("failed", "exception", None), ("failed", "signal", 9)},
        "leave": {("completed", None, None), ("failed", "signal", 9)},
    }
    wrong = [
        (r.id, name, outcome(r), r.failed_reason)
        for (name, _), r in zip(mixed, records, strict=True)
        if outcome(r) not in may_be[name]
    ]
    assert not wrong, wrong[:5]
    assert {(r.attempts_started, r.attempts_made, r.stalled_count) for r in records} == {(1, 1, 0)}
    assert max(runs(tmp_path).values()) == 1
    settled = jobs.settled_events()
    assert (len(settled), set(settled.values())) == (len(ids) + 1, {1})
    eventually(lambda: not procs.marked(mark), 3, "what the jobs left behind is gone")
    eventually(lambda: calm(worker, 3), 10)
    eventually(lambda: descriptors(worker) == open_before, 5, f"as many descriptors as before: {open_before}")
    assert threads(worker) == threads_before
    assert jobs.result(jobs.add("ok"))
