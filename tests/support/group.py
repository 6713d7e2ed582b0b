"""A real control group with a memory limit, to run things in: what a container is to the kernel.

Owns the group and everything that is started in it: at the end both are gone. Made below our own group (v1), or below
the nearest group that can give its children memory limits (v2). Reads the kernel's files itself, not through heavyq.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

_CGROUPS = Path("/sys/fs/cgroup")
_made = itertools.count(1)
# The shell enters and becomes the program: same pid, same parent, nothing of the shell left.
_ENTER = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """One group with a memory limit. v2: which kind it is. limit: in bytes."""

    path: Path
    limit: int
    v2: bool

    @property
    def prefix_argv(self) -> list[str]:
        """What to put before a command so that it runs inside, from its first instruction on."""
        return ["sh", "-c", _ENTER, str(self.path)]

    def enter(self) -> None:
        """Move the calling process inside: for a `preexec_fn`, or a forked child."""
        fd = os.open(self.path / "cgroup.procs", os.O_WRONLY)
        os.write(fd, b"0")
        os.close(fd)

    def oom_kills(self) -> int:
        """How many processes of this group (v2: and below) the kernel has killed for memory."""
        return self._field("memory.events" if self.v2 else "memory.oom_control", "oom_kill")

    def held_bytes(self) -> int:
        """Anonymous and shared memory of the group and below: what the limit is about in the end."""
        names = ("anon", "shmem") if self.v2 else ("total_rss", "total_shmem")
        return sum(self._field("memory.stat", name) for name in names)

    def cache_bytes(self) -> int:
        """Page cache charged to the group and below."""
        return self._field("memory.stat", "file" if self.v2 else "total_cache")

    def peak_bytes(self) -> int:
        """The most that was charged to the group, page cache included. v2: 0 before Linux 5.19."""
        file = self.path / ("memory.peak" if self.v2 else "memory.max_usage_in_bytes")
        return int(file.read_text()) if file.exists() else 0

    def pids(self) -> list[int]:
        """Everything that lives in the group and below."""
        found: list[int] = []
        for folder, _, _ in os.walk(self.path):
            with contextlib.suppress(OSError):
                found += map(int, (Path(folder) / "cgroup.procs").read_text().split())
        return found

    def _field(self, file: str, name: str) -> int:
        fields = dict(line.split() for line in (self.path / file).read_text().splitlines())
        return int(fields[name])


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[MemoryGroup]:
    """Make a group with this memory limit, without swap; skip the test where this machine does not let us."""
    try:
        group = _make(limit_bytes)
    except OSError as error:
        pytest.skip(f"no group with a memory limit can be made here: {error}")
    try:
        yield group
    finally:
        _remove(group)


def on_disk(*folders: Path) -> Path:
    """Return the first of these folders whose files are on a disk: those in a tmpfs are shared memory to the kernel."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    kinds = {fields[2]: fields[fields.index("-") + 1] for fields in mounts}
    for folder in folders:
        device = folder.stat().st_dev
        if kinds.get(f"{os.major(device)}:{os.minor(device)}") != "tmpfs" and os.access(folder, os.W_OK):
            return folder
    pytest.skip(f"none of {', '.join(map(str, folders))} can be written and is on a disk")


def _make(limit_bytes: int) -> MemoryGroup:
    parent, v2 = _parent()
    path = parent / f"heavyq-test-{os.getpid()}-{next(_made)}"
    path.mkdir()
    group = MemoryGroup(path, limit_bytes, v2)
    try:
        if v2:
            (path / "memory.max").write_text(str(limit_bytes))
            no_swap = {"memory.swap.max": 0}
        else:
            (path / "memory.limit_in_bytes").write_text(str(limit_bytes))
            no_swap = {"memory.swappiness": 0, "memory.memsw.limit_in_bytes": limit_bytes}
        for file, value in no_swap.items():
            with contextlib.suppress(OSError):  # a kernel without swap
                if (path / file).exists():
                    (path / file).write_text(str(value))
    except OSError:
        path.rmdir()
        raise
    return group


def _parent() -> tuple[Path, bool]:
    """Find the group to make ours in. Raises OSError."""
    groups = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    for controllers, path in groups.items():
        if "memory" in controllers.split(","):
            return _below(_CGROUPS / controllers, path), False
    own = _below(_CGROUPS, groups.get("", "/"))
    for folder in (own, *own.parents):  # a group with processes in it cannot limit its children: then their sibling
        with contextlib.suppress(OSError):
            switch = folder / "cgroup.subtree_control"
            if "memory" not in switch.read_text().split():
                switch.write_text("+memory")
            return folder, True
    raise PermissionError(f"no group at or above {own} can limit its children's memory")


def _below(top: Path, path: str) -> Path:
    """A group's folder; the top where the path is told as the host sees it."""
    folder = top / path.lstrip("/")
    return folder if folder.is_dir() else top


def _remove(group: MemoryGroup) -> None:
    def killed() -> bool:
        for pid in group.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not group.pids()

    def removed() -> bool:
        try:
            for folder, _, _ in os.walk(group.path, topdown=False):
                Path(folder).rmdir()
        except OSError as error:
            raise AssertionError(error) from None
        return not group.path.exists()

    eventually(killed, 10, "everything in the group is dead")
    eventually(removed, 10, "the group is removed")
