"""The control groups that this process lives in: the container's memory, its kernel kills, its share of the cores.

Reads only. The group of a process is found through /proc/self (`cgroup` names it, `mountinfo` says where it can be
seen), on cgroup v2 and v1; everything that is not visible from here counts as no limit. Found once at start, before
the supervisor moves into a group of its own (`linux.groups`); read again and again through kept descriptors.

`proc` is where /proc is mounted; tests lay out other machines in a folder.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from heavyq.linux import procfs

_READ_BYTES = 1 << 14  # memory.stat has 1 to 4 KiB; a seq file gives all of it in one read
_OCTAL = re.compile(r"\\([0-7]{3})")

# What the kernel cannot take back from a group without swap or a kill. Never page cache, nor the slabs that keep names
# of files: reading and writing files fills these up to the limit, and any transcode does so.
_HELD_V2 = re.compile(
    rb"^(?:anon|shmem|kernel_stack|pagetables|sec_pagetables|percpu|sock|vmalloc|slab_unreclaimable) (\d+)$",
    re.MULTILINE,
)
_HELD_V1 = re.compile(rb"^total_(?:rss|shmem) (\d+)$", re.MULTILINE)  # v1 does not tell its kernel memory
_OOM_KILL = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)
_HIERARCHICAL_LIMIT = re.compile(rb"^hierarchical_memory_limit (\d+)$", re.MULTILINE)
_MEMINFO = re.compile(rb"^(?:MemTotal|MemAvailable): *(\d+) kB$", re.MULTILINE)


# ---- where we are -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process stands in the hierarchy of one controller: its own group's folder, and the topmost visible."""

    v2: bool
    own: str
    top: str

    def upwards(self) -> Iterator[str]:
        """Own group first, then its visible ancestors."""
        folder = self.own
        yield folder
        while folder != self.top and len(folder) > len(self.top):
            folder = os.path.dirname(folder)
            yield folder


