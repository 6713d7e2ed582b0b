"""What is measured of one child and of its run: the figures that the watch thread writes and control reads.

Owns the descriptors by which a child is measured, and how a process tree is read. Decides nothing. Two threads share
these objects without a lock: control sets `run` and `gone`, the watch writes the figures, freezes and closes, and
both may thaw; whoever needs a field twice reads it once.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field

from heavyq.core.memory import MIB, Held, Reprieve, Timeline
from heavyq.core.outcome import MemorySeen
from heavyq.linux import procfs
from heavyq.linux.clock import monotonic_s
from heavyq.linux.process import descendants_of, parent_of

_NAMED_MAX = 5
_ALIVE_GAP_S = 0.1
_LARGE_BYTES = 32 * MIB
_SHARED_ASKED_BYTES = 32 * MIB  # 20 to 60 us more: an interpreter and its libraries map less than this of files


@dataclass(slots=True)
class RunMeter:
    """One run as it is measured. Sizes in bytes; `charge_bytes` is the last, `peak_bytes` the largest seen.

    limit_bytes: its memory_limit. request_bytes: what its queue asked for. left_bytes: of its charge, what earlier jobs
    of the child have left. excuse: why it is not looked at closely although it seems over its limit. peak_rss_bytes:
    the tree's resident memory. sharing: how many runs that are not over are measured by it.
    """

    run: int
    began_s: float
    limit_bytes: int | None
    request_bytes: int | None
    left_bytes: int = 0
    charge_bytes: int = 0
    peak_bytes: int = 0
    peak_rss_bytes: int = 0
    excuse: Reprieve | None = None
    sharing: int = 1
    timeline: Timeline = field(default_factory=Timeline)

    def take(self, now_s: float, charge_bytes: int, rss_bytes: int) -> None:
        """Note a sample of the run's process tree."""
        self.charge_bytes = charge_bytes
        self.peak_bytes = max(self.peak_bytes, charge_bytes)
        self.peak_rss_bytes = max(self.peak_rss_bytes, rss_bytes)
        self.timeline.add(now_s - self.began_s, charge_bytes)

    def seen(self, processes: tuple[tuple[str, int], ...] = ()) -> MemorySeen:
        """Return what is known, as evidence."""
        return MemorySeen(self.charge_bytes, self.peak_bytes, self.left_bytes, self.request_bytes, processes)


