"""The benchmarks' own server, and workers on it, looked at from outside as their users do.

Owns the processes that a benchmark starts and the keys that it writes. Knows nothing of what is measured.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from heavyq import Queue
from heavyq.bullmq.keys import QueueKey
from heavyq.store.client import Client
from tests.support import procs
from tests.support.jobs import Jobs
from tests.support.valkey import Valkey
from tests.support.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

BARE = "tests.bench.app"
LIBRARIES = "tests.bench.app_libraries"
MEMORY = "tests.bench.app_memory"
_START_S = 60.0
_LOOK_EVERY_S = 0.01


@dataclass(frozen=True, slots=True)
class Place:
    """One queue that nobody else uses, and how to look at it."""

    folder: Path
    queue: Queue[dict[str, Any], Any]
    jobs: Jobs
    raw: redis.Redis

    @property
    def key(self) -> QueueKey:
        return self.jobs.q

    def completed(self) -> int:
        """Return how many jobs have completed."""
        count: int = self.raw.zcard(self.key.key("completed"))  # type: ignore[assignment]
        return count

    def wait_completed(self, count: int, timeout_s: float = 60.0) -> None:
        """Wait until so many jobs have completed."""
        until(lambda: self.completed() >= count, timeout_s, f"{count} jobs are completed")

    def returned(self, job_ids: list[str]) -> list[Any]:
        """Return what completed jobs returned."""
        return [json.loads(record.returnvalue or b"null") for record in self.jobs.read_all(job_ids)]


class Rig:
    """Use as a context manager."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        procs.become_subreaper()
        self._base = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="heavyq-bench-")))
        self.server = self._stack.enter_context(Valkey(self._base))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def place(self) -> Iterator[Place]:
        """Make a queue; remove all its keys at the end."""
        key = QueueKey(f"bench{uuid.uuid4().hex[:8]}", "bench")
        folder = self._base / key.prefix
        folder.mkdir()
        client = Client(self.server.url)
        with contextlib.closing(client), self.server.redis(socket_timeout=60.0) as raw:
            queue = Queue[dict[str, Any], Any](key.name, prefix=key.prefix, connection=self.server.url)
            yield Place(folder, queue, Jobs(client, raw, key), raw)
            keys = list(raw.scan_iter(f"{key.prefix}:*", count=5000))
            for at in range(0, len(keys), 1000):
                raw.unlink(*keys[at : at + 1000])

    @contextlib.contextmanager
    def worker(self, place: Place, module: str, *argv: str) -> Iterator[Worker]:
        """Start a worker and wait until it has completed a job. It logs warnings only, as logging costs time."""
        words = [module, "--redis", self.server.url, "--prefix", place.key.prefix, "--log-level", "warning", *argv]
        with Worker(place.folder, words) as worker:
            place.jobs.add("short")
            try:
                place.wait_completed(place.completed() + 1, _START_S)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{worker.tail()}") from None
            yield worker

    @contextlib.contextmanager
    def idle_worker(self, module: str, *argv: str) -> Iterator[tuple[Place, Worker]]:
        """Start a worker on a queue of its own that holds nothing."""
        with self.place() as place, self.worker(place, module, *argv) as worker:
            settle()
            yield place, worker


@contextlib.contextmanager
def cpu_hogs(count: int) -> Iterator[None]:
    """Run processes that want a core each, at normal priority."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def until(look: Callable[[], object], timeout_s: float, what: str) -> None:
    """Wait for something while it is measured: often enough, and not so often that it disturbs."""
    deadline_s = time.monotonic() + timeout_s
    while not look():
        if time.monotonic() > deadline_s:
            raise AssertionError(f"after {timeout_s:g} s: {what}")
        time.sleep(_LOOK_EVERY_S)


def settle(seconds: float = 1.0) -> None:
    """Let what is under way come to its end before something is measured."""
    time.sleep(seconds)


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process and all its threads, to the ns: `clock_getcpuclockid` of libc."""
    clock = ctypes.c_int()
    error = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
    if error:
        raise ProcessLookupError(error, os.strerror(error))
    return time.clock_gettime(clock.value)
