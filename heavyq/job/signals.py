"""What TERM, INT and HUP mean in zygote and child: nothing. In what the job forks: what they always mean.

Owns the handlers and their change at a fork, and that the zygote hears of the deaths below it. A signal to the whole
tree (systemd, Ctrl-C of a process group) must not end a job; but a job's own `Process.terminate()` must.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

SHRUGGED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_forking = threading.local()


def shrug() -> None:
    """Let these signals do nothing here. A handler, not SIG_IGN, which programs that the job execs would inherit."""
    for signum in SHRUGGED:
        signal.signal(signum, _nothing)


def hear_of_deaths() -> None:
    """Undo what a module has made of SIGCHLD: where it is ignored, or its handler reaps, nobody else can wait."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def restore_in_forks() -> None:
    """Give the processes that the job forks the usual handlers.

    The signals are held back around the fork: one that came in before the handlers are changed would be shrugged at,
    and a pool that has terminated its workers would wait for one of them for ever.
    """
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_restore)


def _nothing(_signum: int, _frame: FrameType | None) -> None:
    return


def _hold() -> None:
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SHRUGGED)


def _release() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _restore() -> None:
    if threading.current_thread() is threading.main_thread():  # after a fork it is, whoever forked
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _release()
