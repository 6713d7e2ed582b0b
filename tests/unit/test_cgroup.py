"""Where a process finds its limits, on machines of other kinds, laid out in a folder file by file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from heavyq.linux import cgroup
from heavyq.linux.groups import Groups

if TYPE_CHECKING:
    from collections.abc import Iterator

GIB = 1 << 30
MIB = 1 << 20
NO_LIMIT_V1 = 9223372036854771712

# memory.stat of a container that transcodes (v2); lines that could not be mistaken for others are left out.
STAT_V2 = """\
anon 104857600
file 943718400
kernel 30000000
kernel_stack 1000
pagetables 200
sec_pagetables 30
percpu 4000000
sock 50000000
vmalloc 600000
shmem 52428800
zswap 0
file_mapped 5000000
file_dirty 943718400
file_writeback 0
anon_thp 0
inactive_anon 9
active_anon 9
inactive_file 900000000
active_file 43718400
unevictable 0
slab_reclaimable 700000000
slab_unreclaimable 7000000
slab 707000000
workingset_refault_anon 0
pgfault 123
"""
HELD_V2 = 104857600 + 52428800 + 1000 + 200 + 30 + 4000000 + 50000000 + 600000 + 7000000
STAT_V1 = """\
cache 943718400
rss 1
shmem 1
mapped_file 5000000
hierarchical_memory_limit {limit}
total_cache 943718400
total_rss 104857600
total_rss_huge 0
total_shmem 52428800
total_mapped_file 5000000
"""
HELD_V1 = 104857600 + 52428800
EVENTS = "low 0\nhigh 0\nmax 12\noom 3\noom_kill {n}\noom_group_kill 0\n"
OOM_CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {n}\n"


class Machine:
    """A machine's /proc and cgroup file systems in a folder. proc: what the functions under test are told."""

    def __init__(self, folder: Path) -> None:
        self.proc = str(folder / "proc")
        self.cgroups = folder / "sys fs" / "cgroup"  # with a space, which mountinfo escapes
        self._write(Path(self.proc) / "meminfo", "MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: 6291456 kB\n")
        self._write(Path(self.proc) / "vmstat", "pgfault 9\noom_kill 7\n")
        self.mounts: list[str] = []
        self._opened: list[cgroup.Container | cgroup.OomCounter] = []

    def container(self) -> cgroup.Container:
        found = cgroup.find_container(self.proc)
        self._opened.append(found)
        return found

    def oom_counter(self) -> cgroup.OomCounter:
        found = cgroup.find_oom_counter(self.proc)
        self._opened.append(found)
        return found

    def close(self) -> None:
        for found in self._opened:
            found.close()

    def is_in(self, *lines: str) -> None:
        """The lines of /proc/self/cgroup."""
        self._write(Path(self.proc) / "self" / "cgroup", "".join(f"{line}\n" for line in lines))

    def mounted(self, name: str, kind: str, options: str = "rw", root: str = "/") -> None:
        """One more line of /proc/self/mountinfo: a hierarchy below `cgroups`."""
        at = str(self.cgroups / name if name else self.cgroups).replace(" ", "\\040")
        self.mounts.append(f"35 31 0:32 {root} {at} ro,nosuid shared:9 master:1 - {kind} cgroup {options}\n")
        self._write(Path(self.proc) / "self" / "mountinfo", "22 1 8:1 / / rw - ext4 /dev/a rw\n" + "".join(self.mounts))

    def group(self, path: str, **files: object) -> Path:
        """A group's folder; `memory_max=1` is its file memory.max."""
        folder = self.cgroups / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            self._write(folder / name.replace("_", ".", 1), f"{text}\n")
        return folder

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.close()


@pytest.fixture
def v2(machine: Machine) -> Machine:
    """A container of its own cgroup namespace."""
    machine.is_in("0::/")
    machine.mounted("", "cgroup2", "rw,nsdelegate")
    return machine


@pytest.fixture
def v1(machine: Machine) -> Machine:
    machine.is_in("5:cpu,cpuacct:/docker/ab", "4:memory:/docker/ab", "1:name=systemd:/docker/ab", "0::/system.slice")
    machine.mounted("cpu", "cgroup", "rw,cpu,cpuacct", root="/docker/ab")
    machine.mounted("memory", "cgroup", "rw,memory", root="/docker/ab")
    machine.mounted("unified", "cgroup2")
    return machine


# ---- the limit --------------------------------------------------------------------------------------------


def test_v2_container_in_its_own_namespace(v2: Machine) -> None:
    folder = v2.group("", memory_max=GIB, memory_stat=STAT_V2)
    found = v2.container()
    assert found.limit_bytes == GIB
    assert found.source == f"memory.max of {folder} (cgroup v2)"
    assert found.use_bytes() == HELD_V2, "page cache and reclaimable slabs are not held; kernel memory is"


