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
_IMPORT_FACTOR = 6  # a disk may be slow; it is the operation that hangs
_SLACK_S = 5.0
_NOTES_MAX = 64 * 1024
_RAISED_MAX = 2000
_TIMED_OUT = b"Timeout ("  # how faulthandler's dump begins
_SPAWN = 'set start_method="spawn" on the queues'
_CURE = f"move what computes at import into a @preload function, or {_SPAWN}"


class Canary:
    """One canary: made in the zygote; then `sing` in the forked child, and `verdict` in the zygote.

    limit_s: for each trial, without what it must import, for which it has six times as long.
    """

    def __init__(self, trials: Sequence[Trial], *, limit_s: float = LIMIT_S) -> None:
        self._trials, self._limit_s, self._import_limit_s = trials, limit_s, limit_s * _IMPORT_FACTOR
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
                self._note(begun=n, importing=trial.needs is not None)
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
                faulthandler.dump_traceback_later(self._import_limit_s, exit=True, file=self._stack)
                importlib.import_module(trial.needs)
                self._note(importing=False)
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
        limit_s = len(self._trials) * (self._limit_s + self._import_limit_s) + _SLACK_S
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
        if hung and trial is not None and notes.get("importing"):
            why = import_in_words(trial, self._import_limit_s)
        elif hung:
            why = hang_in_words(trial, self._limit_s, [one.name for one in self._trials if not one.is_hook])
        else:
            why = end_in_words(trial, notes.get("raised"), os.waitstatus_to_exitcode(status))
        return why, stack.decode("utf-8", "replace")


def import_in_words(trial: Trial, over_s: float) -> str:
    """Say that a canary did not come to the end of what it had to import first."""
    return (
        f"a forked child does not get through `import {trial.needs}`, to try {trial.name} (over {over_s:g} s): the "
        "disk is slow, or the import waits for a thread that a forked child does not have; import it in your module, "
        f"or {_SPAWN}"
    )


def hang_in_words(trial: Trial | None, over_s: float, libraries: Sequence[str] = ()) -> str:
    """Say where a canary hangs.

    trial: what it was doing, None if it was not born yet. over_s: the limit that it was over. libraries: all that were
    to be tried: torch hangs in a pool that scikit-learn made, too.
    """
    name = _name_of(trial)
    if trial is not None and not trial.is_hook:
        others = [other for other in libraries if other != name and not other.startswith(OPENMP)]
        maker = f" (by {' or '.join([name, *others])}: they may share it)" if others and trial.needs else ""
        return (
            f"a forked child hangs in {name} (two threads, over {over_s:g} s): most likely a pool of OpenMP threads "
            f"was made in the main thread at import{maker}, and a forked child has none of them: {_CURE}"
        )
    return f"a forked child hangs in {name} (over {over_s:g} s); if it computes with threads: {_CURE}"


def end_in_words(trial: Trial | None, raised: str | None, code: int) -> str:
    """Say how a canary ended before it was done. raised: by a hook. code: negative for a signal."""
    name = _name_of(trial)
    if raised is not None:
        return f"{name} raised {raised} in the child that was forked to try it"
    if code >= 0:
        return f"the child that was forked to try {name} ended in it with exit code {code}"
    named = signal.Signals(-code).name if -code in set(signal.Signals) else "?"
    killed = f"the child that was forked to try {name} was killed in it by signal {-code} ({named})"
    if code == -signal.SIGKILL:  # no crash of its own: somebody sent it
        return f"{killed}: most likely by the kernel, for want of memory; the container may be too small for it"
    return f"{killed}: if it does not survive a fork, {_SPAWN}"


def _name_of(trial: Trial | None) -> str:
    return trial.name if trial else "its birth"


def _ends_within(pid: int, limit_s: float) -> bool:
    """Wait for a child of ours, without reaping it."""
    pidfd = os.pidfd_open(pid)
    try:
        waiting = select.poll()
        waiting.register(pidfd, select.POLLIN)
        return bool(waiting.poll(limit_s * 1000))
    finally:
        os.close(pidfd)
