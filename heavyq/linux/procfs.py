"""Readings of /proc: memory and CPU of one process, and the machine's memory.

The control loop may call all of these but `rollup`, which is for the watch thread: it holds the target's memory lock
while the kernel walks its pages, and the target cannot map memory meanwhile. Nothing here reads `maps` or `cmdline`,
nor changes another process. Costs are medians, measured on a busy machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from dataclasses import dataclass

_PAGE = os.sysconf("SC_PAGE_SIZE")
_PF_EXITING = 0x4
_SIGKILL_BIT = 1 << 8
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_STATM_BYTES = 128
_KCMP = {"x86_64": 312, "aarch64": 272, "riscv64": 272, "s390x": 343, "ppc64le": 354}.get(os.uname().machine)
_KCMP_VM = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Statm:
    """What a process holds: resident bytes, and those of them that are files' or shared memory."""

    resident_bytes: int
    shared_bytes: int

    @property
    def charge_bytes(self) -> int:
        """Resident minus shared: its anonymous memory, copy-on-write pages of its parent's included."""
        return self.resident_bytes - self.shared_bytes


class StatmFile:
    """`/proc/PID/statm`, kept open: 2 us a reading, whatever the size; and never of another process.

    The descriptor belongs to the process, not to its number: when the process is dead and its pid is taken by
    another, it reads nothing.
    """

    __slots__ = ("_fd",)

    def __init__(self, pid: int) -> None:
        """Open it; a process that is gone already reads as dead. Raises OSError when no descriptor is left."""
        self._fd = -1
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            self._fd = os.open(f"/proc/{pid}/statm", os.O_RDONLY)

    def read(self) -> Statm | None:
        """Return what the process holds now; None when it is dead, a zombie too."""
        if self._fd < 0:
            return None
        try:
            fields = os.pread(self._fd, _STATM_BYTES, 0).split(None, 3)
            resident, shared = int(fields[1]), int(fields[2])
        except (OSError, IndexError, ValueError):
            return None
        if not resident and fields[0] == b"0":  # a zombie: it has no memory any more
            return None
        return Statm(resident * _PAGE, shared * _PAGE)

    def close(self) -> None:
        """Close the descriptor; may be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def statm(pid: int) -> Statm | None:
    """Return what a process holds, read once; None when it is dead. 10 us."""
    try:
        file = StatmFile(pid)
    except OSError:  # no descriptor is left
        return None
    found = file.read()
    file.close()
    return found


def shares_memory(pid: int, other: int) -> bool:
    """Tell whether two processes are one address space: whoever sums up must count it once. 1 us.

    So is a child of vfork or posix_spawn (subprocess uses them) until its exec, and it reads as large as its parent.
    Ask first and measure then: once apart they stay apart. Where kcmp is not allowed (some containers) a fresh child
    of a plain fork counts as one, too, until either writes; all that it maps is its parent's then. 20 us.
    """
    if _KCMP is not None:
        answer = _libc.syscall(_KCMP, pid, other, _KCMP_VM, 0, 0)
        if answer >= 0:
            return bool(answer == 0)
        if ctypes.get_errno() == errno.ESRCH:
            return False
    try:
        with open(f"/proc/{pid}/statm", "rb") as one, open(f"/proc/{other}/statm", "rb") as two:
            text = one.read()
            return text == two.read() and not text.startswith(b"0 ")  # two zombies share nothing
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class RssSplit:
    """Resident memory by kind; unlike `statm`'s, the shared part is split into files' and shared memory."""

    anon_bytes: int
    file_bytes: int
    shmem_bytes: int


@dataclass(frozen=True, slots=True)
class Rollup:
    """The sum over all mappings of a process. pss: each page divided by the number of processes that map it.

    anon_bytes: the pages of no file that it maps, shared with its relatives since a fork or not.
    lazy_free_bytes: those of them that it gave back (MADV_FREE), and that the kernel takes when it needs them.
    """

    rss_bytes: int
    anon_bytes: int
    pss_anon_bytes: int
    pss_shmem_bytes: int
    shmem_bytes: int
    lazy_free_bytes: int


def rss_split(pid: int) -> RssSplit | None:
    """Return a process's resident memory by kind; None when it is dead. 20 to 60 us, whatever the size."""
    anon, file, shmem = _kb_lines(f"/proc/{pid}/status", b"RssAnon", b"RssFile", b"RssShmem")
    return None if anon is None else RssSplit(anon, file or 0, shmem or 0)  # None: a zombie too


