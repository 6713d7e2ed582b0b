"""Who killed the child: the kernel, for want of memory, or somebody by hand. Never mixed up, however close in time."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Self

import pytest

from tests.support import procs
from tests.support.eventually import eventually
from tests.support.group import memory_group
from tests.support.memory import APP, MIB, evidence, reason

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from heavyq.bullmq.job_hash import JobRecord
    from tests.support.group import MemoryGroup
    from tests.support.jobs import Jobs
    from tests.support.worker import Worker

pytestmark = pytest.mark.timeout(240)

OF_EACH = 50
CONTAINER = 192 * MIB


class Executioner:
    """Kills on a thread of its own whoever says, by a file `kernel-*` or `hand-*`, that it may be killed.

    For the kernel's turn the supervisor stands still, or its watch would often be quicker; half of those that are
    killed by hand are spared for that moment, so that the supervisor finds two dead at once. No huge pages here: the
    kernel hides a dying process from its next choice before it has given those back, and then takes somebody else,
    the supervisor even.
    """

    def __init__(self, folder: Path, group: MemoryGroup, supervisor: int, dice: random.Random) -> None:
        self._folder, self._group, self._supervisor, self._dice = folder, group, supervisor, dice
        self.by_hand = self.at_once = 0
        self._spared: dict[Path, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="executioner")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.003):
            for mark in self._folder.glob("kernel-*"):
                self._let_the_kernel_kill(mark)
            for mark in self._folder.glob("hand-*"):
                spared_until_s = self._spared.setdefault(mark, time.monotonic() + self._dice.choice((0.01, 0.3)))
                if time.monotonic() > spared_until_s:
                    self._kill(mark)

    def _let_the_kernel_kill(self, mark: Path) -> None:
        before = self._group.oom_kills()
        os.kill(self._supervisor, signal.SIGSTOP)
        try:
            mark.rename(self._folder / mark.name.replace("kernel", "go"))
            for other in self._folder.glob("hand-*"):
                self.at_once += self._kill(other)
            eventually(lambda: self._group.oom_kills() > before, 10, "the kernel has killed")
        finally:
            os.kill(self._supervisor, signal.SIGCONT)

    def _kill(self, mark: Path) -> int:
        pid = mark.read_text()
        if not pid:
            return 0
        mark.unlink()
        with contextlib.suppress(ProcessLookupError):  # somebody else was first: the counts at the end tell
            os.kill(int(pid), signal.SIGKILL)
        self.by_hand += 1
        return 1


def expect_told_by_hand(record: JobRecord) -> None:
    assert reason(record) == "signal", record.failure
    assert record.failure is not None
    assert record.failure["signal"] == signal.SIGKILL
    assert "oom_kill" not in (record.failure.get("evidence") or {}), record.failure
    assert "memory" not in (record.failed_reason or "")


def expect_told_by_kernel(record: JobRecord) -> None:
    assert reason(record) == "oom_killed", record.failure
    why = evidence(record)
    assert why["killed_by"] == "kernel"
    assert why["oom_kill"]["after"] > why["oom_kill"]["before"] >= 0, why
    assert why["oom_kill"]["counter"] in record.stacktrace[-1]
    assert "memory" in (record.failed_reason or "")


def test_kernel_kills_and_kills_by_hand_are_told_apart(
    run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    names = ["one-call", "hold"] * OF_EACH
    dice.shuffle(names)
    with memory_group(CONTAINER) as group:
        worker = run_worker(APP, "-c", "2", group=group)
        jobs.result(jobs.add("pid"), timeout_s=30)
        whole = [worker.find(role) for role in ("guard", "supervisor", "zygote")]
        began_s = time.monotonic()
        with Executioner(tmp_path, group, whole[1].pid, dice) as executioner:
            ids = jobs.add_for_the_last_time(
                (name, {"mib": 1024, "mark": f"kernel-{n}", "go": f"go-{n}"})
                if name == "one-call"
                else (name, {"mib": dice.randrange(6), "mark": f"hand-{n}", "go": "never"})
                for n, name in enumerate(names)
            )

            def all_settled() -> bool:
                if not worker.running:
                    pytest.fail("the worker has ended")
                assert jobs.counts() == {"completed": 1, "failed": len(ids)}, jobs.counts()
                return True

            eventually(all_settled, 120, "all jobs have failed")
        records = jobs.read_all(ids)
        print(
            f"measured: {len(ids)} deaths in {time.monotonic() - began_s:.1f} s: "
            f"{dict(Counter((record.name, reason(record)) for record in records))}; the kernel says that it killed "
            f"{group.oom_kills()}, by hand: {executioner.by_hand}, of them at the same time: {executioner.at_once}"
        )
        assert (group.oom_kills(), executioner.by_hand) == (OF_EACH, OF_EACH)
        assert all(proc.still_runs() for proc in whole), "children alone were killed"
        for record in records:
            (expect_told_by_kernel if record.name == "one-call" else expect_told_by_hand)(record)
        worker.stop()


def test_whoever_is_quicker_the_watch_or_the_kernel_says_so(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    """Two at a time race to the container's limit: each was stopped by one of the two, and none by a stranger."""
    with memory_group(CONTAINER) as group:
        worker = run_worker(APP, "-c", "2", group=group)
        ids = jobs.add_for_the_last_time([("one-call", {"mib": 1024})] * 60)
        records = [jobs.wait(job_id, timeout_s=60) for job_id in ids]
        found = Counter(reason(record) for record in records)
        print(f"measured: {len(ids)} races: {dict(found)}; the kernel says that it killed {group.oom_kills()}")
        assert set(found) <= {"memory_limit", "oom_killed"}, found
        assert found["oom_killed"] <= group.oom_kills()
        assert found["memory_limit"] >= 10, "the watch does not stand aside after the kernel has killed"
        assert jobs.result(jobs.add("pid"))
        worker.stop()


def test_kernel_kill_in_a_group_and_a_kill_by_hand_at_the_same_moment(
    run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path
) -> None:
    """Both children are dead before the supervisor, which stood still, sees either: the counter moved by one."""
    with memory_group(CONTAINER) as group:
        worker = run_worker(APP, "-c", "2", group=group)
        mark = tmp_path / "mark"
        small = jobs.add("hold", {"mark": str(mark), "go": str(tmp_path / "go"), "mib": 5})
        pid = int(eventually(lambda: mark.exists() and mark.read_text(), 30, "the small one runs"))
        large = jobs.add("plain", {"step_mib": 1, "up_to_mib": 1024, "pause_s": 0.05})
        jobs.wait(large, "active")
        eventually(lambda: len(worker.all("child q")) == 2, 10, "both run")
        supervisor = worker.kill("supervisor", signal.SIGSTOP)
        try:
            eventually(lambda: group.oom_kills() == 1, 20, "the kernel has killed the large one")
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: not procs.alive(pid), 5)
        finally:
            os.kill(supervisor.pid, signal.SIGCONT)
        records = [jobs.wait(large, "delayed"), jobs.wait(small)]  # a full container's victim is run again
        assert [(r.failure or {}).get("reason") for r in records] == ["oom_killed", "signal"], [
            r.failure for r in records
        ]
        worker.stop()
