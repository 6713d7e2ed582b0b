"""What the demo knows of its jobs, and what it says about them as it happens.

Owns one job each: looks at it through its handle and tells what has changed. Draws nothing, starts nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import psutil

from heavyq import Failure, JobHandle, Usage
from heavyq.demo.queues import Found, Ladder

_ENDED = ("completed", "failed", "unknown")
_RESULT_S = 10.0


@dataclass(slots=True)
class Watched:
    """One job of the demo.

    title: what people call it. queue: the queue's name. child: the process that runs it now, if one does.
    failures, runs: of each run that has ended, why it failed and what it used.
    """

    title: str
    queue: str
    handle: JobHandle[Any, Any]
    state: str = "waiting"
    child: psutil.Process | None = None
    result: Ladder | Found | None = None
    failures: list[Failure] = field(default_factory=list)
    runs: list[Usage] = field(default_factory=list)
    _began: int = 0

    @property
    def ended(self) -> bool:
        return self.state in _ENDED

    @property
    def attempts(self) -> int:
        """How many runs have ended."""
        return self.handle.attempts_made

    @property
    def attempt(self) -> int:
        """The run that runs or waits, counted from 1; of a job that has ended, the last one."""
        return self.attempts + (not self.ended)

    @property
    def percent(self) -> float:
        """How far it is, 0 to 100."""
        return 100.0 if self.state == "completed" else self._told("percent")

    @property
    def safe(self) -> float:
        """How much of that its checkpoint holds."""
        return self._told("safe")

    @property
    def doing(self) -> str:
        """What its processor says that it does."""
        return str(self._progress().get("doing", ""))

    def look(self, children: Mapping[str, psutil.Process]) -> Iterator[str]:
        """Look at the job, and tell what has happened since the last time.

        children: as the worker's `children()`.
        """
        was_ended = self.ended
        self.state = self.handle.state()
        self.child = children.get(f"{self.queue} {self.handle.id}")
        failure = self.handle.failure
        if failure is not None and self.attempts > len(self.failures):
            self._add_run()
            self.failures.append(failure)
            yield f"{self.title}: attempt {self.attempts} failed, reason {_reason(failure)} ({failure.detail})"
            if not self.ended:
                yield f"{self.title}: it goes back to the queue for 3 s, and until a child is free; the others go on"
        if self.child is not None and self.attempt > self._began:
            self._began = self.attempt
            kept = f", from its checkpoint: {self.safe:.0f}% is not done again" if self.attempt > 1 else ""
            yield f"{self.title}: attempt {self.attempt} runs in child {self.child.pid}{kept}"
        if self.ended and not was_ended:
            yield from self._end()

    def summary(self) -> dict[str, Any]:
        """Return the facts of all its runs together, for the table and for --json."""
        return {
            "job": self.title,
            "queue": self.queue,
            "id": self.handle.id,
            "state": self.state,
            "attempts": self.attempts,
            "wall_s": round(sum(run.wall_s for run in self.runs), 3),
            "cpu_s": round(sum(run.cpu_s for run in self.runs), 3),
            "peak_rss_bytes": max((run.peak_rss_bytes for run in self.runs), default=0),
            "reasons": [_reason(failure) for failure in self.failures],
            "resumed_at": None if self.result is None else self.result.resumed_at,
            "result": None if self.result is None else self.result.model_dump(mode="json"),
        }

    def _end(self) -> Iterator[str]:
        self.child = None
        if self.state == "completed":
            self._add_run()
            self.result = self.handle.result(timeout=_RESULT_S)
            yield f"{self.title}: completed: {_made(self.result)}"
        else:
            yield f"{self.title}: {self.state}, for good"

    def _add_run(self) -> None:
        if self.handle.usage is not None:
            self.runs.append(self.handle.usage)

    def _told(self, name: str) -> float:
        value = self._progress().get(name, 0.0)
        return float(value) if isinstance(value, (int, float)) else 0.0

    def _progress(self) -> Mapping[str, Any]:
        progress = self.handle.progress
        return progress if isinstance(progress, dict) else {}


def _reason(failure: Failure) -> str:
    return f"{failure.reason} {failure.signal}" if failure.signal is not None else failure.reason


def _made(result: Ladder | Found) -> str:
    if isinstance(result, Ladder):
        return ", ".join(f"{rung.height}p {rung.size_bytes / 1024:.0f} KiB" for rung in result.rungs)
    best = result.best
    return (
        f"best of {result.trials} is C={best.c:g}, gamma={best.gamma:g}; it reads {result.test_score:.1%} "
        "of the scans it has not seen"
    )
