"""The keeper of the embedded server: runs Valkey as its child, and stops it when nobody uses it any more.

Run as a program by `embedded`, isolated (`python -I -S`): it imports nothing but the standard library, so it is
small and starts in milliseconds, whatever the user's process has loaded. It belongs to no user: it leaves their
session and their tree (a worker's guard would kill it), and learns of their end only by the lock.

    users.lock    every user holds LOCK_SH for its life; whoever gets LOCK_EX knows that nobody is left,
                  however they ended. The keeper holds it while it stops the server: newcomers wait.
    keeper.lock   LOCK_EX for the keeper's life and (inherited) for Valkey's; whoever gets it knows that the
                  folder has neither.

Should Valkey die, the keeper starts it again: the users cannot (a worker is below its guard), all data is in the
append-only file, and to them it is a Redis that was restarted. When it dies young three times in a row, the keeper
ends, and the log says why. Should the keeper be killed, Valkey ends cleanly by itself, and the next program that
comes starts both: a server is never left without somebody to stop it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import sys
import time
from pathlib import Path

ANOTHER_LIVES = 3
_LOOK_S = 0.5  # how long the server outlives its last user, at most
_STOP_S = 30.0
_YOUNG_S = 2.0
_YOUNG_DEATHS = 3
_PR_SET_PDEATHSIG = 1
_STDIO = (0, 1, 2)
# HUP, INT, QUIT: blocked and never taken. A terminal is not ours to obey.
_BLOCKED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT}


def main(folder: str, socket_path: str, binary: str) -> int:
    """Become a daemon that keeps the server of `folder`. The caller sees exit 0 once the keeper holds its lock.

    Exit 3: another keeper, or its server, still lives; nothing was done.
    """
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in _STDIO:
            with contextlib.suppress(OSError):  # that of this very listing is closed
                os.close(int(name))
    os.chdir(folder)
    os.umask(0o077)
    keeper_lock = os.open("keeper.lock", os.O_RDWR | os.O_CREAT, 0o600)
    if not _got(keeper_lock):
        return ANOTHER_LIVES
    os.set_inheritable(keeper_lock, True)
    os.setsid()
    if os.fork() != 0:  # not the session's leader: no terminal can become ours
        os._exit(0)
    signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    _say(f"keeping {socket_path} as pid {os.getpid()}")
    code = _keep([binary, *_directives(folder, socket_path)])
    with contextlib.suppress(OSError):  # a short path's folder goes too; `.heavyq` is not empty and stays
        Path(socket_path).unlink(missing_ok=True)
        Path(socket_path).parent.rmdir()
    return code


def _directives(folder: str, socket_path: str) -> list[str]:
    words = {
        "dir": folder,
        "port": "0",
        "unixsocket": socket_path,
        "unixsocketperm": "700",
        "appendonly": "yes",
        "save": "",
        "daemonize": "no",
        "logfile": "",
    }
    return [word for name, value in words.items() for word in (f"--{name}", value)]


def _keep(command: list[str]) -> int:
    """Run the server until its last user has left, or until TERM; return the exit code."""
    users_lock = os.open("users.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    young_deaths = 0
    while young_deaths < _YOUNG_DEATHS:
        server, started_s = _start(command), time.monotonic()
        while (status := _ended(server)) is None:
            got = signal.sigtimedwait({signal.SIGCHLD, signal.SIGTERM}, _LOOK_S)
            told = got is not None and got.si_signo == signal.SIGTERM
            if told or _got(users_lock):
                _say("told to end" if told else "the last user has left")
                return _stop(server)
        young_deaths = young_deaths + 1 if time.monotonic() - started_s < _YOUNG_S else 0
        _say(f"the server ended (status {os.waitstatus_to_exitcode(status)})")
    _say(f"it ended {_YOUNG_DEATHS} times in a row within {_YOUNG_S:g} s of its start: giving up")
    return 1


def _start(command: list[str]) -> int:
    keeper = os.getpid()
    server = os.fork()
    if server != 0:
        return server
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() == keeper:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.execv(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        _say(f"cannot run {command[0]}: {error}")
    os._exit(1)


def _ended(server: int) -> int | None:
    """Return the server's wait status once it has ended."""
    pid, status = os.waitpid(server, os.WNOHANG)
    return status if pid else None


def _stop(server: int) -> int:
    """End the server by TERM, upon which it writes out the append-only file; by KILL if it hangs."""
    os.kill(server, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    while (status := _ended(server)) is None:
        if time.monotonic() > deadline:
            _say(f"the server did not end within {_STOP_S:g} s: killing it")
            os.kill(server, signal.SIGKILL)
            deadline += _STOP_S
        signal.sigtimedwait({signal.SIGCHLD}, 0.1)
    return min(1, abs(os.waitstatus_to_exitcode(status)))


def _got(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{time.strftime('%Y-%m-%d %H:%M:%S')} keeper: {text}\n".encode())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
