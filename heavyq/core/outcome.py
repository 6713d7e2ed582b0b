"""How a run ended, in plain data and in words. The only place that words a cause of death.

Decides the sentence that Bull Board, the log and `heavyq job` show for each reason, and what evidence stands beside
it. Knows no process, no clock, no Redis. Driven by `core.run` (which outcome) and by the worker (which writes it).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from heavyq.core.memory import MIB, in_words

Reason = Literal[
    "exception",
    "invalid_payload",
    "invalid_result",
    "result_too_large",
    "no_processor",
    "unreadable",
    "memory_limit",
    "oom_killed",
    "signal",
    "exit",
    "stalled",
    "child_failed",
    "timeout",
    "hung",
    "cancelled",
]
REASONS: tuple[str, ...] = get_args(Reason)

NEVER_RETRIED: frozenset[str] = frozenset({"invalid_payload", "unreadable", "stalled", "child_failed", "cancelled"})
_LEFT_TOLD_BYTES = 8 * MIB
MEMORY_DEATHS: frozenset[str] = frozenset({"memory_limit", "oom_killed"})


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run failed. Stored in `hq:failure` with the run's `ats`.

    reason: one of `Reason`. detail: one line for people. signal: number, if a signal ended the child. stack: text of
    the traceback, or None. last_logs: the last lines the job wrote (at most 20). last_progress: JSON value of its last
    progress, or None. evidence: what the reason rests on, JSON: sizes in bytes (`peak_bytes limit_bytes limit_of
    container_bytes container_limit_bytes`), `oom_kill` (the kernel's counter that moved), `killed_by`, `processes`.
    """

    reason: Reason
    detail: str
    signal: int | None = None
    stack: str | None = None
    last_logs: tuple[str, ...] = ()
    last_progress: Any = None
    evidence: Mapping[str, Any] | None = None

    def to_json(self, started: int) -> bytes:
        return json.dumps({"ats": started, **_plain(self)}, allow_nan=False).encode()

    @property
    def by_the_container(self) -> bool:
        """True for a death by memory that others may have caused: the container was full, not the job over its own.

        A job that held more than it had asked for is to blame all the same.
        """
        evidence = self.evidence or {}
        asked = evidence.get("request_bytes")
        if self.reason == "oom_killed":  # its peak is of resident memory, files too: no reason
            return evidence.get("limit_of") != "group"
        if asked is not None and evidence.get("peak_bytes", 0) - evidence.get("left_by_earlier_jobs_bytes", 0) > asked:
            return False
        return self.reason == "memory_limit" and evidence.get("limit_of") == "container"

    @property
    def trace(self) -> str:
        """What a reader of BullMQ's stack traces sees: the traceback, else the reason; then the evidence."""
        lines = [self.stack or f"{self.reason}: {self.detail}"]
        lines += [f"    {name}: {value}" for name, value in evidence_in_words(self.evidence or {})]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run used.

    peak_rss_bytes: the most that was resident in the run: of the child, or of its tree as sampled. cpu_s: user +
    system, of the child and of what it waited for. memory_timeline: seconds since the start, and the charge in bytes.
    """

    peak_rss_bytes: int
    cpu_s: float
    wall_s: float
    memory_timeline: tuple[tuple[float, int], ...] = ()

    def to_json(self, started: int) -> bytes:
        return json.dumps({"ats": started, **_plain(self)}, allow_nan=False).encode()


def _plain(record: Failure | Usage) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def evidence_in_words(evidence: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the evidence of a failure for people, as pairs of a name and a text."""
    return [(name, _shown(name, value)) for name, value in evidence.items()]


def _shown(name: str, value: Any) -> str:
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{value} ({in_words(value)})"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def killed_by_signal(signal: int, name: str) -> Failure:
    """Word the death of a child by a signal that heavyq did not send. name: `SIGKILL` and its kin."""
    return Failure(
        "signal",
        f"the child was killed by signal {signal} ({name})",
        signal=signal,
        evidence={"killed_by": "unknown"},
    )


def exited(code: int) -> Failure:
    """Word the end of a child that called `os._exit` or fell out of its loop in the middle of a job."""
    return Failure("exit", f"the child exited with code {code} in the middle of the job")


def out_of_time(limit_s: float) -> Failure:
    """Word the stop of a job that ran longer than its timeout."""
    return Failure("timeout", f"stopped by heavyq: the job ran longer than its timeout, {limit_s:g} s")


def hung(limit_s: float) -> Failure:
    """Word the stop of a job that made no progress for its progress_timeout."""
    return Failure("hung", f"stopped by heavyq: no progress for {limit_s:g} s, its progress_timeout")


def cancelled(reason: str) -> Failure:
    """Word the stop of a job that somebody has cancelled. reason: theirs, may be empty."""
    return Failure("cancelled", f"cancelled: {reason}" if reason else "cancelled")


def deferred(text: str) -> Failure:
    """Word the failure of a job that must not run. text: what BullMQ, or a sweep of ours, wrote into its hash."""
    if text.startswith("child ") and text.endswith(" failed"):
        return Failure("child_failed", text)
    if text == "cancelled" or text.startswith("cancelled: "):
        return Failure("cancelled", text)
    return Failure("stalled", text)


