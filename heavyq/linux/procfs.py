"""Cheap readings of /proc: memory and CPU of one process. The control loop may call all of these.

Never reads PSS, `maps` or `cmdline`: they hold the target's memory lock, for 14 ms per GB.
"""

from __future__ import annotations

import os

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def charge_bytes(pid: int) -> int | None:
    """Resident minus shared memory of a process, in bytes; None when it is gone. 10 us."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as f:
            fields = f.read().split()
        return (int(fields[1]) - int(fields[2])) * _PAGE
    except (OSError, IndexError, ValueError):
        return None


def rss_bytes(pid: int) -> int | None:
    """Resident memory of a process, in bytes; None when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as f:
            return int(f.read().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return None


def cpu_s(pid: int) -> float | None:
    """User and system seconds of a process and of its reaped children; works on a zombie; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            after_name = f.read().rpartition(b")")[2].split()
        return sum(int(after_name[i]) for i in (11, 12, 13, 14)) / _TICKS_PER_S
    except (OSError, IndexError, ValueError):
        return None


def reset_peak() -> None:
    """Set this process's VmHWM back to its present size, so that a job's peak is its own."""
    try:
        with open("/proc/self/clear_refs", "wb", buffering=0) as f:
            f.write(b"5")
    except OSError:  # a kernel without it: the peak is then the child's, not the job's
        return


def peak_rss_bytes() -> int:
    """VmHWM of this process, in bytes; 0 where the kernel does not tell."""
    try:
        with open("/proc/self/status", "rb", buffering=0) as f:
            return int(f.read().partition(b"VmHWM:")[2].split(maxsplit=1)[0]) * 1024
    except (OSError, IndexError, ValueError):
        return 0
