"""A real child process of heavyq and our end of its socket, without a supervisor.

Owns the process, by pid. The child is started by an exec and imports the module itself, as one of `spawn` does.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any, Self

from heavyq.job import wire
from heavyq.linux.frames import Frame, FrameReader, pack, pack_parts
from tests.support.worker import environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_MAIN = """
import os, socket, sys
from pathlib import Path
from heavyq.job.child import Birth, main
fd, log, parent, workdir, module, seats = sys.argv[1:]
birth = Birth(slot=3, supervisor_pid=int(parent), middle_pid=-1, workdir=Path(workdir), nice=0, oom_score_adj=0,
              modules=(module,), seats=int(seats))
os._exit(main(birth, socket.socket(fileno=int(fd)), int(log)))
"""
LIMIT_S = 10.0


class Child:
    """One child with a module of its own. Use as a context manager; frames are sent and looked for by the run."""

    def __init__(self, folder: Path, module: str, *, seats: int = 1, env: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.workdir = folder / "workdir"
        self.workdir.mkdir()
        (folder / "shop.py").write_text(textwrap.dedent(module))
        self._sock, theirs = socket.socketpair()
        self.log_path = folder / "child.log"
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _MAIN, str(theirs.fileno()), str(log.fileno()), str(os.getpid())),
                    *(str(self.workdir), "shop", str(seats)),
                ],
                cwd=folder,
                env=environment({"PYTHONPATH": f"{environment()['PYTHONPATH']}:{folder}", **(env or {})}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno(), log.fileno()],
            )
        theirs.close()
        self._reader = FrameReader()
        self.frames: list[Frame] = []
        self.order: list[tuple[bytes, int | None]] = []  # kind and run of all that it has sent
        self._gathered: bytes | None = None

    def __enter__(self) -> Self:
        self.expect(wire.READY)
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()
        self._process.kill()
        self._process.wait()

    # ---- what a supervisor sends

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Send what is sent meanwhile in one piece."""
        self._gathered = b""
        yield
        data, self._gathered = self._gathered, None
        self._sock.sendall(data)

    def job(
        self, run: int, name: str, data: Any = None, *, fields: Mapping[bytes, bytes] | None = None, **head: Any
    ) -> None:
        """Send a job of the queue `q`."""
        about = {"run": run, "queue": "q", "prefix": "bull", "id": str(run), "fence": 7, "made": 0, "started": 1}
        about |= {"parent_key": None, "max_result": 1000, "memory_rlimit": None}
        parts = {b"name": name.encode(), b"data": json.dumps(data or {}).encode(), b"timestamp": b"1", b"opts": b"{}"}
        self._send_parts(wire.JOB, about | head, wire.JOB_PARTS, parts | dict(fields or {}))

    def hook(self, run: int, event: str, fields: Mapping[bytes, bytes] | None = None, **head: Any) -> None:
        """Send an event of job `n` of the queue `q`."""
        about = {"run": run, "queue": "q", "prefix": "bull", "id": "n", "event": event, "made": 2, "at_ms": 1500}
        parts = {b"name": b"work", b"data": b'{"a": 1}', b"timestamp": b"1", b"opts": b"{}"}
        self._send_parts(wire.HOOK, about | head, wire.HOOK_PARTS, parts | dict(fields or {}))

    def stop(self, run: int) -> None:
        """Ask for the end of a job."""
        self._send(pack(wire.STOP, {"run": run, "why": "cancelled"}))

    def retire(self) -> None:
        """Ask the child to end."""
        self._send(pack(wire.EXIT))

    def _send_parts(
        self, kind: bytes, head: Mapping[str, Any], names: tuple[bytes, ...], parts: Mapping[bytes, bytes]
    ) -> None:
        self._send(b"".join(pack_parts(kind, head, [parts.get(name, b"") for name in names])))

    def _send(self, data: bytes) -> None:
        if self._gathered is None:
            self._sock.sendall(data)
        else:
            self._gathered += data

    # ---- what it answers

    def ended(self, run: int) -> Frame:
        """Wait for the report of a run."""
        kinds = (wire.RESULT, wire.FAILURE, wire.LATER, wire.STOPPED, wire.HOOKED)
        return self._find(lambda frame: frame.kind in kinds and frame.head["run"] == run)

    def result(self, run: int) -> Any:
        """Wait for the result of a run."""
        frame = self.ended(run)
        assert frame.kind == wire.RESULT, (frame.kind, frame.head, frame.body.decode())
        return json.loads(frame.body)

    def logged(self, run: int, row: str) -> None:
        """Wait for a row that a job logs."""
        self._find(lambda frame: frame.kind == wire.LOG and wire.split_run(frame.body) == (run, row.encode()))

    def told(self, run: int) -> None:
        """Wait for the answer to a STOP."""
        self._find(lambda frame: frame.kind == wire.TOLD and frame.head == {"run": run})

    def expect(self, kind: bytes) -> Frame:
        """Wait for a frame of a kind."""
        return self._find(lambda frame: frame.kind == kind)

    def wait(self) -> int:
        """Wait for the end of the process; return its exit code."""
        return self._process.wait(LIMIT_S)

    @property
    def log(self) -> str:
        """What it printed."""
        return self.log_path.read_text()

    def _find(self, wanted: Any) -> Frame:
        deadline_s = time.monotonic() + LIMIT_S
        while True:
            for n, frame in enumerate(self.frames):
                if wanted(frame):
                    return self.frames.pop(n)
            if not select.select([self._sock], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
                raise AssertionError(f"no such frame; there are {self.frames}\n{self.log}")
            data = self._sock.recv(1 << 20)
            assert data, f"the child is gone ({self._process.wait(LIMIT_S)})\n{self.log}"
            frames = self._reader.feed(data)
            self.frames += frames
            self.order += [(frame.kind, frame.head.get("run")) for frame in frames]