def find_place(controller: str, proc: str = "/proc") -> Place | None:
    """Return where this process stands for a controller ("memory", "cpu"); None when no such group is visible."""
    v2_path, v1_path = None, None
    for line in _lines(f"{proc}/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            v2_path = path
        elif controller in controllers.split(","):
            v1_path = path
    if v1_path is not None:  # then the controller is not to be had on v2, whatever is mounted
        return _place(False, v1_path, proc, lambda kind, options: kind == "cgroup" and controller in options)
    if v2_path is not None:
        return _place(True, v2_path, proc, lambda kind, _: kind == "cgroup2")
    return None


def _place(v2: bool, path: str, proc: str, wanted: Callable[[str, list[str]], bool]) -> Place | None:
    """Find a group's folder below the mounts of its hierarchy; the mount itself where only that can be seen."""
    tops = [
        (root, top)
        for root, top, kind, options in _mounts(proc)
        if wanted(kind, options)  # in a container the mount shows a part of the tree only: `root` and below
    ]
    for root, top in tops:
        if path == root or path.startswith(root.rstrip("/") + "/"):
            folder = (top + "/" + path[len(root) :].lstrip("/")).rstrip("/")
            if os.path.isdir(folder):
                return Place(v2, folder, top)
    return Place(v2, tops[0][1], tops[0][1]) if tops else None


def _mounts(proc: str) -> Iterator[tuple[str, str, str, list[str]]]:
    for line in _lines(f"{proc}/self/mountinfo"):
        before, _, after = line.partition(" - ")
        root, top = (_OCTAL.sub(lambda m: chr(int(m[1], 8)), part) for part in before.split(" ")[3:5])
        kind, _, options = after.split(" ", 2)
        yield root, top, kind, options.split(",")


# ---- memory -----------------------------------------------------------------------------------------------


class Container:
    """The memory that we and our neighbours in the container may have, and what is taken of it.

    source: where the limit comes from, for people.
    """

    __slots__ = ("_fd", "_held", "limit_bytes", "source")

    def __init__(self, limit_bytes: int, source: str, path: str, held: Callable[[bytes], int | None]) -> None:
        """Keep `path` open; `held` takes the bytes in use from its text."""
        self.limit_bytes = limit_bytes
        self.source = source
        self._fd = _open(path)
        self._held = held

    def use_bytes(self) -> int | None:
        """Return what the kernel could not take back: anonymous and shared memory, and its own; None if unknown.

        12 us from v1's memory.stat, 20 us from meminfo; v2 first collects its counters from every core.
        """
        text = _pread(self._fd)
        return self._held(text) if text else None

    def close(self) -> None:
        """Close the descriptor; may be called twice."""
        self._fd = _close(self._fd)


def find_container(proc: str = "/proc") -> Container:
    """Return the smallest limit on this process, of its own group or an ancestor, else the machine's memory."""
    total = procfs.mem_total_bytes(proc)
    place = find_place("memory", proc)
    found = _smallest_limit(place) if place else None
    if place is None or found is None or found[0] >= total:
        return Container(total, "the machine's memory (MemTotal): no smaller limit is set", f"{proc}/meminfo", _in_use)
    limit, folder = found
    source = f"memory.max of {folder} (cgroup v2)" if place.v2 else f"memory.limit_in_bytes of {folder} (cgroup v1)"
    return Container(limit, source, f"{folder}/memory.stat", _sum_of(_HELD_V2 if place.v2 else _HELD_V1))


def _smallest_limit(place: Place) -> tuple[int, str] | None:
    """Return the smallest limit and the folder that has it; the outermost of equal ones, for it holds the most."""
    name = "memory.max" if place.v2 else "memory.limit_in_bytes"
    limits = [(limit, folder) for folder in place.upwards() if (limit := _number(f"{folder}/{name}")) is not None]
    smallest = min(reversed(limits), key=lambda found: found[0], default=None)
    if not place.v2:
        told = _first(_HIERARCHICAL_LIMIT, _text(f"{place.own}/memory.stat"))
        if told is not None:  # knows the ancestors that we cannot see, and those that do not count (use_hierarchy 0)
            return told, next((folder for limit, folder in reversed(limits) if limit == told), place.top)
    return smallest


def _sum_of(pattern: re.Pattern[bytes]) -> Callable[[bytes], int | None]:
    return lambda text: sum(map(int, pattern.findall(text)))


def _in_use(meminfo: bytes) -> int | None:
    found = _MEMINFO.findall(meminfo)
    return (int(found[0]) - int(found[1])) * 1024 if len(found) == 2 else None  # noqa: PLR2004 - total, available


class OomCounter:
    """A number that the kernel raises by one for each process that it kills for memory.

    name: which number it is, for people and for the evidence of a death.
    """

    __slots__ = ("_fd", "name")

    def __init__(self, path: str) -> None:
        """Keep the file open."""
        self.name = f"oom_kill of {path}"
        self._fd = _open(path)

    def read(self) -> int | None:
        """Return the count of kernel kills so far; None if it cannot be read. 2 us; the machine's 35."""
        return _first(_OOM_KILL, _pread(self._fd))

    def close(self) -> None:
        """Close the descriptor; may be called twice."""
        self._fd = _close(self._fd)


def find_oom_counter(proc: str = "/proc") -> OomCounter:
    """Return the nearest counter that sees kernel kills in the group that we are in *now*, else the machine's.

    Call it before `Groups.open`, which moves us. v2 counts a group and all below it; v1 the victim's own group only.
    """
    place = find_place("memory", proc)
    if place is not None:
        name = "memory.events" if place.v2 else "memory.oom_control"
        for folder in place.upwards():  # the controller may be off in our own group: then an ancestor's holds us
            if _OOM_KILL.search(_text(f"{folder}/{name}")):
                return OomCounter(f"{folder}/{name}")
    return OomCounter(f"{proc}/vmstat")


# ---- cores ------------------------------------------------------------------------------------------------


def cores(proc: str = "/proc") -> int:
    """Return how many cores we may keep busy: those we may run on, and the quota of our groups, rounded up."""
    place = find_place("cpu", proc)
    quotas = (_quota(folder, v2=place.v2) for folder in place.upwards()) if place else ()
    allowed = [len(os.sched_getaffinity(0)), *(math.ceil(quota) for quota in quotas if quota)]
    return max(1, min(allowed))


def _quota(folder: str, *, v2: bool) -> float | None:
    """Return the cores' worth of time that a group may use; None when it is not limited."""
    if v2:
        first, _, second = _text(f"{folder}/cpu.max").partition(b" ")
        quota, period = _as_number(first), _as_number(second)
    else:
        quota, period = _number(f"{folder}/cpu.cfs_quota_us"), _number(f"{folder}/cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None


# ---- reading files ----------------------------------------------------------------------------------------


def _lines(path: str) -> list[str]:
    return os.fsdecode(_text(path)).splitlines()


def _text(path: str) -> bytes:
    """Return a file's bytes; none when it cannot be read: a file that is missing is a limit that is not set."""
    with contextlib.suppress(OSError), open(path, "rb") as f:
        return f.read()
    return b""


def _number(path: str) -> int | None:
    return _as_number(_text(path))


def _as_number(text: bytes) -> int | None:
    """Return a number; None for "max", which is no limit, and for nothing."""
    try:
        return int(text)
    except ValueError:
        return None


def _first(pattern: re.Pattern[bytes], text: bytes) -> int | None:
    found = pattern.search(text)
    return int(found[1]) if found else None


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError:
        return -1


def _pread(fd: int) -> bytes:
    """Return a kept file's text of now; nothing when its group is gone."""
    if fd < 0:
        return b""
    try:
        return os.pread(fd, _READ_BYTES, 0)
    except OSError:
        return b""


def _close(fd: int) -> int:
    if fd >= 0:
        os.close(fd)
    return -1
