"""The container's memory and the kernel's kills, on a real group with a limit; groups' folders on a real cgroup2."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from heavyq.linux import cgroup, groups
from tests.support import procs
from tests.support.eventually import eventually
from tests.support.group import memory_group, on_disk
from tests.support.worker import environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.group import MemoryGroup
    from tests.support.worker import Worker

MIB = 1 << 20
BIG = 600 * MIB
NEAR = 40 * MIB
VAR_TMP = Path("/var/tmp")

# Runs inside the group and tells, after each step, what heavyq makes of the group and what the kernel says.
INNOCENT_AND_NOT = """
    import gc, json, mmap, os, sys, tempfile
    from heavyq.linux import cgroup

    SIZE = int(sys.argv[1])
    found = cgroup.find_container()

    def tell(step):
        print(json.dumps([step, found.use_bytes()]), flush=True)
        sys.stdin.readline()

    def touch(block):
        for at in range(0, SIZE, mmap.PAGESIZE):
            block[at] = 1
        return block

    print(json.dumps([found.source, found.limit_bytes]), flush=True)
    tell("start")
    with tempfile.TemporaryFile(dir=sys.argv[2]) as file:
        for _ in range(SIZE >> 20):
            file.write(b"x" * (1 << 20))
        file.flush()
        tell("written")
        block = mmap.mmap(file.fileno(), SIZE, prot=mmap.PROT_READ)
        assert sum(block[at] for at in range(0, SIZE, mmap.PAGESIZE))
        tell("read")
        block.close()
    block = touch(mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    tell("anonymous")
    block.close()
    block = touch(mmap.mmap(-1, SIZE))
    tell("shared")
    block.close()
    tell("given back")
"""

# A worker in small: it watches the counter and starts children which the kernel is to take first.
VICTIM = """
    import subprocess, sys
    from heavyq.linux import cgroup

    counter = cgroup.find_oom_counter()
    child = "open('/proc/self/oom_score_adj', 'w').write('1000'); print(flush=True); input(); x = b'1' * (600 << 20)"
    before = counter.read()
    process = subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    if sys.argv[1] == "outside":
        process.kill()
    else:
        process.stdin.write(b"\\n")
        process.stdin.close()
    print(process.wait(), before, counter.read(), counter.name)
"""


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    with memory_group(256 * MIB) as made:
        yield made


def inside(group: MemoryGroup, script: str, *argv: str) -> list[str]:
    return [*group.prefix_argv, sys.executable, "-c", textwrap.dedent(script), *argv]


# ---- the container's use ----------------------------------------------------------------------------------


def test_files_are_not_use_and_anonymous_and_shared_memory_are(tmp_path: Path) -> None:
    steps: dict[str, int] = {}
    cache: dict[str, int] = {}
    with (
        memory_group(1536 * MIB) as group,
        procs.running(
            *inside(group, INNOCENT_AND_NOT, str(BIG), str(on_disk(tmp_path, VAR_TMP))),
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        source, limit = json.loads(process.stdout.readline())
        assert limit == group.limit
        assert str(group.path) in source
        for line in process.stdout:
            step, use = json.loads(line)
            steps[step] = use
            cache[step] = group.cache_bytes()
            process.stdin.write("\n")
            process.stdin.flush()
        assert process.wait() == 0
    start = steps["start"]
    assert start > 0
    assert cache["written"] > BIG - NEAR, "the file's pages were charged to the group: else this proves nothing"
    moved = {step: use - start for step, use in steps.items()}
    assert moved["written"] < NEAR, moved
    assert moved["read"] < NEAR, moved
    assert BIG <= moved["anonymous"] < BIG + NEAR, moved
    assert BIG <= moved["shared"] < BIG + NEAR, moved
    assert moved["given back"] < NEAR, moved


def test_use_is_unknown_once_the_group_is_gone() -> None:
    with memory_group(256 * MIB) as group:
        stat = "anon" if group.v2 else "total_rss"
        found = cgroup.Container(1, "", f"{group.path}/memory.stat", lambda text: text.count(stat.encode()))
        counter = cgroup.OomCounter(f"{group.path}/{'memory.events' if group.v2 else 'memory.oom_control'}")
        assert found.use_bytes()
        assert counter.read() == 0
    assert found.use_bytes() is None
    assert counter.read() is None
    found.close()
    counter.close()


# ---- kernel kills -----------------------------------------------------------------------------------------


def run_victim(group: MemoryGroup, how: str) -> tuple[int, int, int]:
    done = subprocess.run(
        inside(group, VICTIM, how), env=environment(), stdout=subprocess.PIPE, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, "the one that watches outlives its child"
    code, before, after, name = done.stdout.strip().split(" ", 3)
    assert str(group.path) in name
    assert int(after) == group.oom_kills()
    return int(code), int(before), int(after)


def test_a_kernel_kill_moves_the_counter_and_a_kill_from_outside_does_not(group: MemoryGroup) -> None:
    for n in range(3):
        assert run_victim(group, "outside") == (-signal.SIGKILL, n, n)
        assert run_victim(group, "kernel") == (-signal.SIGKILL, n, n + 1)
    assert group.peak_bytes() > 0.9 * group.limit


def test_a_neighbours_kernel_kill_moves_only_a_counter_that_covers_it(group: MemoryGroup) -> None:
    counter = cgroup.find_oom_counter()
    before = counter.read()
    assert str(group.path) not in counter.name
    run_victim(group, "kernel")
    moved = (counter.read() or 0) - (before or 0)
    counter.close()
    file = Path(counter.name.removeprefix("oom_kill of "))
    if file == Path("/proc/vmstat"):  # the whole machine, strangers too
        assert moved >= 1
    else:  # v2 counts a group and all that is below it, v1 the group alone
        assert moved == (1 if group.v2 and file.parent in group.path.parents else 0)


# ---- the tests' own group ---------------------------------------------------------------------------------


APP = """
    import heavyq

    q = heavyq.Queue("q")

    @q.processor
    def work(job):
        pass
"""


def test_a_worker_started_in_a_group_is_in_it_as_a_whole(group: MemoryGroup, run_worker: Callable[..., Worker]) -> None:
    worker = run_worker(APP, group=group)
    worker.wait_log("serving", timeout_s=60)
    pids = {worker.find(role).pid for role in ("guard", "supervisor", "zygote")}
    assert len(pids) == 3
    assert pids <= set(group.pids())


def test_a_group_is_removed_with_what_runs_in_it() -> None:
    with (
        memory_group(256 * MIB) as group,
        procs.running(*group.prefix_argv, "sh", "-c", "sleep 600 & wait") as process,
    ):
        eventually(lambda: len(group.pids()) == 2)
        pids = group.pids()
        process.kill()  # its child is then nobody's but the group's
        process.wait()
    assert not group.path.exists()
    assert not any(procs.alive(pid) for pid in pids)


# ---- groups per child, as far as a cgroup2 without controllers goes ---------------------------------------


@pytest.fixture
def tree() -> Iterator[groups.Groups]:
    """Groups on the cgroup2 that is mounted here, whatever its controllers: folders, entering, killing."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    top = next((line.split()[4] for line in lines if " - cgroup2 " in line), None)
    if top is None:
        pytest.skip("no cgroup2 is mounted")
    own = Path(top) / f"heavyq-test-{os.getpid()}"
    try:
        own.mkdir()
    except OSError as error:
        pytest.skip(f"no group can be made here: {error}")
    yield groups.Groups(str(own), str(own / "leaf"), enabled=False)
    for folder, _, _ in os.walk(own, topdown=False):
        Path(folder).rmdir()


FAMILY = """
    import subprocess, sys
    from heavyq.linux import groups
    groups.enter(sys.argv[1])
    subprocess.Popen(["setsid", "sleep", "600"])
    print(flush=True)
    input()
"""


def test_a_group_takes_all_that_its_child_starts_and_kills_it_at_once(tree: groups.Groups) -> None:
    group = tree.make("child-1")
    with procs.running(
        *(sys.executable, "-c", textwrap.dedent(FAMILY), group.path),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        below = Path(group.path) / "made-by-the-job"
        below.mkdir()
        grandchild = procs.children(process.pid)[0].pid
        (below / "cgroup.procs").write_text(str(grandchild))
        assert (Path(group.path) / "cgroup.procs").read_text().split() == [str(process.pid)]
        assert not group.remove(), "it is not removed while something in it lives"
        assert procs.alive(process.pid)
        os.kill(process.pid, signal.SIGSTOP)
        group.kill()
        assert process.wait(5) == -signal.SIGKILL
        eventually(lambda: not procs.alive(grandchild))
    eventually(group.remove)
    assert not Path(group.path).exists()
    assert group.remove(), "already gone is as good as removed"
    assert group.oom_kills() == 0
    group.kill()


def test_a_kernel_without_cgroup_kill_kills_them_one_by_one(
    tree: groups.Groups, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = groups._write

    def older(path: str, value: int | str) -> None:
        if path.endswith("cgroup.kill"):
            raise FileNotFoundError(path)
        write(path, value)

    monkeypatch.setattr(groups, "_write", older)
    group = tree.make("child-1")
    with procs.running("sleep", "600", preexec_fn=lambda: groups.enter(group.path)) as process:
        group.kill()
        assert process.wait(5) == -signal.SIGKILL
    eventually(group.remove)


def test_a_group_of_that_name_is_not_taken_over(tree: groups.Groups) -> None:
    group = tree.make("child-1")
    with pytest.raises(FileExistsError):
        tree.make("child-1")
    assert group.remove()


@pytest.mark.skipif(not os.path.ismount("/sys/fs/cgroup"), reason="no cgroups")
def test_this_very_process_is_found_where_the_kernel_lists_it() -> None:
    for controller in ("memory", "cpu"):
        place = cgroup.find_place(controller)
        if place is not None:
            with contextlib.suppress(PermissionError):
                assert str(os.getpid()) in (Path(place.own) / "cgroup.procs").read_text().split()