def test_v2_limit_of_an_ancestor_is_smaller_and_its_use_counts(v2: Machine) -> None:
    v2.is_in("0::/kubepods.slice/pod1.slice/cri-a.scope")
    v2.group("")  # the root has no limit file
    v2.group("kubepods.slice", memory_max=4 * GIB, memory_stat="anon 9")
    pod = v2.group("kubepods.slice/pod1.slice", memory_max=GIB, memory_stat=STAT_V2)
    v2.group("kubepods.slice/pod1.slice/cri-a.scope", memory_max="max", memory_stat="anon 5")
    found = v2.container()
    assert (found.limit_bytes, found.use_bytes()) == (GIB, HELD_V2)
    assert str(pod) in found.source


def test_of_equal_limits_the_outer_group_is_watched_for_it_holds_the_neighbours_too(v2: Machine) -> None:
    v2.is_in("0::/pod/one")
    v2.group("pod", memory_max=GIB, memory_stat="anon 77")
    v2.group("pod/one", memory_max=GIB, memory_stat="anon 5")
    assert v2.container().use_bytes() == 77


def test_v1_container_whose_paths_are_the_hosts(v1: Machine) -> None:
    folder = v1.group("memory", memory_limit_in_bytes=GIB, memory_stat=STAT_V1.format(limit=GIB))
    found = v1.container()
    assert found.limit_bytes == GIB
    assert found.source == f"memory.limit_in_bytes of {folder} (cgroup v1)"
    assert found.use_bytes() == HELD_V1


def test_v1_limit_of_an_ancestor_that_cannot_be_seen(v1: Machine) -> None:
    folder = v1.group("memory", memory_limit_in_bytes=NO_LIMIT_V1, memory_stat=STAT_V1.format(limit=GIB))
    assert v1.container().limit_bytes == GIB
    assert str(folder) in v1.container().source


def test_v1_ancestors_limit_is_watched_there(v1: Machine) -> None:
    v1.is_in("4:memory:/docker/ab/inner")
    v1.group("memory", memory_limit_in_bytes=GIB, memory_stat=STAT_V1.format(limit=GIB))
    v1.group("memory/inner", memory_limit_in_bytes=2 * GIB, memory_stat=f"total_rss 3\nhierarchical_memory_limit {GIB}")
    found = v1.container()
    assert (found.limit_bytes, found.use_bytes()) == (GIB, HELD_V1)


def test_v1_kernel_that_does_not_tell_shmem_or_the_hierarchys_limit(v1: Machine) -> None:
    v1.group("memory", memory_limit_in_bytes=GIB, memory_stat="total_cache 5\ntotal_rss 42")
    found = v1.container()
    assert (found.limit_bytes, found.use_bytes()) == (GIB, 42)


def test_v1_path_that_is_not_below_the_mount_is_seen_at_the_mount(v1: Machine) -> None:
    v1.is_in("4:memory:/elsewhere/ab")
    v1.group("memory", memory_limit_in_bytes=GIB, memory_stat=STAT_V1.format(limit=GIB))
    assert v1.container().limit_bytes == GIB


def test_a_sibling_whose_name_begins_like_ours_is_not_us(v1: Machine) -> None:
    v1.is_in("4:memory:/docker/abc")
    v1.group("memory", memory_limit_in_bytes=2 * GIB)
    v1.group("memory/c", memory_limit_in_bytes=GIB)
    assert v1.container().limit_bytes == 2 * GIB


def test_memory_on_v1_is_believed_before_a_v2_tree_without_it(v1: Machine) -> None:
    v1.group("memory", memory_limit_in_bytes=GIB)
    v1.group("unified/system.slice", memory_max=5)
    assert v1.container().limit_bytes == GIB


@pytest.mark.parametrize("limit", ["max", 9 * GIB])
def test_no_limit_below_the_machines_memory_means_the_machine(v2: Machine, limit: object) -> None:
    v2.group("", memory_max=limit, memory_stat=STAT_V2)
    found = v2.container()
    assert (found.limit_bytes, found.use_bytes()) == (8 * GIB, 2 * GIB)
    assert "MemTotal" in found.source


def test_v1_number_for_no_limit_is_none(v1: Machine) -> None:
    v1.group("memory", memory_limit_in_bytes=NO_LIMIT_V1, memory_stat=STAT_V1.format(limit=NO_LIMIT_V1))
    assert v1.container().limit_bytes == 8 * GIB


def test_no_cgroups_at_all(machine: Machine) -> None:
    assert machine.container().limit_bytes == 8 * GIB
    assert machine.oom_counter().read() == 7
    assert cgroup.cores(machine.proc) == len(os.sched_getaffinity(0))


def test_a_controller_that_is_not_mounted_here(v1: Machine) -> None:
    v1.is_in("9:memory:/docker/ab")
    v1.mounts = []
    v1.mounted("unified", "cgroup2")
    assert v1.container().limit_bytes == 8 * GIB


