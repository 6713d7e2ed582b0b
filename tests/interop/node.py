"""Real BullMQ in a Node process of its own, driven over pipes. driver.cjs is its other half.

Owns that process, by its pid. Never reads a queue itself: what Node sees is what Node says.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.support import procs

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey

HERE = Path(__file__).resolve().parent
DRIVER = HERE / "driver.cjs"
GENERATIONS = ("5", "6")
_REPLY_S = 20.0


class NodeError(Exception):
    """What BullMQ threw, with its stack."""


def why_missing() -> str | None:
    """Return what keeps BullMQ from running here, None if nothing does."""
    if shutil.which("node") is None:
        return "no `node` here"
    missing = [name for name in ("bullmq5", "bullmq6", "ioredis") if not (HERE / "node_modules" / name).is_dir()]
    return f"{', '.join(missing)} not installed: `make interop` does it" if missing else None


class Node:
    """One process with one generation of BullMQ ("5" or "6") on one server. Use as a context manager.

    log_path: where its stderr goes.
    """

    def __init__(self, generation: str, url: str, log_path: Path) -> None:
        self.generation = generation
        self.log_path = log_path
        self._url = url
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._replies: dict[int, dict[str, Any]] = {}
        self._unread = b""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process and wait until BullMQ is loaded."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                ["node", str(DRIVER), self.generation, self._url],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                preexec_fn=procs.term_when_we_die(),  # noqa: PLW1509 - one prctl, takes no lock
            )
        self.version = self.call("version")

    def stop(self) -> None:
        """End the process by closing its stdin; SIGKILL it if that does not do."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin
        assert process.stdout
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def kill(self) -> None:
        """SIGKILL: no job is handed back, no lock is let go."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def call(self, do: str, timeout_s: float = _REPLY_S, **arguments: Any) -> Any:
        """Run one command of driver.cjs and return its reply. Raises NodeError for what BullMQ threw."""
        return self.reply(self.begin(do, **arguments), timeout_s)

    def begin(self, do: str, **arguments: Any) -> int:
        """Send a command; `reply` waits for it. What comes in between runs beside it."""
        assert self._process is not None, "not started"
        assert self._process.stdin
        n = next(self._numbers)
        self._process.stdin.write(json.dumps({"n": n, "do": do, **arguments}).encode() + b"\n")
        self._process.stdin.flush()
        return n

    def reply(self, n: int, timeout_s: float = _REPLY_S) -> Any:
        """Wait for the reply to a command that was begun."""
        deadline = time.monotonic() + timeout_s
        while n not in self._replies:
            self._read(deadline - time.monotonic())
        reply = self._replies.pop(n)
        if "error" in reply:
            raise NodeError(reply["error"])
        return reply["ok"]

    def at(self, q: QueueKey) -> NodeQueue:
        """Return one queue as Node sees it."""
        return NodeQueue(self, q)

    def _read(self, timeout_s: float) -> None:
        assert self._process is not None
        assert self._process.stdout
        out = self._process.stdout.fileno()
        readable, _, _ = select.select([out], [], [], max(timeout_s, 0.0))
        assert readable, f"BullMQ {self.generation} did not answer\n{self._log()}"
        chunk = os.read(out, 1 << 20)
        assert chunk, f"BullMQ {self.generation}'s process has ended\n{self._log()}"
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        for line in lines:
            reply = json.loads(line)
            self._replies[reply["n"]] = reply

    def _log(self) -> str:
        return self.log_path.read_text(errors="replace")[-4000:]


class NodeQueue:
    """One queue in a Node process: `node_queue("add", name="a", data={}, opts={})`."""

    def __init__(self, node: Node, q: QueueKey) -> None:
        self.node, self.q = node, q

    def __call__(self, do: str, **arguments: Any) -> Any:
        return self.node.call(do, prefix=self.q.prefix, queue=self.q.name, **arguments)

    def begin(self, do: str, **arguments: Any) -> int:
        return self.node.begin(do, prefix=self.q.prefix, queue=self.q.name, **arguments)

    def add(self, data: Any = None, *, name: str = "job", **opts: Any) -> str:
        """Add a job with BullMQ's own option names; return its id."""
        job_id: str = self("add", name=name, data={} if data is None else data, opts=opts)
        return job_id

    def find(self, job_id: str) -> dict[str, Any]:
        """Return a job with its state, as Node's getters show it."""
        found: dict[str, Any] | None = self("find", id=job_id)
        assert found is not None, f"Node finds no job {job_id}"
        return found

    def state(self, job_id: str) -> str:
        return str(self.find(job_id)["state"])

    def started(self) -> list[str]:
        """Return the ids of the jobs that workers here have started, in order."""
        return [run["id"] for run in self("started")]

    def events_of(self, job_id: str) -> list[dict[str, Any]]:
        """Return the events of one job that the reader here has seen, each with its name as `event`."""
        return [{"event": name, **fields} for name, fields in self("events") if fields.get("jobId") == job_id]
