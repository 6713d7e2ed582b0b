"""Jobs that do nothing wrong, in a container that has no room for all of them: none is failed for the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.group import memory_group
from tests.support.memory import MIB, evidence

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.jobs import Jobs
    from tests.support.worker import Worker

pytestmark = pytest.mark.timeout(180)

DECENT = """
    import time
    from heavyq import Queue

    q = Queue("q")

    @q.processor
    def decent(job):
        mine = b"x" * (120 << 20)
        time.sleep(0.5)
        return len(mine) >> 20
"""

BORN_LARGE = """
    import time
    from heavyq import Queue, child_start

    q = Queue("q", memory_request="100Mi", memory_limit="150Mi")
    model = []

    @child_start
    def load():
        model.append(b"x" * (150 << 20))

    @q.processor
    def decent(job):
        mine = b"x" * (21 << 20)
        time.sleep(0.3)
        return len(mine) >> 20
"""

HELPED = """
    import subprocess, sys, time
    from heavyq import Queue, child_start

    q = Queue("q", memory_limit="200Mi")

    @child_start
    def help():
        code = "import time; mine = b'x' * (300 << 20); print('ready', flush=True); time.sleep(3600)"
        helper = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        helper.stdout.readline()

    @q.processor
    def decent(job):
        time.sleep(0.5)
        return "done"
"""


def test_more_jobs_than_the_container_holds_are_all_done_in_the_end(
    run_worker: Callable[..., Worker], jobs: Jobs
) -> None:
    with memory_group(512 * MIB) as group:
        worker = run_worker(DECENT, "-c", "3", group=group)
        ids = jobs.add_all([("process", None)] * 20, attempts=1)
        jobs.wait_counts({"completed": 20}, timeout_s=120)
        started = [record.attempts_started for record in jobs.read_all(ids)]
        print(f"measured: 20 jobs were started {sum(started)} times; the kernel killed {group.oom_kills()}")
        assert all(record.attempts_made == 1 for record in jobs.read_all(ids)), "no attempt is burnt for others"
        assert sum(started) < 40, "the queue learns what room it needs"
        worker.stop()


def test_what_children_hold_without_a_job_takes_from_the_room(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    with memory_group(800 * MIB) as group:
        worker = run_worker(BORN_LARGE, "-c", "4", group=group)
        jobs.add_all([("process", None)] * 12, attempts=1)
        jobs.wait_counts({"completed": 12}, timeout_s=120)
        assert group.oom_kills() == 0
        worker.stop()


def test_a_helper_of_child_start_is_no_jobs_memory(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    run_worker(HELPED, "-c", "1")
    record = jobs.wait(jobs.add("process"), timeout_s=30)
    assert record.state == "completed", evidence(record)


LOADED = """
    from pathlib import Path
    from heavyq import Queue, child_start

    q = Queue("q", memory_request="200Mi")
    model = []

    @child_start
    def load():
        model.append(b"x" * (64 << 20))
        with Path("loads.txt").open("a") as loads:
            print("loaded", file=loads)

    @q.processor
    def decent(job):
        return len(model)
"""


@pytest.mark.parametrize("budget", [("--memory-budget", "300Mi"), ()], ids=["set", "auto"])
def test_a_model_is_not_loaded_anew_for_each_job_where_only_one_has_room(
    run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path, budget: tuple[str, ...]
) -> None:
    with memory_group(600 * MIB) as group:
        worker = run_worker(LOADED, "-c", "2", *budget, group=group)
        jobs.add_all([("process", None)] * 8)
        jobs.wait_counts({"completed": 8}, timeout_s=60)
        loads = len((tmp_path / "loads.txt").read_text().splitlines())
        print(f"measured: 8 jobs, {loads} loads")
        assert loads <= 2
        worker.stop()