def test_a_group_of_a_strange_name(v2: Machine) -> None:
    v2.is_in("0::/a:b c")
    v2.group("a:b c", memory_max=GIB)
    assert v2.container().limit_bytes == GIB


def test_use_follows_the_file_and_is_unknown_once_the_group_is_gone(v2: Machine) -> None:
    stat = v2.group("", memory_max=GIB, memory_stat="anon 5\nfile 9") / "memory.stat"
    found = v2.container()
    assert found.use_bytes() == 5
    stat.write_text("anon 6\nfile 9\nshmem 10\n")
    assert found.use_bytes() == 16
    stat.write_text("")
    assert found.use_bytes() is None
    found.close()
    found.close()
    assert found.use_bytes() is None


# ---- kernel kills -----------------------------------------------------------------------------------------


def test_v2_counter_of_the_own_group(v2: Machine) -> None:
    v2.is_in("0::/pod/one")
    v2.group("pod", memory_events=EVENTS.format(n=9))
    own = v2.group("pod/one", memory_events=EVENTS.format(n=2))
    found = v2.oom_counter()
    assert (found.name, found.read()) == (f"oom_kill of {own}/memory.events", 2)
    (own / "memory.events").write_text(EVENTS.format(n=3))
    assert found.read() == 3


def test_v2_group_without_the_controller_is_counted_in_its_ancestor(v2: Machine) -> None:
    v2.is_in("0::/pod/one")
    v2.group("pod", memory_events=EVENTS.format(n=9))
    v2.group("pod/one")
    assert v2.oom_counter().read() == 9


def test_v1_counter_of_the_own_group(v1: Machine) -> None:
    v1.group("memory", memory_oom_control=OOM_CONTROL.format(n=4))
    assert v1.oom_counter().read() == 4


def test_the_machines_counter_where_a_group_tells_none(v1: Machine) -> None:
    v1.group("memory", memory_oom_control="oom_kill_disable 0\nunder_oom 0")  # before Linux 4.13
    found = v1.oom_counter()
    assert (found.name, found.read()) == (f"oom_kill of {v1.proc}/vmstat", 7)


def test_no_counter_is_no_evidence(v2: Machine) -> None:
    (Path(v2.proc) / "vmstat").write_text("pgfault 9\n")
    v2.group("")
    assert v2.oom_counter().read() is None


# ---- cores ------------------------------------------------------------------------------------------------


@pytest.fixture
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


@pytest.mark.usefixtures("sixteen")
@pytest.mark.parametrize(
    ("quota", "wanted"),
    [("max 100000", 16), ("150000 100000", 2), ("50000 100000", 1), ("200000 100000", 2), ("9900000 100000", 16)],
)
def test_v2_quota_is_rounded_up(v2: Machine, quota: str, wanted: int) -> None:
    v2.group("", cpu_max=quota)
    assert cgroup.cores(v2.proc) == wanted


@pytest.mark.usefixtures("sixteen")
def test_v2_quota_of_an_ancestor_holds(v2: Machine) -> None:
    v2.is_in("0::/pod/one")
    v2.group("pod", cpu_max="300000 100000")
    v2.group("pod/one", cpu_max="max 100000")
    assert cgroup.cores(v2.proc) == 3


@pytest.mark.usefixtures("sixteen")
@pytest.mark.parametrize(("quota", "wanted"), [(-1, 16), (250000, 3), (1000, 1)])
def test_v1_quota_of_a_controller_that_shares_its_mount(v1: Machine, quota: int, wanted: int) -> None:
    v1.group("cpu", cpu_cfs_quota_us=quota, cpu_cfs_period_us=100000)
    assert cgroup.cores(v1.proc) == wanted


@pytest.mark.usefixtures("sixteen")
def test_cores_of_this_very_machine_are_no_more_than_we_may_run_on() -> None:
    assert 1 <= cgroup.cores() <= 16


# ---- groups: why not --------------------------------------------------------------------------------------


def test_no_groups_on_v1(v1: Machine) -> None:
    v1.group("memory")
    assert Groups.open([], "w", proc=v1.proc) == "the memory controller is on cgroup v1"


def test_no_groups_where_nothing_is_visible(machine: Machine) -> None:
    assert Groups.open([], "w", proc=machine.proc) == "no cgroup with a memory controller is visible"


def test_no_groups_where_memory_is_not_delegated(v2: Machine) -> None:
    own = v2.group("", cgroup_controllers="cpu pids")
    assert Groups.open([], "w", proc=v2.proc) == f"the memory controller is not delegated to {own}"


def test_what_was_made_before_a_refusal_is_undone(v2: Machine) -> None:
    own = v2.group("", cgroup_controllers="memory", cgroup_subtree_control="", cgroup_procs="")
    before = sorted(own.iterdir())
    why = Groups.open([os.getpid()], "w", proc=v2.proc)  # a plain folder: the new group has no files
    assert why == f"{own}/w-worker/cgroup.procs: No such file or directory"
    assert sorted(own.iterdir()) == before
