"""A real worker on cgroup v2: its children have groups; a job that runs out of memory dies alone and is told why."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import procs
from tests.support.eventually import eventually
from tests.support.memory import evidence, reason
from tests.vm.jobs import APP
from tests.vm.pod import CONTAINED, MIB, READ_ONLY, ROOT, Pod, group_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from heavyq.bullmq.job_hash import JobRecord
    from tests.support.jobs import Jobs
    from tests.support.worker import Worker

    MakePod = Callable[..., Pod]
    StartWorker = Callable[..., Worker]

# The machine is emulated: a worker takes 20 s to start, and nothing here promises a time.
SLOW_S = 240.0
LIMIT = 64 * MIB
GROUP_LIMIT = LIMIT + LIMIT // 10 + 16 * MIB
BIRTH = 64 * MIB  # what a child is born with, at most: it comes on top, for copies of it are nobody's fault
CONTAINER = 1024 * MIB
OF_EACH = 10

ROLES = ("guard", "supervisor", "zygote")


@pytest.fixture
def start_worker(run_worker: StartWorker) -> StartWorker:
    """Start a worker in a group, wait until it has run a job, and return it."""

    def start(pod: Pod, jobs: Jobs, *argv: str) -> Worker:
        limit = () if "--memory-limit" in argv else ("--memory-limit", str(LIMIT))
        worker = run_worker(APP, *limit, "--failover-after", "10m", *argv, group=pod)
        first = jobs.add("pid")

        def look() -> bool:
            if not worker.running:
                pytest.fail(f"the worker has ended: {worker.tail()}")
            return jobs.read(first).state == "completed"

        eventually(look, SLOW_S, "the worker has run a job")
        return worker

    return start


def whole(worker: Worker) -> list[tuple[int, int]]:
    """Return the processes that no job may take with it, each by pid and time of birth."""
    return [(proc.pid, proc.started) for proc in (worker.find(role, SLOW_S) for role in ROLES)]


def start_job(jobs: Jobs, folder: Path, job: str, name: str, mib: int) -> tuple[str, int]:
    """Start a job ("keep" or "one-call") and wait until it waits to go on; return its id and its child's pid."""
    mark = folder / f"mark-{name}"
    job_id = jobs.add(job, {"mib": mib, "mark": str(mark), "go": str(folder / f"go-{name}")})
    text = eventually(lambda: mark.exists() and mark.read_text(), SLOW_S, f"{name} runs")
    return job_id, int(text)


def let_go(folder: Path, name: str) -> None:
    (folder / f"go-{name}").touch()


def show(record: JobRecord) -> None:
    print(f"measured: {record.name}: {record.failed_reason}\n{record.failure}")


# ---- groups -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("front", [(), CONTAINED], ids=["systemd", "namespace"])
def test_each_child_has_a_group_with_the_limit_of_its_job(
    start_worker: StartWorker, make_pod: MakePod, jobs: Jobs, tmp_path: Path, front: list[str]
) -> None:
    pod = make_pod(CONTAINER, oom_group=True, front=front)
    worker = start_worker(pod, jobs, "-c", "2")
    log = worker.log
    assert re.search(r"kernel_groups='?one per child", log), log
    assert f"memory.max of {ROOT if front else pod.path} " in log, log

    one, first = start_job(jobs, tmp_path, "keep", "one", 8)
    two, second = start_job(jobs, tmp_path, "keep", "two", 8)
    assert pod.pids() == []
    places = {role: group_of(worker.find(role).pid) for role in ROLES}
    assert len(set(places.values())) == 1, places
    worker_group = places["guard"]
    assert worker_group.parent == pod.path
    assert worker_group.name.endswith("-worker")
    own = [group_of(first), group_of(second)]
    assert len({*own, worker_group}) == 3
    for path in own:
        assert path.parent == pod.path
        assert GROUP_LIMIT < int((path / "memory.max").read_text()) < GROUP_LIMIT + BIRTH
        assert (path / "memory.oom.group").read_text() == "1\n"
        assert int((path / "memory.current").read_text()) > 8 * MIB, "the job's own memory is charged to it"

    let_go(tmp_path, "one")
    let_go(tmp_path, "two")
    jobs.result(one, SLOW_S)
    jobs.result(two, SLOW_S)
    os.kill(second, signal.SIGKILL)  # an idle child
    eventually(lambda: not own[1].exists(), SLOW_S, "the group goes with its child")
    worker.stop(SLOW_S)
    assert [name for name in pod.groups() if not name.endswith("-worker")] == []


