"""How a run ended, as the child tells it: one value of `Outcome`, and the frame that carries it.

Owns the fields of RESULT, FAILURE, LATER and STOPPED on the child's side. Sends nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, assert_never

from heavyq.core.outcome import Failure
from heavyq.core.retry import DELAY_MAX_MS
from heavyq.job import wire

DETAIL_MAX: Final = 4096
NEVER: Final = -1


@dataclass(frozen=True, slots=True)
class Returned:
    """The function has returned. result: its JSON."""

    result: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """The run failed.

    final: the job said that no retry mends it. retry_ms: when it is to be retried, NEVER for not at all; None leaves
    that to the job's options.
    """

    failure: Failure
    final: bool = False
    retry_ms: int | None = None


@dataclass(frozen=True, slots=True)
class PutOff:
    """The run is over and the job is not: it runs again later."""

    what: Literal["snooze", "rate_limited", "children"]
    delay_ms: int = 0


@dataclass(frozen=True, slots=True)
class Stopped:
    """The run was stopped as it was asked to be."""


Outcome = Returned | Failed | PutOff | Stopped


def frame_of(outcome: Outcome, about: Mapping[str, Any]) -> tuple[bytes, dict[str, Any], bytes]:
    """Return kind, head and body of the report. about: the run, what it used, whether it left nothing.

    Delays are cut at DELAY_MAX_MS: what is longer the supervisor takes for a forgery.
    """
    match outcome:
        case Returned():
            return wire.RESULT, {**about}, outcome.result
        case Failed(failure=failure):
            head = {
                "reason": failure.reason,
                "detail": failure.detail[:DETAIL_MAX],
                "evidence": failure.evidence,
                "final": outcome.final,
                "retry_ms": None if outcome.retry_ms is None else min(outcome.retry_ms, DELAY_MAX_MS),
            }
            return wire.FAILURE, {**about, **head}, (failure.stack or "").encode("utf-8", "replace")
        case PutOff():
            delay_ms = min(outcome.delay_ms, DELAY_MAX_MS)
            return wire.LATER, {**about, "what": outcome.what, "delay_ms": delay_ms}, b""
        case Stopped():
            return wire.STOPPED, {**about}, b""
        case _:
            assert_never(outcome)
