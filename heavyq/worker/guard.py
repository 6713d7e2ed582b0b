"""The guard: the process that was started as `heavyq run`. Forwards signals, watches, cleans up.

No threads, no Redis, no user code, no heavy import: it forks the supervisor before anything else is loaded.
Guard and supervisor watch each other, and whichever survives kills everything below it, by parentage. Works as
PID 1. Driven by the kernel only: signals, and a one-second tick.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import sys
import time
from collections.abc import Callable

from heavyq.linux.process import become_subreaper, children_of, die_with_parent, kill_all_below, kill_pid, wait_signal

FORWARDED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
)
GUARD_DIED = signal.SIGRTMIN  # what the kernel sends to the supervisor when the guard is gone
STARTING_LIMIT_S = 60.0
_TICK_S = 1.0
_WORD = 8  # bytes


class Pulse:
    """The supervisor's counter and the guard's limit, in memory that both see.

    Each is one aligned word, stored whole. Not `struct.pack_into`: it first fills its place with zeros, and a guard
    that looks in that instant reads a limit of 0.
    """

    def __init__(self) -> None:
        self.name = os.urandom(6).hex()  # of this worker's life; its workdirs are `heavyq-<name>-...`
        shared = memoryview(mmap.mmap(-1, 2 * _WORD))
        self._count, self._limit_s = shared[:_WORD].cast("Q"), shared[_WORD:].cast("d")
        self._limit_s[0] = STARTING_LIMIT_S

    def set_limit(self, limit_s: float) -> None:
        """Say how many of the guard's ticks (seconds) the counter may stand still."""
        self._limit_s[0] = limit_s

    def beat(self) -> None:
        """Move the counter: the supervisor's loop goes round."""
        self._count[0] += 1

    def read(self) -> tuple[int, float]:
        """Return the counter and the limit in seconds, as the guard sees them."""
        return self._count[0], self._limit_s[0]


def guarded(supervise: Callable[[Pulse], int]) -> int:
    """Fork; run `supervise` in the child and watch over it; return the exit code of the whole worker.

    Called from a process with one thread. `supervise` must install its own handlers for the signals in
    `FORWARDED` and for `GUARD_DIED`, then unblock them: they are blocked when it is called.
    """
    not_ours = children_of(os.getpid())  # `sidecar & exec heavyq run`: it was here before us
    become_subreaper()
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # it may be inherited ignored: then nobody can be waited for
    signal.pthread_sigmask(signal.SIG_BLOCK, {*FORWARDED, signal.SIGCHLD})
    pulse = Pulse()
    guard_pid = os.getpid()
    supervisor = os.fork()
    if supervisor == 0:
        os._exit(_be_supervisor(supervise, pulse, guard_pid))
    with contextlib.suppress(ImportError):
        from setproctitle import setproctitle

        setproctitle("heavyq guard")
    return _watch(supervisor, pulse, not_ours)


def _be_supervisor(supervise: Callable[[Pulse], int], pulse: Pulse, guard_pid: int) -> int:
    die_with_parent(GUARD_DIED)  # until the supervisor has a handler it simply dies: nothing is below it yet
    if os.getppid() != guard_pid:
        return 1
    os.setsid()
    signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    try:
        code = supervise(pulse)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - a bug of ours: show it whole, then let the guard clean up
        sys.excepthook(*sys.exc_info())
        code = 1
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    return code


def _watch(supervisor: int, pulse: Pulse, not_ours: list[int]) -> int:
    """Wait for the supervisor's end, kill what is left below, and return the worker's exit code."""
    try:
        status = _until_dead(supervisor, pulse)
    finally:
        kill_all_below(spare=not_ours)
        _remove_workdirs(pulse.name)
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status)
    _say(f"the supervisor was killed by signal {os.WTERMSIG(status)}; all below it was killed too")
    return 1


def _until_dead(supervisor: int, pulse: Pulse) -> int:
    """Forward signals, reap, and count ticks until the supervisor is dead; return its wait status."""
    signals = {*FORWARDED, signal.SIGCHLD}
    ignored = {s for s in FORWARDED if signal.getsignal(s) is signal.SIG_IGN}  # nohup
    stalled_ticks, last_count = 0, -1
    next_tick_s = time.monotonic() + _TICK_S
    status: int | None = None
    while status is None:
        got = wait_signal(signals, next_tick_s - time.monotonic())
        if got == signal.SIGCHLD:
            status = _reap(supervisor)
        elif got is not None and got not in ignored:
            kill_pid(supervisor, got)
        if time.monotonic() < next_tick_s:
            continue
        # One tick a round, however long we slept: a machine that was suspended counts nothing.
        next_tick_s = time.monotonic() + _TICK_S
        count, limit_s = pulse.read()
        stalled_ticks = stalled_ticks + 1 if count == last_count else 0
        last_count = count
        if stalled_ticks >= limit_s:
            kill_pid(supervisor)
            _say(f"the supervisor did not move for {stalled_ticks} s: killing it and all below")
            status = os.waitpid(supervisor, 0)[1]
    return status


def _remove_workdirs(name: str) -> None:
    """Remove the jobs' workdirs that a supervisor which was killed has left."""
    import glob
    import shutil
    import tempfile

    for folder in glob.glob(f"{glob.escape(tempfile.gettempdir())}/heavyq-{name}-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _reap(supervisor: int) -> int | None:
    """Reap every zombie that is ours, strangers too (PID 1); return the supervisor's status if it was one."""
    status = None
    while True:
        try:
            pid, this = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == supervisor:
            status = this


def _say(text: str) -> None:
    """Write a line, if it is taken at once: a terminal that is stopped must not hold up the clean-up."""
    ready = select.poll()
    ready.register(2, select.POLLOUT)
    with contextlib.suppress(OSError):
        if ready.poll(0):  # room for less than a page: a write of one line does not block
            os.write(2, f"heavyq guard: {text}\n".encode())
