"""A cgroup of its own for each child (v2): an exact memory limit, an exact count of kernel kills, a kill of all in it.

    <own>                   the container's or the unit's group; holds no process itself while its children have limits
     ├─ <name>-worker       guard, supervisor, zygote: moved here by `Groups.open`
     └─ <child's name>      one child and all it starts; it enters by itself at birth (`enter`)

Owns these folders. Moves no process but those it is told to, and undoes everything when it cannot be had: most
containers mount their cgroups read-only, and the worker then does without. v1 is left alone: its groups have no
atomic kill, and whoever may make them there is root on the host.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass

from heavyq.linux import cgroup, procfs

_NAMED_STRANGERS = 3


class Groups:
    """The power to make groups for children, found at start. Made by `open`, only on cgroup v2."""

    def __init__(self, own: str, leaf: str, *, enabled: bool) -> None:
        self.own = own
        self._leaf = leaf
        self._enabled = enabled  # by us: an earlier owner's +memory is not ours to take back

    @classmethod
    def open(cls, pids: Iterable[int], name: str, *, proc: str = "/proc") -> Groups | str:
        """Move these processes to a leaf below our own group and make sure that groups can be made beside it.

        pids: every process in our own group; name: one that no other worker uses.
        Returns one line that says why not, with everything undone, where that cannot be.
        """
        place = cgroup.find_place("memory", proc)
        if place is None:
            return "no cgroup with a memory controller is visible"
        if not place.v2:
            return "the memory controller is on cgroup v1"
        own = place.own
        if "memory" not in _words(f"{own}/cgroup.controllers"):
            return f"the memory controller is not delegated to {own}"
        groups = cls(own, f"{own}/{name}-worker", enabled="memory" not in _words(f"{own}/cgroup.subtree_control"))
        try:
            groups._take(list(pids))
        except OSError as error:
            why = groups._why(error)
            groups.close()
            return why
        return groups

    def _take(self, pids: list[int]) -> None:
        with contextlib.suppress(FileExistsError):  # left by an earlier worker of this name
            os.mkdir(self._leaf)
        for pid in pids:
            _write(f"{self._leaf}/cgroup.procs", pid)
        _write(f"{self.own}/cgroup.subtree_control", "+memory")
        probe = self.make(f"{os.path.basename(self._leaf)}-probe")
        try:
            probe.set_limit(None)
        finally:
            probe.remove()

    def _why(self, error: OSError) -> str:
        strangers = _words(f"{self.own}/cgroup.procs")
        if error.errno == errno.EBUSY and strangers:
            names = ", ".join(f"{procfs.comm(int(pid))} ({pid})" for pid in strangers[:_NAMED_STRANGERS])
            return f"{self.own} holds other processes: {names}"
        return f"{error.filename or self.own}: {error.strerror}"

    def make(self, name: str) -> Group:
        """Make a group for one child, without a limit yet. Raises OSError."""
        path = f"{self.own}/{name}"
        os.mkdir(path)
        group = Group(path)
        try:
            # One kernel kill takes all of the job, and never half of it. Without swap, lest a job at its limit crawls.
            for file, value in (("memory.oom.group", 1), ("memory.swap.max", 0)):
                with contextlib.suppress(FileNotFoundError):  # Linux 4.19; a kernel without swap
                    _write(f"{path}/{file}", value)
        except OSError:
            group.remove()
            raise
        return group

    def close(self) -> None:
        """Take back what `open` did, as far as it goes: the groups of children must be removed first."""
        if self._enabled:
            with contextlib.suppress(OSError):  # first: a group with controllers on for its children takes no process
                _write(f"{self.own}/cgroup.subtree_control", "-memory")
        for pid in _words(f"{self._leaf}/cgroup.procs"):
            with contextlib.suppress(OSError):
                _write(f"{self.own}/cgroup.procs", pid)
        with contextlib.suppress(OSError):
            os.rmdir(self._leaf)


@dataclass(frozen=True, slots=True)
class Group:
    """The group of one child. path: its folder, for `enter`."""

    path: str

    def set_limit(self, limit_bytes: int | None) -> None:
        """Set what the group may use, page cache included (the kernel takes that back first); None: no limit.

        A group that holds more already is squeezed at once, and killed if that does not do. Raises OSError.
        """
        _write(f"{self.path}/memory.max", "max" if limit_bytes is None else limit_bytes)

    def oom_kills(self) -> int:
        """Return how many processes in the group and below it the kernel killed for memory; 0 if it is gone."""
        return self._event("oom_kill")

    def limit_hits(self) -> int:
        """Return how often the group's own limit, not that of a group above it, left the kernel nothing but a kill."""
        return self._event("oom")

    def _event(self, name: str) -> int:
        words = _words(f"{self.path}/memory.events")
        return int(words[words.index(name) + 1]) if name in words else 0

    def kill(self) -> None:
        """SIGKILL everything in the group and below it, processes that are being forked too. Raises OSError."""
        try:
            _write(f"{self.path}/cgroup.kill", 1)
        except FileNotFoundError:  # before Linux 5.14; or the group is gone, and nothing is in it
            for folder, _, _ in os.walk(self.path):
                for pid in _words(f"{folder}/cgroup.procs"):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)

    def remove(self) -> bool:
        """Remove the group, and those that the job made below it; False while a process in it lives: try again."""
        try:
            for folder, _, _ in os.walk(self.path, topdown=False):
                os.rmdir(folder)
        except OSError:
            return not os.path.isdir(self.path)
        return True


def enter(path: str) -> None:
    """Move the calling process into a group. Raises OSError."""
    _write(f"{path}/cgroup.procs", 0)


def _words(path: str) -> list[str]:
    """Return the words of a small file; none when it cannot be read."""
    with contextlib.suppress(OSError), open(path, "rb") as f:
        return f.read().decode().split()
    return []


def _write(path: str, value: int | str) -> None:
    """Write a file of the kernel's in one call. Raises OSError with the file's name: the kernel's own has none."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, str(value).encode())
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)