class ChildMeter:
    """The measuring of one child: its pid, its own memory at birth, and the run that it has now."""

    def __init__(self, number: int, pid: int, pidfd: int, zygote_pid: int | None) -> None:
        """Open what is read. Raises OSError when no descriptor is left; a child that is dead reads as nothing."""
        self.number, self.pid, self.zygote_pid = number, pid, zygote_pid
        self._statm = procfs.StatmFile(pid)
        try:
            self._pidfd = os.dup(pidfd)  # control closes its own whenever it likes
        except OSError:
            self._statm.close()
            raise
        self.frozen_s: float | None = None  # since when it stands still, until control has decided
        self.run: RunMeter | None = None
        self.gone = False
        self.closed = False
        first = self._statm.read() or procfs.Statm(0, 0)
        self.birth_bytes = first.charge_bytes
        self.birth_rss_bytes = first.resident_bytes
        self._birth_shared_bytes = first.shared_bytes
        zygote = procfs.charge_bytes(zygote_pid) if zygote_pid else None
        below = sum(one.charge_bytes for _, one in _below(pid))
        self._birth_below_bytes = below  # what @child_start has started: no job's
        # What the child and its helpers have made before any job, beyond what they have from the zygote.
        self.born_bytes = max(0, first.charge_bytes - (zygote or 0)) + below
        self.alive_s = monotonic_s()  # when it was last seen alive
        self.held_bytes = 0  # after its last run: what is more by the end of the next is that one's

    def own_bytes(self) -> int:
        """Return what the child itself holds above its birth. 1 us."""
        now = self._statm.read()
        return now.charge_bytes - self.birth_bytes if now else 0

    def idle_bytes(self) -> int:
        """Return what would be free if the child, which has no job, ended."""
        return max(0, self.own_bytes()) + self.born_bytes

    def lost_bytes(self) -> int:
        """Return what its run once held and the child, which lives, does not now: a process below it may be gone."""
        run, now = self.run, self._statm.read()
        return max(0, run.peak_bytes - (now.charge_bytes - self.birth_bytes)) if run and now else 0

    def tree(self) -> tuple[int, int]:
        """Return the charge above birth and the resident memory of the child and of all below it.

        13 us for a child alone and 10 more for each process below it; 160 and 5 with cold caches, every 25 ms.
        """
        own = self._statm.read()
        if own is None:
            return 0, 0
        now_s = monotonic_s()
        if now_s - self.alive_s >= _ALIVE_GAP_S and not procfs.is_dying(self.pid):
            self.alive_s = now_s
        charge = own.charge_bytes - self.birth_bytes - self._birth_below_bytes
        charge += _shared_memory(self.pid, own.shared_bytes - self._birth_shared_bytes)
        rss = own.resident_bytes
        for pid, one in _below(self.pid):
            charge += one.charge_bytes + _shared_memory(pid, one.shared_bytes)
            rss += one.resident_bytes
        return max(0, charge), rss

    def freeze(self) -> None:
        """Stop the child itself where it is, while it is judged; what stands below it goes on."""
        self.frozen_s = monotonic_s()
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.frozen_s = None
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGCONT)

    def close(self) -> None:
        """Close the descriptors. By the watch only, once `gone` is set."""
        self._statm.close()
        os.close(self._pidfd)
        self.closed = True

    # ---- the exact reading: slow, and it holds the target's memory lock

    def held(self) -> tuple[Held | None, list[Held]]:
        """Return what the child (None: gone) and each process below it hold. 14 ms per GB: never on the loop."""
        below = [held for pid, _ in _below(self.pid) if (held := _held(pid)) is not None]
        return _held(self.pid), below

    def lent_bytes(self) -> int:
        """Return how much of the zygote's memory others bear; all that the child was born with if it cannot be read."""
        zygote = procfs.rollup(self.zygote_pid) if self.zygote_pid else None
        if zygote is None:
            return self.birth_bytes
        return zygote.anon_bytes + zygote.shmem_bytes - zygote.pss_anon_bytes - zygote.pss_shmem_bytes

    def processes(self) -> tuple[tuple[str, int], ...]:
        """Name the processes of the tree that hold most, largest first."""
        found = []
        for pid in (self.pid, *(pid for pid, _ in _below(self.pid))):
            one = procfs.rss_split(pid)
            if one is not None:
                birth = self.birth_bytes if pid == self.pid else 0
                name = "child" if pid == self.pid else procfs.comm(pid)
                found.append((name, max(0, one.anon_bytes + one.shmem_bytes - birth)))
        return tuple(sorted(found, key=lambda one: -one[1])[:_NAMED_MAX])


def _below(root: int) -> Iterator[tuple[int, procfs.Statm]]:
    """Yield what stands below a process, with what each holds.

    Left out is who has no memory of its own: a child of vfork (`subprocess` makes one) is its parent's address space
    until its exec, and would double the job.
    """
    for pid in descendants_of(root):
        one = procfs.statm(pid)
        if one is not None and one.charge_bytes >= _LARGE_BYTES:
            parent = parent_of(pid)
            if parent is not None and procfs.shares_memory(pid, parent):
                continue
            one = procfs.statm(pid)  # once apart they stay apart: only what is read now is sure to be its own
        if one is not None:
            yield pid, one


def _shared_memory(pid: int, shared_bytes: int) -> int:
    """Return how much of a process's shared pages are shared memory, and not a file's; asked only if there are many."""
    if shared_bytes < _SHARED_ASKED_BYTES:
        return 0
    split = procfs.rss_split(pid)
    return split.shmem_bytes if split else 0


def _held(pid: int) -> Held | None:
    exact = procfs.rollup(pid)
    if exact is not None:
        pss = exact.pss_anon_bytes + exact.pss_shmem_bytes
        return Held(exact.anon_bytes, pss, exact.lazy_free_bytes, exact.shmem_bytes)
    quick = procfs.statm(pid)  # another user's: what the quick meter says is all that can be known
    return Held(quick.charge_bytes, quick.charge_bytes, 0) if quick else None
