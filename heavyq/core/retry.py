"""What happens after a failed run: the last failure, a retry now, or a retry later. Pure: no clock, no chance.

Decides by the job's own options, as BullMQ does. Knows no wire, writes nothing; `core.run` acts on the verdict.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING
from typing import Final as Constant

from heavyq.core.outcome import NEVER_RETRIED

if TYPE_CHECKING:
    from collections.abc import Callable

DELAY_MAX_MS: Constant = 365 * 24 * 3600 * 1000
"""No retry is put off for longer: scores of `delayed` end in 2039, and exponents grow fast."""

STRATEGY_LEAST_MS: Constant = 1000
_DOUBLINGS_MAX: Constant = 64


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before a retry.

    type: `fixed`, `exponential`, or the name of a strategy that a worker must know. delay_ms: the base.
    jitter: 0 to 1, the part of each wait that is drawn at random.
    """

    type: str
    delay_ms: int
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class Final:
    """The job has failed for good. why: what else to say beside the failure itself, None if nothing."""

    why: str | None = None


@dataclass(frozen=True, slots=True)
class Now:
    """Run it again at once."""


@dataclass(frozen=True, slots=True)
class After:
    """Run it again, `delay_ms` (1 or more) from now."""

    delay_ms: int


STRIKES_MAX = 3  # deaths by memory, all attempts together

Verdict = Final | Now | After


def decide_retry(
    *,
    made: int,
    attempts: int,
    backoff: Backoff | None,
    reason: str,
    rand: Callable[[], float],
    told_ms: int | None = None,
    strategy: bool = False,
) -> Verdict:
    """Decide what follows the failure of a run.

    made: attempts made before this run. attempts: runs allowed in all; 0 and 1 both mean one.
    reason: one of `outcome.Reason`. rand: draws from [0, 1); called only where there is jitter.
    told_ms: the delay that the job itself, or its queue's strategy, has asked for; -1: no retry.
    strategy: the queue has a backoff strategy. It runs in the job's process: a job that was killed there has no answer
    from it, and waits for the delay that stands in its options, a second at least.
    """
    if reason in NEVER_RETRIED or made + 1 >= attempts:
        return Final()
    if told_ms is not None:
        if told_ms < 0:
            return Final()
        return After(min(told_ms, DELAY_MAX_MS)) if told_ms else Now()
    if backoff is None:
        return Now()
    match backoff.type:
        case "fixed":
            whole_ms = backoff.delay_ms
        case "exponential":
            whole_ms = backoff.delay_ms * 2 ** min(made, _DOUBLINGS_MAX)
        case _ if strategy:
            whole_ms = max(backoff.delay_ms, STRATEGY_LEAST_MS)
        case unknown:
            # A guess (no delay) would hammer whatever the strategy was meant to spare.
            return Final(f'not retried: this worker knows no backoff strategy "{unknown}"')
    delay_ms = _with_jitter(min(whole_ms, DELAY_MAX_MS), backoff.jitter, rand)
    return After(delay_ms) if delay_ms > 0 else Now()


def decide_memory_retry(*, strikes: int, backoff: Backoff | None, rand: Callable[[], float]) -> Verdict:
    """Decide what follows a death by memory where the queue allows to run such a job again.

    It burns no attempt and has a budget of its own, so that a job that always runs out does not loop through the
    fleet. strikes: such deaths before this one.
    """
    if strikes + 1 >= STRIKES_MAX:
        return Final(f"it has died of memory {strikes + 1} times: not run again")
    return decide_retry(made=strikes, attempts=STRIKES_MAX, backoff=backoff, reason="", rand=rand)


def _with_jitter(whole_ms: int, jitter: float, rand: Callable[[], float]) -> int:
    """Keep the part of a wait that is certain and draw the rest."""
    drawn = min(max(jitter, 0.0), 1.0)
    if drawn == 0 or whole_ms <= 0:
        return whole_ms
    return math.floor(rand() * whole_ms * drawn + whole_ms * (1 - drawn))