def test_without_groups_the_reason_is_in_the_log(start_worker: StartWorker, make_pod: MakePod, jobs: Jobs) -> None:
    pod = make_pod(CONTAINER)
    with pod.stranger() as stranger:
        worker = start_worker(pod, jobs)
        assert re.search(rf"none: {pod.path} holds other processes: sleep \({stranger}\)", worker.log), worker.log
        assert pod.groups() == {}
        assert worker.find("guard").pid in pod.pids()
        worker.stop(SLOW_S)


# ---- kills by the kernel ----------------------------------------------------------------------------------


@pytest.mark.parametrize("oom_group", [False, True], ids=["oom.group=0", "oom.group=1"])
def test_a_job_that_outruns_the_watch_is_killed_alone(
    start_worker: StartWorker, make_pod: MakePod, jobs: Jobs, tmp_path: Path, oom_group: bool
) -> None:
    pod = make_pod(CONTAINER, oom_group=oom_group)
    worker = start_worker(pod, jobs, "-c", "2")
    before = whole(worker)
    sibling, sibling_pid = start_job(jobs, tmp_path, "keep", "sibling", 16)
    bomb, bomb_pid = start_job(jobs, tmp_path, "one-call", "bomb", 512)
    bomb_group = group_of(bomb_pid)
    supervisor = worker.kill("supervisor", signal.SIGSTOP)  # the surest way to outrun the watch
    try:
        let_go(tmp_path, "bomb")
        eventually(lambda: pod.kills() >= 1, SLOW_S, "the kernel has killed")
        peak = int((bomb_group / "memory.peak").read_text())
    finally:
        os.kill(supervisor.pid, signal.SIGCONT)
    record = jobs.wait(bomb, timeout_s=SLOW_S)
    show(record)
    print(f"measured: with no watch at all it got to {peak / LIMIT:.2f} of its limit, by its group's")
    assert peak <= GROUP_LIMIT + BIRTH
    why = evidence(record)
    assert reason(record) == "oom_killed"
    assert why["killed_by"] == "kernel"
    assert why["limit_of"] == "group"
    assert GROUP_LIMIT < why["limit_bytes"] < GROUP_LIMIT + BIRTH
    assert why["oom_kill"]["counter"] == f"oom_kill of {bomb_group}"
    assert why["oom_kill"]["after"] > why["oom_kill"]["before"]
    eventually(lambda: not bomb_group.exists(), SLOW_S, "its group is gone")
    assert procs.alive(sibling_pid)
    assert whole(worker) == before
    let_go(tmp_path, "sibling")
    assert jobs.result(sibling, SLOW_S) == sibling_pid
    worker.stop(SLOW_S)


def test_kernel_kills_and_kills_by_hand_are_told_apart(
    start_worker: StartWorker, make_pod: MakePod, jobs: Jobs, tmp_path: Path
) -> None:
    """Each job holds memory; then its group's limit is set below what it holds, or it is killed by hand."""
    pod = make_pod(CONTAINER, oom_group=True)
    worker = start_worker(pod, jobs, "-c", "2")
    before = whole(worker)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    deaths = ["kernel", "hand"] * OF_EACH
    random.Random(seed).shuffle(deaths)
    never = str(tmp_path / "never")
    marks = [tmp_path / f"mark-{n}" for n in range(len(deaths))]
    ids = jobs.add_all(("keep", {"mib": 24, "mark": str(mark), "go": never}) for mark in marks)
    for mark, death in zip(marks, deaths, strict=True):  # two run at a time, and each death lets the next one begin
        pid = int(eventually(lambda mark=mark: mark.exists() and mark.read_text(), SLOW_S, f"{mark.name} holds"))
        if death == "kernel":
            (group_of(pid) / "memory.max").write_text(str(4 * MIB))
        else:
            os.kill(pid, signal.SIGKILL)
    records = [jobs.wait(job_id, timeout_s=SLOW_S) for job_id in ids]
    found = Counter((death, reason(record)) for death, record in zip(deaths, records, strict=True))
    print(f"measured: {dict(found)}; oom_kill of the container: {pod.kills()}")
    assert found == {("kernel", "oom_killed"): OF_EACH, ("hand", "signal"): OF_EACH}
    for death, record in zip(deaths, records, strict=True):
        why = evidence(record)
        if death == "kernel":
            assert why["oom_kill"]["after"] > why["oom_kill"]["before"]
        else:
            assert "oom_kill" not in why
            assert "memory" not in (record.failed_reason or "")
    assert whole(worker) == before
    worker.stop(SLOW_S)


