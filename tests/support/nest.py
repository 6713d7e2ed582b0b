"""A zygote and its children without a worker: the test process plays the supervisor, over the real sockets.

Owns the processes that it starts. For what a job cannot show: a catalogue, the canary's verdict, a birth that fails.
"""

from __future__ import annotations

import json
import os
import textwrap
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from heavyq.core.child import ChildLimits
from heavyq.job import wire
from heavyq.job.canary import LIMIT_S
from heavyq.linux.frames import pack, pack_parts
from heavyq.linux.process import kill_pid
from heavyq.worker.loop import Loop
from heavyq.worker.process import ChildProcess
from heavyq.worker.zygote import Zygote, ZygoteEvents
from tests.support.eventually import eventually

if TYPE_CHECKING:
    import pytest

    from heavyq.linux.frames import Frame

_UNLIMITED = ChildLimits(None, None, None)


class Nest:
    """One zygote that has been given the module `app`. Use as a context manager."""

    def __init__(
        self,
        folder: Path,
        text: str,
        monkeypatch: pytest.MonkeyPatch,
        *,
        bare: bool = False,
        threads: int = 2,
        canary_s: float = LIMIT_S,
    ) -> None:
        (folder / "app.py").write_text(textwrap.dedent(text))
        monkeypatch.chdir(folder)
        self.folder = folder
        self.lines: list[str] = []
        self.catalogue: dict[str, Any] | None = None
        self.broken: str | None = None
        self.not_forked: list[str] = []
        self.verdicts: deque[tuple[str | None, str]] = deque()
        self.warning: str | None = None
        self._pids: dict[int, int] = {}
        self._children: list[Bird] = []
        self.loop = Loop()
        events = ZygoteEvents(
            catalogue=lambda found: setattr(self, "catalogue", dict(found)),
            broken=lambda error, _trace: setattr(self, "broken", error),
            forked=self._pids.__setitem__,
            not_forked=lambda _child, error: self.not_forked.append(error),
            checked=self._checked,
            line=self.lines.append,
        )
        config = {"modules": ["app"], "redis_url": None, "prefix": "nest", "nofile": 1024, "bare": bare}
        self.zygote = Zygote(self.loop, {**config, "canary_s": canary_s}, events, threads=threads)

    def __enter__(self) -> Self:
        self.until(lambda: self.zygote.imported_s is not None or self.broken, 60.0)
        return self

    def __exit__(self, *_: object) -> None:
        for bird in self._children:
            bird.close()
        kill_pid(self.zygote.pid)
        self.until(lambda: self.zygote.reap() is not None)
        while not self.zygote.closed:
            self.zygote.drain()
        self.loop._selector.close()
        os.close(self.loop.inbox.fd)
        print("\n".join(self.lines))

    def until(self, what: Any, timeout_s: float = 10.0) -> Any:
        """Let the loop turn until `what()` is true."""

        def turned() -> Any:
            found = what()
            if not found:
                self.loop.turn()
            return found

        return eventually(turned, timeout_s)

    def check(self, timeout_s: float = 40.0) -> tuple[str | None, str]:
        """Send a canary; return what is wrong, and the stack."""
        self.zygote.check()
        self.until(lambda: self.verdicts, timeout_s)
        return self.verdicts.popleft()

    def _checked(self, problem: str | None, stack: str, warning: str | None) -> None:
        self.verdicts.append((problem, stack))
        self.warning = warning

    def child(self, **options: Any) -> Bird:
        """Have a child made; it may be ready, or not, later."""
        bird = Bird(self, len(self._children) + 1, options)
        self._children.append(bird)
        return bird

    def pid_of(self, number: int) -> int:
        """Wait for the child's name."""
        self.until(lambda: number in self._pids)
        return self._pids[number]


class Bird:
    """One child of a nest."""

    def __init__(self, nest: Nest, number: int, options: dict[str, Any]) -> None:
        self._nest, self._runs = nest, 0
        self.frames: deque[Frame] = deque()
        self.lines: list[str] = []
        workdir = nest.folder / f"child-{number}"
        workdir.mkdir()
        self._process = ChildProcess(number, 0, None, _UNLIMITED, workdir, nest.loop.now_s)
        self._process.watch(
            nest.loop,
            lambda _child, frame: self.frames.append(frame),
            lambda _child, line: self.lines.append(line),
            lambda _child, error: self.lines.append(f"broken: {error}"),
        )
        options = {"nice": 0, "oom_score_adj": 1000, "group": None, **options}
        assert nest.zygote.fork(self._process, options)
        self.pid = nest.pid_of(number)
        self._process.close_their_ends()

    def said(self, timeout_s: float = 20.0) -> Frame:
        """Wait for its next frame."""
        self._nest.until(lambda: self.frames, timeout_s)
        return self.frames.popleft()

    def ready(self) -> Self:
        """Wait until it can take a job."""
        frame = self.said(60.0)
        assert frame.kind == wire.READY, frame
        return self

    def do(self, name: str, data: Any = None, *, timeout_s: float = 20.0, **head: Any) -> Frame:
        """Give it a job of queue `q`; return its report."""
        self._runs += 1
        about = {"run": self._runs, "queue": "q", "prefix": "nest", "id": str(self._runs), "fence": 1, "made": 0}
        fields = {b"name": name.encode(), b"data": json.dumps({} if data is None else data).encode(), b"opts": b"{}"}
        parts = [fields.get(part, b"") for part in wire.JOB_PARTS]
        head = {**about, "max_result": 1 << 20, "memory_rlimit": None, **head}
        self._process.send(*pack_parts(wire.JOB, head, parts))
        frame = self.said(timeout_s)
        assert frame.kind in {wire.RESULT, wire.FAILURE}, frame
        return frame

    def returned(self, name: str, data: Any = None, **head: Any) -> Any:
        """Give it a job; return the job's result, which must be one."""
        frame = self.do(name, data, **head)
        assert frame.kind == wire.RESULT, (dict(frame.head), frame.body.decode())
        return json.loads(frame.body)

    def charge_bytes(self) -> int:
        """Return its resident minus shared memory."""
        _, resident, shared = Path(f"/proc/{self.pid}/statm").read_text().split()[:3]
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")

    def close(self) -> None:
        """End it, by its exit frame, or by a signal if it does not listen."""
        self._process.send(pack(wire.EXIT))
        try:
            eventually(lambda: os.waitpid(self.pid, os.WNOHANG)[0], 5.0)
        except AssertionError:
            kill_pid(self.pid)
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass
        self._process.drain()
        self._process.close_channel()
        print("\n".join(self.lines))
