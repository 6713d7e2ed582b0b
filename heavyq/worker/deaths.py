"""Why a child died: its exit status, who killed it, and whether the kernel's counter shows that it did.

Owns the dead that were reaped and cannot be told of yet, and the rule by which a rise of the counter is credited. Kills
nothing and settles nothing: the crew reaps and asks, control is told.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from heavyq.core.outcome import Failure, OomKill, exited, killed_by_signal, oom_killed
from heavyq.linux import procfs
from heavyq.linux.clock import monotonic_s
from heavyq.worker.oom import OomRises
from heavyq.worker.process import ChildProcess

_DYING_S = 2.0  # a process that dies gives back gigabytes within this


@dataclass(frozen=True, slots=True)
class Death:
    """A child's end. cpu_s: of its whole life, None: not known. max_rss_bytes: its peak since its last job began."""

    failure: Failure
    cpu_s: float | None = None
    max_rss_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """A child that was reaped. code: as of `waitstatus_to_exitcode`. killed_by_us: why, if we did it, and first."""

    child: ChildProcess
    code: int
    cpu_s: float | None
    max_rss_bytes: int
    at_s: float
    killed_by_us: str | None

    @property
    def killed(self) -> bool:
        """True for a SIGKILL that we did not send, or not first."""
        return self.code == -signal.SIGKILL and not self.killed_by_us

    @property
    def grown_bytes(self) -> int:
        """What was resident beyond what it was born with."""
        return self.max_rss_bytes - self.child.meter.birth_rss_bytes if self.child.meter else 0


def reap(child: ChildProcess) -> Ended | None:
    """Reap a child that is dead and has fallen to us; None if it is not, or has not."""
    assert child.pid is not None
    cpu_s = procfs.cpu_s(child.pid)
    try:
        pid, status, used = os.wait4(child.pid, os.WNOHANG)
    except ChildProcessError:  # dead before it fell to us: its middle process is about to end
        return None
    if pid == 0:
        return None
    code, rss = os.waitstatus_to_exitcode(status), used.ru_maxrss * 1024
    return Ended(child, code, cpu_s, rss, monotonic_s(), child.killed_by_us if child.kill_came_first else None)


class Deaths:
    """Those whose cause has to be found."""

    def __init__(self, rises: OomRises) -> None:
        self._rises = rises
        self._ended: list[Ended] = []

    def add(self, *ended: Ended) -> None:
        """Take the dead."""
        self._ended += ended

    @property
    def in_question(self) -> bool:
        """True if the kernel may have killed one of these."""
        return any(one.killed for one in self._ended) and self._rises.any_fresh(monotonic_s())

    def judge(self, living: Sequence[ChildProcess]) -> Iterable[tuple[ChildProcess, Death]]:
        """Return the dead and why they died; nothing while that must wait. living: all that are not reaped.

        One kill by the kernel and one by somebody else may meet here. The kernel takes the largest; so whoever is dying
        at this moment is waited for: it gives its memory back, and cannot be compared before it is reaped.
        """
        if not self._ended:
            return []
        soon = monotonic_s() - self._ended[0].at_s < _DYING_S
        if soon and self.in_question and any(child.pid and procfs.is_dying(child.pid) for child in living):
            return []
        dead, self._ended = sorted(self._ended, key=lambda one: one.grown_bytes, reverse=True), []
        return [(one.child, Death(self._cause(one, living), one.cpu_s, one.max_rss_bytes)) for one in dead]

    def _cause(self, one: Ended, living: Sequence[ChildProcess]) -> Failure:
        if one.killed and (kernel := self._kernel_kill(one, living)) is not None:
            return oom_killed(kernel)
        if one.killed_by_us and one.code == -signal.SIGKILL:
            return Failure("exit", f"heavyq killed the child: {one.killed_by_us}")
        if one.code < 0:
            known = set(signal.Signals)
            return killed_by_signal(-one.code, signal.Signals(-one.code).name if -one.code in known else str(-one.code))
        return exited(one.code)

    def _kernel_kill(self, ended: Ended, living: Sequence[ChildProcess]) -> OomKill | None:
        """Return the counter that shows that the kernel killed this child for want of memory, None if none does.

        In a group of its own every kill is its own. A shared counter tells of one kill, not of whom. The kernel takes
        the largest, so a child that was far smaller than what is gone from below one that lives was not meant. It
        counts no kill of what has a SIGKILL already, so those that we killed have no part in it.
        """
        child = ended.child
        if child.group is not None:
            now, before = child.group.oom_kills(), child.group_kills
            return OomKill(f"oom_kill of {child.group.path}", before, now, own=True) if now > before else None
        gone = max((other.meter.lost_bytes() for other in living if other.meter is not None), default=0)
        if ended.grown_bytes * 2 < gone:
            return None
        return self._rises.take(monotonic_s(), child.meter.alive_s if child.meter else 0.0)