def test_a_kill_for_the_containers_limit_is_not_laid_to_the_group(
    start_worker: StartWorker, make_pod: MakePod, jobs: Jobs, tmp_path: Path
) -> None:
    """The counter of the child's own group rises too, though its limit is far away."""
    pod = make_pod(192 * MIB)
    worker = start_worker(pod, jobs, "--memory-limit", "512Mi")
    before = whole(worker)
    bomb, bomb_pid = start_job(jobs, tmp_path, "one-call", "bomb", 384)
    group = group_of(bomb_pid)
    supervisor = worker.kill("supervisor", signal.SIGSTOP)
    try:
        let_go(tmp_path, "bomb")
        eventually(lambda: pod.kills() >= 1, SLOW_S, "the kernel has killed")
    finally:
        os.kill(supervisor.pid, signal.SIGCONT)
    record = jobs.wait(bomb, "delayed", timeout_s=SLOW_S)  # run again: others may have filled the container
    show(record)
    told = record.failure or {}
    assert told["reason"] == "oom_killed"
    assert told["evidence"]["oom_kill"]["counter"] == f"oom_kill of {group}"
    assert told["evidence"]["limit_of"] != "group"
    assert whole(worker) == before
    worker.stop(SLOW_S)


def test_without_groups_kernel_kills_and_kills_by_hand_are_told_apart(
    start_worker: StartWorker, make_pod: MakePod, jobs: Jobs, tmp_path: Path
) -> None:
    """One counter for all: the container's. A job without a limit of its own, and the watch stands still."""
    pod = make_pod(256 * MIB)
    with pod.stranger():
        worker = start_worker(pod, jobs, "-c", "2")
        before = whole(worker)
        small, small_pid = start_job(jobs, tmp_path, "keep", "small", 8)
        bomb, _ = start_job(jobs, tmp_path, "one-call", "bomb", 512)
        supervisor = worker.kill("supervisor", signal.SIGSTOP)
        try:
            let_go(tmp_path, "bomb")
            eventually(lambda: pod.kills() >= 1, SLOW_S, "the kernel has killed")
            os.kill(small_pid, signal.SIGKILL)
            eventually(lambda: not procs.alive(small_pid), SLOW_S)
            peak = pod.number("memory.peak") / LIMIT
            print(f"measured: with no watch and no group it got to {peak:.2f} of its limit: to the container's")
        finally:
            os.kill(supervisor.pid, signal.SIGCONT)
        records = [jobs.wait(bomb, "delayed", timeout_s=SLOW_S), jobs.wait(small, timeout_s=SLOW_S)]
        for record in records:
            show(record)
        told = [record.failure or {} for record in records]
        assert [one["reason"] for one in told] == ["oom_killed", "signal"]
        assert told[0]["evidence"]["oom_kill"]["counter"] == f"oom_kill of {pod.path}/memory.events"
        assert whole(worker) == before
        worker.stop(SLOW_S)


# ---- stops by heavyq --------------------------------------------------------------------------------------


