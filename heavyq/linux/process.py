"""The kernel's view of processes: parentage, parent-death signals, pidfds, killing by parentage.

Owns every prctl and every walk over /proc that concerns who is whose child. Never knows a process by a mark,
a name or an environment: those can be changed by the process itself. Light on purpose: the guard imports it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SIGSET_BYTES = 128
_SIGINFO_BYTES = 128
_libc = ctypes.CDLL(None, use_errno=True)
_every_signal = ctypes.create_string_buffer(_SIGSET_BYTES)
_libc.sigfillset(_every_signal)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"prctl({option}, {value}): {os.strerror(errno)}")


def become_subreaper() -> None:
    """Make orphaned descendants fall to this process. Not inherited by fork; kept through exec."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_subreaping() -> None:
    """Let orphaned descendants fall past this process again."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 0)


def die_with_parent(signum: int) -> None:
    """Ask for `signum` when the *thread* that forked us ends.

    Compare `getppid()` afterwards: the parent may be gone already.
    """
    _prctl(_PR_SET_PDEATHSIG, signum)


def children_of(pid: int) -> list[int]:
    """Return the direct children of a process, zombies included; empty when it is gone. 24 us."""
    found: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for task in tasks:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children", "rb", buffering=0) as f:
            found.extend(map(int, f.read().split()))
    return found


def descendants_of(pid: int) -> list[int]:
    """Return everything below a process, parents before their children. 0.1 ms a process."""
    found = children_of(pid)
    for child in found:  # grows while we walk: breadth first
        found.extend(children_of(child))
    return found


def parent_of(pid: int) -> int | None:
    """Return the pid of a process's parent; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            return int(f.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return None


def is_resource_tracker(pid: int) -> bool:
    """Tell whether this is multiprocessing's tracker, which empties /dev/shm once its users are dead.

    Reads `cmdline`, which can wait for the target's memory lock: never on the control loop.
    """
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as f:
        return b"multiprocessing.resource_tracker" in f.read()
    return False


def kill_pid(pid: int, signum: int = signal.SIGKILL) -> bool:
    """Signal a process that may be gone; False if we may not (it has become another user: sudo).

    Only for our own unreaped children: their pid cannot be reused.
    """
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return True


def kill_all_below(spare: Iterable[int] = (), *, tick: Callable[[], None] | None = None) -> int:
    """Kill and reap every descendant of this process until none is left; return how many were reaped.

    We must be a subreaper: the children of what we kill fall to us and are taken in the next round. A process
    that the kernel will not end (state D) is waited for. spare: direct children that are not ours to kill.
    """
    spared = set(spare)
    reaped = 0
    while True:
        ours = [pid for pid in children_of(os.getpid()) if pid not in spared]
        if not ours:
            return reaped
        spared.update(pid for pid in ours if not kill_pid(pid))  # not in our power: do not wait for it
        for pid in ours:
            reaped += _reap_soon(pid)
        if tick:
            tick()


def _reap_soon(pid: int, within_s: float = 0.2) -> int:
    """Wait shortly for a killed child: one in uninterruptible sleep must not hold up the others."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            done, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return 0
        if done:
            return 1
        if time.monotonic() > deadline:
            return 0
        time.sleep(0.0005)


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


def wait_signal(signals: Iterable[int], timeout_s: float) -> int | None:
    """Wait for one of these blocked signals and take it; None when the time is over, or after a SIGCONT.

    Not `signal.sigtimedwait`: interrupted by a SIGSTOP and SIGCONT that outlast its timeout, it returns a siginfo
    that nobody has filled (CPython 3.11 to 3.13), which reads as any signal at all.
    """
    wanted = ctypes.create_string_buffer(_SIGSET_BYTES)
    _libc.sigemptyset(wanted)
    for signum in signals:
        _libc.sigaddset(wanted, int(signum))
    seconds = max(0.0, timeout_s)
    limit = _Timespec(int(seconds), int(seconds % 1 * 1e9))
    info = ctypes.create_string_buffer(_SIGINFO_BYTES)
    got: int = _libc.sigtimedwait(wanted, info, ctypes.byref(limit))
    return got if got > 0 else None


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Hold back every signal of this thread inside. 3 us; `signal.pthread_sigmask` takes 80 for its sets of enums."""
    before = ctypes.create_string_buffer(_SIGSET_BYTES)
    _libc.pthread_sigmask(int(signal.SIG_BLOCK), _every_signal, before)
    try:
        yield
    finally:
        _libc.pthread_sigmask(int(signal.SIG_SETMASK), before, None)


def oom_score_adj() -> int:
    """Return how much sooner (up to 1000) or later (to -1000) than its size says this process is killed for memory."""
    try:
        with open("/proc/self/oom_score_adj", "rb") as f:
            return int(f.read())
    except (OSError, ValueError):
        return 0


def set_oom_score_adj(value: int) -> None:
    """Set it, as far as we may: without privileges never below what a privileged process has set last."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb", buffering=0) as f:
        f.write(str(value).encode())


def close_quietly(fd: int) -> None:
    """Close a descriptor that may be closed already."""
    with contextlib.suppress(OSError):
        os.close(fd)