def rollup(pid: int) -> Rollup | None:
    """Return the sums over a process's mappings; None when it is dead, or not ours to look into (another user's).

    0.8 ms at 100 MB, 14 to 23 ms at 1 GB of small pages.
    """
    names = (b"Rss", b"Anonymous", b"Pss_Anon", b"Pss_Shmem", b"LazyFree")
    rss, anon, pss_anon, pss_shmem, lazy_free = _kb_lines(f"/proc/{pid}/smaps_rollup", *names)
    split = rss_split(pid)
    if rss is None or split is None:
        return None
    return Rollup(
        rss_bytes=rss,
        anon_bytes=anon or 0,
        pss_anon_bytes=pss_anon or 0,
        pss_shmem_bytes=pss_shmem or 0,
        shmem_bytes=split.shmem_bytes,
        lazy_free_bytes=lazy_free or 0,
    )


def _kb_lines(path: str, *names: bytes) -> list[int | None]:
    """Return the lines `Name:  123 kB` of a file, in bytes; None for one that is not there."""
    try:
        with open(path, "rb", buffering=0) as f:
            text = b"\n" + f.read()
    except OSError:
        return [None] * len(names)
    return [_kb_line(text, name) for name in names]


def _kb_line(text: bytes, name: bytes) -> int | None:
    _, found, rest = text.partition(b"\n" + name + b":")  # a tenth of what a regex over all lines takes
    return int(rest.split(maxsplit=1)[0]) * 1024 if found else None


def charge_bytes(pid: int) -> int | None:
    """Resident minus shared memory of a process, in bytes; None when it is gone. 10 us."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as f:
            fields = f.read().split()
        return (int(fields[1]) - int(fields[2])) * _PAGE
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


def is_dying(pid: int) -> bool:
    """Tell whether a process is dead, on its way out, or has a SIGKILL that it cannot but follow. 30 us."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            after_name = f.read().rpartition(b")")[2].split()
        if after_name[0] in b"ZX" or int(after_name[6]) & _PF_EXITING:
            return True
        with open(f"/proc/{pid}/status", "rb") as f:
            pending = [int(line.split()[1], 16) for line in f if line.startswith((b"SigPnd:", b"ShdPnd:"))]
        return any(mask & _SIGKILL_BIT for mask in pending)
    except (OSError, IndexError, ValueError):
        return True


def comm(pid: int) -> str:
    """Return the name of a process as the kernel knows it (at most 15 bytes); empty when it is gone."""
    try:
        with open(f"/proc/{pid}/comm", "rb", buffering=0) as f:
            return f.read().rstrip(b"\n").decode(errors="replace")
    except OSError:
        return ""


def mem_total_bytes(proc: str = "/proc") -> int:
    """Return the memory of this machine."""
    total = _kb_lines(f"{proc}/meminfo", b"MemTotal")[0]
    assert total, "a /proc without MemTotal"
    return total


# ---- of the calling process -------------------------------------------------------------------------------


def reset_peak() -> None:
    """Set this process's VmHWM back to its present size, so that a job's peak is its own."""
    try:
        with open("/proc/self/clear_refs", "wb", buffering=0) as f:
            f.write(b"5")
    except OSError:  # a kernel without it: the peak is then the child's, not the job's
        pass


def peak_rss_bytes() -> int:
    """Peak resident memory of this process since `reset_peak`, in bytes; 0 if the kernel does not tell."""
    return _kb_lines("/proc/self/status", b"VmHWM")[0] or 0


def peak_and_anon_bytes() -> tuple[int, int]:
    """Peak resident memory since `reset_peak`, and anonymous memory now, of this process; 0 if not told. 10 us."""
    peak, anon = _kb_lines("/proc/self/status", b"VmHWM", b"RssAnon")
    return peak or 0, anon or 0


def data_bytes() -> int:
    """Return this process's VmData: the private writable memory that RLIMIT_DATA counts, touched or not."""
    return _kb_lines("/proc/self/status", b"VmData")[0] or 0