def test_the_watch_stops_a_job_and_all_that_it_started(
    start_worker: StartWorker, make_pod: MakePod, jobs: Jobs, tmp_path: Path
) -> None:
    pod = make_pod(CONTAINER, oom_group=True)
    worker = start_worker(pod, jobs, "-c", "2")
    before = whole(worker)
    sibling, sibling_pid = start_job(jobs, tmp_path, "keep", "sibling", 8)
    marker = procs.new_marker()
    bomb = jobs.add("family", {"marker": marker, "mib": 512})
    eventually(lambda: len(procs.marked(marker)) == 3, SLOW_S, "its subprocesses run")
    group = group_of(procs.marked(marker)[0].pid)
    record = jobs.wait(bomb, timeout_s=SLOW_S)
    show(record)
    why = evidence(record)
    assert reason(record) == "memory_limit", "by the watch, before the kernel"
    assert why["limit_of"] == "job"
    assert why["killed_by"] == "heavyq"
    assert LIMIT <= why["peak_bytes"] <= GROUP_LIMIT + BIRTH
    eventually(lambda: not procs.marked(marker), SLOW_S, "its subprocesses are gone")
    eventually(lambda: not group.exists(), SLOW_S, "its group is gone")
    assert pod.kills() == 0, "the kernel had nothing to do"
    assert whole(worker) == before
    let_go(tmp_path, "sibling")
    assert jobs.result(sibling, SLOW_S) == sibling_pid
    worker.stop(SLOW_S)


def test_heavyq_is_before_a_kernel_that_would_kill_the_whole_container(
    start_worker: StartWorker, make_pod: MakePod, jobs: Jobs
) -> None:
    """Kubernetes: memory.oom.group=1 and a read-only mount; a job without a limit stops at its container's mark."""
    pod = make_pod(256 * MIB, oom_group=True, front=[*CONTAINED, *READ_ONLY])
    worker = start_worker(pod, jobs, "--memory-limit", "16Gi")
    assert re.search(r"none: \S+: Read-only file system", worker.log), worker.log
    before = whole(worker)
    marker = procs.new_marker()
    record = jobs.wait(jobs.add("family", {"marker": marker, "mib": 512}), timeout_s=SLOW_S)
    show(record)
    why = evidence(record)
    assert reason(record) == "memory_limit"
    assert why["limit_of"] == "container"
    assert why["container_limit_bytes"] == 256 * MIB
    assert pod.kills() == 0
    assert whole(worker) == before
    assert jobs.result(jobs.add("pid"), SLOW_S)
    worker.stop(SLOW_S)


def test_a_job_that_writes_more_than_its_groups_limit_is_not_stopped(
    start_worker: StartWorker, make_pod: MakePod, jobs: Jobs
) -> None:
    pod = make_pod(CONTAINER, oom_group=True)
    worker = start_worker(pod, jobs)
    size = 4 * (GROUP_LIMIT + BIRTH) // MIB
    assert jobs.result(jobs.add("write-file", {"mib": size}), SLOW_S) == size * MIB
    assert pod.kills() == 0
    worker.stop(SLOW_S)


@pytest.mark.parametrize("grouped", [True, False], ids=["group", "no group"])
def test_how_far_past_its_limit_a_job_gets(
    start_worker: StartWorker, make_pod: MakePod, jobs: Jobs, tmp_path: Path, grouped: bool
) -> None:
    """As fast as the machine can. With a group the kernel sets the end; without, the watch's next look does."""
    pod = make_pod(CONTAINER)
    with contextlib.nullcontext() if grouped else pod.stranger():
        worker = start_worker(pod, jobs)
        began = pod.number("memory.stat", "anon")
        bomb = jobs.add("fast", {"mib": 512})
        peak = 0

        def over() -> bool:
            nonlocal peak
            peak = max(peak, pod.number("memory.stat", "anon") - began)
            return jobs.read(bomb).state in {"failed", "completed"}

        eventually(over, SLOW_S)
        record = jobs.read(bomb)
        show(record)
        print(
            f"measured: {'with' if grouped else 'without'} a group, {peak / LIMIT:.2f} of the limit (emulated machine)"
        )
        assert reason(record) in {"memory_limit", "oom_killed"}
        if grouped:
            assert peak <= GROUP_LIMIT + BIRTH
        else:
            assert reason(record) == "memory_limit"
        worker.stop(SLOW_S)
