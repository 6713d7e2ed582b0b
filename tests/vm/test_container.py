"""What heavyq reads of its container on cgroup v2 is what the kernel says: limit, use, kernel kills, cores."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.vm.pod import CONTAINED, MIB, Pod, python

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    MakePod = Callable[..., Pod]

LOOK = """
import json, mmap, os
from heavyq.linux import cgroup
container = cgroup.find_container()
"""
HOLD = 48 * MIB
NEAR = 6 * MIB  # page tables, the interpreter's own allocations between two looks

# A file twice as large as the group's limit: the kernel has to drop its pages to go on.
WRITE = f"""
before = container.use_bytes()
with open(FILE, "wb") as f:
    for _ in range(256):
        f.write(bytes({MIB}))
written = container.use_bytes()
current = int(open(CURRENT).read())
held = mmap.mmap(-1, {HOLD}, flags=mmap.MAP_PRIVATE)
for at in range(0, {HOLD}, 4096):
    held[at] = 1
print(json.dumps([before, written, current, container.use_bytes()]))
"""


def test_use_leaves_out_the_page_cache_and_counts_anonymous_memory(make_pod: MakePod, tmp_path: Path) -> None:
    pod = make_pod(128 * MIB)
    names = f"FILE, CURRENT = {str(tmp_path / 'file')!r}, {str(pod.path / 'memory.current')!r}\n"
    before, written, current, held = python(pod.inside(), LOOK + names + WRITE)
    assert current > 100 * MIB, "the file filled the group: else this test shows nothing"
    assert abs(written - before) < NEAR, "page cache is no use"
    assert HOLD <= held - written < HOLD + NEAR


def test_use_counts_shared_memory(make_pod: MakePod) -> None:
    pod = make_pod(128 * MIB)
    script = f"""
before = container.use_bytes()
with open("/dev/shm/held", "wb") as f:
    f.write(bytes({HOLD}))
after = container.use_bytes()
os.unlink("/dev/shm/held")
print(json.dumps([before, after]))
"""
    before, after = python(pod.inside(), LOOK + script)
    assert HOLD <= after - before < HOLD + NEAR


FOUND = LOOK + "print(json.dumps([container.limit_bytes, container.source, container.use_bytes()]))"


def test_the_limit_of_an_ancestor_counts_with_all_that_is_in_it(make_pod: MakePod) -> None:
    outer = make_pod(128 * MIB)
    outer.write("cgroup.subtree_control", "+memory")
    inner = make_pod(256 * MIB, parent=outer.path)
    beside = make_pod(parent=outer.path)
    holder = f"held = b'x' * {HOLD}; print('held', flush=True); input()"
    neighbour = subprocess.Popen(
        beside.inside(sys.executable, "-c", holder), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with neighbour:
        try:
            assert neighbour.stdout is not None
            assert neighbour.stdout.readline() == b"held\n"
            limit, source, use = python(inner.inside(), FOUND)
        finally:
            neighbour.kill()
    assert limit == 128 * MIB
    assert f"memory.max of {outer.path}" in source
    assert use > HOLD, "the neighbour's memory is in the same container"


def test_in_a_namespace_the_own_limit_is_found(make_pod: MakePod) -> None:
    pod = make_pod(192 * MIB)
    limit, source, use = python(pod.inside(*CONTAINED), FOUND)
    assert limit == 192 * MIB
    assert "memory.max of /sys/fs/cgroup (cgroup v2)" in source
    assert 0 < use < 192 * MIB


def test_without_a_limit_it_is_the_memory_of_the_machine(make_pod: MakePod) -> None:
    limit, source, use = python(make_pod().inside(), FOUND)
    assert "MemTotal" in source
    assert 0 < use < limit


def test_the_counter_sees_a_kernel_kill_in_its_group_and_below(make_pod: MakePod) -> None:
    pod = make_pod(96 * MIB)
    script = """
import subprocess, sys
counter = cgroup.find_oom_counter()
before = counter.read()
bomb = subprocess.run([sys.executable, "-c", "open('/proc/self/oom_score_adj', 'w').write('1000'); b'x' * (1 << 28)"])
print(json.dumps([counter.name, before, counter.read(), bomb.returncode]))
"""
    name, before, after, code = python(pod.inside(), LOOK + script)
    assert str(pod.path / "memory.events") in name
    assert code == -9
    assert (before, after) == (0, 1)
    assert pod.number("memory.events", "oom_kill") == 1


def test_cores_follow_the_quota_of_an_ancestor(make_pod: MakePod) -> None:
    outer = make_pod()
    inner = make_pod(parent=outer.path)
    script = LOOK + "print(json.dumps(cgroup.cores()))"
    assert python(inner.inside(), script) == 2
    outer.write("cpu.max", "50000 100000")
    assert python(inner.inside(), script) == 1
    outer.write("cpu.max", "150000 100000")
    assert python(inner.inside(), script) == 2
