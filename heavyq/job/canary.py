"""The canary: a throw-away child that does, before any job, what forked children are known to hang in.

Owns the watch over it, and the words for how it failed; `job.trials` owns what it does. Driven by `job.zygote`, which
forks it from its only thread, as it forks children. Imports nothing in the zygote; leaves no process, output or file.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import select
import signal
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from setproctitle import setproctitle

from heavyq.config import what_was_raised
from heavyq.job import leftovers
from heavyq.job.signals import restore_in_forks
from heavyq.job.trials import OPENMP, Trial
from heavyq.linux.process import become_subreaper, die_with_parent, end_subreaping, kill_pid

LIMIT_S = 10.0
IMPORT_LIMIT_S = 60.0  # a disk may be slow; it is the operation that hangs
_SLACK_S = 5.0
_NOTES_MAX = 64 * 1024
_RAISED_MAX = 2000
_TIMED_OUT = b"Timeout ("  # how faulthandler's dump begins
_CURE = 'move what computes at import into a @preload function, or set start_method="spawn" on the queues'


class Canary:
    """One canary: made in the zygote; then `sing` in the forked child, and `verdict` in the zygote.

    limit_s: for each trial, without what it must import.
    """

    def __init__(self, trials: Sequence[Trial], *, limit_s: float = LIMIT_S) -> None:
        self._trials, self._limit_s = trials, limit_s
        self._zygote_pid = os.getpid()
        self._notes, self._stack = os.memfd_create("heavyq-notes"), os.memfd_create("heavyq-stack")
        self._before = leftovers.standing()
        become_subreaper()  # until it is closed: what the canary leaves must fall to us, not to the supervisor

    def close(self) -> None:
        """Remove what is left below us of the canary."""
        leftovers.remove_processes(self._before)
        end_subreaping()
        os.close(self._notes)
        os.close(self._stack)

    # ---- in the child

    def sing(self) -> NoReturn:
        """Do all trials and end without the interpreter's clean-up; one that hangs ends the process by itself."""
        try:
            self._be_born()
            for n, trial in enumerate(self._trials):
                self._note(begun=n)
                self._do(trial)
            faulthandler.cancel_dump_traceback_later()
            self._note(done=True)
        finally:
            os._exit(1)

    def _be_born(self) -> None:
        die_with_parent(signal.SIGKILL)
        if os.getppid() != self._zygote_pid:
            os._exit(1)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.dup2(null, 2)
        setproctitle("heavyq canary")
        restore_in_forks()
        gc.enable()
        faulthandler.enable(self._stack)

    def _do(self, trial: Trial) -> None:
        try:
            if trial.needs is not None:
                faulthandler.dump_traceback_later(IMPORT_LIMIT_S, exit=True, file=self._stack)
                importlib.import_module(trial.needs)
            faulthandler.dump_traceback_later(self._limit_s, exit=True, file=self._stack)
            trial.run()
        except BaseException as error:  # noqa: BLE001 - a hook raises what it likes
            if trial.is_hook:
                os.write(self._stack, "".join(traceback.format_exception(error)).encode("utf-8", "replace"))
                self._note(raised=what_was_raised(error)[:_RAISED_MAX])
                os._exit(1)
            # What a library's own operation raises, a job will be told when it calls it: it is no hang.

    def _note(self, **note: Any) -> None:
        os.write(self._notes, json.dumps(note).encode() + b"\n")

    # ---- in the zygote

    def verdict(self, pid: int) -> tuple[str | None, str]:
        """Wait for the canary's end; return what is wrong, None if nothing is, and the stack that shows it."""
        limit_s = len(self._trials) * (self._limit_s + IMPORT_LIMIT_S) + _SLACK_S
        timed_out = not _ends_within(pid, limit_s)  # a hook may have taken the watchdog away
        if timed_out:
            kill_pid(pid)
        _, status = os.waitpid(pid, 0)
        notes: dict[str, Any] = {}
        for line in os.pread(self._notes, _NOTES_MAX, 0).splitlines():
            notes |= json.loads(line)
        stack = os.pread(self._stack, _NOTES_MAX, 0)
        if notes.get("done"):
            return None, ""
        hung = timed_out or stack.startswith(_TIMED_OUT)
        trial = self._trials[notes["begun"]] if "begun" in notes else None
        code, hung_s = os.waitstatus_to_exitcode(status), self._limit_s if hung else None
        libraries = [one.name for one in self._trials if not one.is_hook]
        return in_words(trial, notes.get("raised"), code, hung_s, libraries), stack.decode("utf-8", "replace")


def in_words(
    trial: Trial | None, raised: str | None, code: int, hung_s: float | None, libraries: Sequence[str] = ()
) -> str:
    """Say what became of a canary that did not come to its end.

    trial: what it was doing, None if it was not born yet. raised: by a hook. code: negative for a signal. hung_s: the
    limit that it was over. libraries: all that were to be tried: torch hangs in a pool that scikit-learn made, too.
    """
    name = trial.name if trial else "its birth"
    if hung_s is not None and trial is not None and not trial.is_hook:
        others = [other for other in libraries if other != name and not other.startswith(OPENMP)]
        maker = f" (by {' or '.join([name, *others])}: they may share it)" if others and trial.needs else ""
        return (
            f"a forked child hangs in {name} (two threads, over {hung_s:g} s): most likely a pool of OpenMP threads "
            f"was made in the main thread at import{maker}, and a forked child has none of them: {_CURE}"
        )
    if hung_s is not None:
        return f"a forked child hangs in {name} (over {hung_s:g} s); if it computes with threads: {_CURE}"
    if raised is not None:
        return f"{name} raised {raised} in the child that was forked to try it"
    if code >= 0:
        return f"the child that was forked to try {name} ended in it with exit code {code}"
    named = signal.Signals(-code).name if -code in set(signal.Signals) else "?"
    return (
        f"the child that was forked to try {name} was killed in it by signal {-code} ({named}): if it does not survive "
        'a fork, set start_method="spawn" on the queues'
    )


def _ends_within(pid: int, limit_s: float) -> bool:
    """Wait for a child of ours, without reaping it."""
    pidfd = os.pidfd_open(pid)
    try:
        waiting = select.poll()
        waiting.register(pidfd, select.POLLIN)
        return bool(waiting.poll(limit_s * 1000))
    finally:
        os.close(pidfd)