CHILDREN_FAILED = Failure("child_failed", "a child of the job has failed, and fails it")
CHILDREN_PENDING = Failure("exception", "the job returned while children of it were not done: raise WaitForChildren")
STARTED_TOO_OFTEN = Failure("stalled", "job started more than allowable limit")


@dataclass(frozen=True, slots=True)
class MemorySeen:
    """What the watch knew of a run when it was stopped, or last before it died. Sizes in bytes; None: not known.

    charge: of the job, its processes and what it leaked; peak: the most that was seen. left: of that, what earlier jobs
    of the child have left in it. request: what its queue asked for. processes: the largest.
    """

    charge_bytes: int
    peak_bytes: int
    left_bytes: int = 0
    request_bytes: int | None = None
    processes: tuple[tuple[str, int], ...] = ()
    container_bytes: int | None = None
    container_limit_bytes: int | None = None


def over_its_limit(seen: MemorySeen, limit_bytes: int) -> Failure:
    """Word the stop of a job that went over its memory_limit."""
    return Failure(
        "memory_limit",
        f"stopped by heavyq: the job held {in_words(seen.charge_bytes)} of memory, its memory_limit is "
        f"{in_words(limit_bytes)}"
        + (f" ({in_words(seen.left_bytes)} were left by earlier jobs)" if seen.left_bytes >= _LEFT_TOLD_BYTES else ""),
        evidence={
            "peak_bytes": seen.peak_bytes,
            "limit_bytes": limit_bytes,
            "limit_of": "job",
            **_surroundings(seen),
            "killed_by": "heavyq",
        },
    )


def container_full(seen: MemorySeen, limit_bytes: int | None) -> Failure:
    """Word the stop of the job whose loss was cheapest when the container was nearly full."""
    use, whole = in_words(seen.container_bytes or 0), in_words(seen.container_limit_bytes or 0)
    return Failure(
        "memory_limit",
        f"stopped by heavyq before the kernel would: the container held {use} of its {whole}, and this job "
        f"{in_words(seen.charge_bytes)} of that"
        + ("" if limit_bytes is None else f" (its memory_limit is {in_words(limit_bytes)})"),
        evidence={
            "peak_bytes": seen.peak_bytes,
            "limit_bytes": seen.container_limit_bytes,
            "limit_of": "container",
            **_surroundings(seen),
            "killed_by": "heavyq",
        },
    )


@dataclass(frozen=True, slots=True)
class OomKill:
    """A counter of the kernel's kills for want of memory that moved. own: it counts in the child's own group only."""

    counter: str
    before: int
    after: int
    own: bool = False

    def plain(self) -> dict[str, Any]:
        return {"counter": self.counter, "before": self.before, "after": self.after}


def oom_killed(kill: OomKill) -> Failure:
    """Word the kernel's kill of a child: a SIGKILL that heavyq did not send, and a counter that rose."""
    return Failure(
        "oom_killed",
        f"the kernel killed the child for want of memory: oom_kill went from {kill.before} to {kill.after}",
        signal=9,
        evidence={"killed_by": "kernel", "oom_kill": kill.plain()},
    )


def with_memory(failure: Failure, seen: MemorySeen, limit_bytes: int | None, group_limit_bytes: int | None) -> Failure:
    """Add to the death of a child what was last known of its memory. A peak is evidence, never a reason."""
    evidence = {**(failure.evidence or {}), "peak_bytes": seen.peak_bytes, **_surroundings(seen)}
    if group_limit_bytes is not None and failure.reason == "oom_killed":
        evidence |= {"limit_bytes": group_limit_bytes, "limit_of": "group"}
    elif limit_bytes is not None:
        evidence |= {"limit_bytes": limit_bytes, "limit_of": "job"}
    return replace(failure, evidence=evidence)


def with_kill_below(failure: Failure, kill: OomKill) -> Failure:
    """Add that the kernel killed something for memory while the job ran, which then failed in its own words.

    In the child's own group it was a process of this job, and that is the reason. Else it may have been another's.
    """
    evidence = {**(failure.evidence or {}), "oom_kill": kill.plain()}
    if kill.own:
        detail = f"the kernel killed a process of the job for want of memory; then: {failure.detail}"
        own = {"killed_by": "kernel", "limit_of": "group"}
        return replace(failure, reason="oom_killed", detail=detail, evidence={**evidence, **own})
    detail = f"{failure.detail} (meanwhile the kernel killed a process of this container for want of memory)"
    return replace(failure, detail=detail, evidence=evidence)


def _surroundings(seen: MemorySeen) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if seen.left_bytes >= _LEFT_TOLD_BYTES:
        told["left_by_earlier_jobs_bytes"] = seen.left_bytes
    if seen.request_bytes is not None:
        told["request_bytes"] = seen.request_bytes
    if seen.container_bytes is not None:
        told |= {"container_bytes": seen.container_bytes, "container_limit_bytes": seen.container_limit_bytes}
    if seen.processes:
        told["processes"] = [list(one) for one in seen.processes]
    return told
