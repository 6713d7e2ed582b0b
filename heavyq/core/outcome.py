"""How a run ended, in plain data and in words. The only place that words a cause of death.

Decides the sentence that Bull Board, the log and `heavyq job` show for each reason. Knows no process, no
clock, no Redis. Driven by `core.run` (which outcome) and by the worker (which writes it).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

Reason = Literal[
    "exception",
    "invalid_payload",
    "invalid_result",
    "result_too_large",
    "no_processor",
    "unreadable",
    "signal",
    "exit",
    "stalled",
]
REASONS: tuple[str, ...] = get_args(Reason)

NEVER_RETRIED: frozenset[str] = frozenset({"invalid_payload", "unreadable", "stalled"})


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run failed. Stored in `hq:failure` with the run's `ats`.

    reason: one of `Reason`. detail: one line for people. signal: number, only for reason "signal".
    stack: text of the traceback, or None. last_logs: the last lines the job wrote (at most 20).
    last_progress: JSON value of its last progress, or None.
    """

    reason: Reason
    detail: str
    signal: int | None = None
    stack: str | None = None
    last_logs: tuple[str, ...] = ()
    last_progress: Any = None

    def to_json(self, started: int) -> bytes:
        return json.dumps({"ats": started, **_plain(self)}, allow_nan=False).encode()


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run used. peak_rss_bytes: the child's VmHWM in the run. cpu_s: user + system, of the child."""

    peak_rss_bytes: int
    cpu_s: float
    wall_s: float

    def to_json(self, started: int) -> bytes:
        return json.dumps({"ats": started, **_plain(self)}, allow_nan=False).encode()


def _plain(record: Failure | Usage) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def killed_by_signal(signal: int, name: str) -> Failure:
    """Word the death of a child by a signal that heavyq did not send. name: `SIGKILL` and its kin."""
    return Failure("signal", f"the child was killed by signal {signal} ({name})", signal=signal)


def exited(code: int) -> Failure:
    """Word the end of a child that called `os._exit` or fell out of its loop in the middle of a job."""
    return Failure("exit", f"the child exited with code {code} in the middle of the job")
