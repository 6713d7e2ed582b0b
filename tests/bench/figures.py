"""Numbers out of samples, and how often to take them."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROUNDS = 3
Numbers = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much a run measures. scale: of sample counts and times, 1 in full."""

    scale: float
    rounds: int

    def count(self, full: int, *, at_least: int = 5) -> int:
        """Return how many samples to take."""
        return max(at_least, round(full * self.scale))

    def seconds(self, full: float) -> float:
        """Return how long to watch, at least 4 s."""
        return max(4.0, full * self.scale)


FULL = Effort(1.0, ROUNDS)
QUICK = Effort(0.1, 1)


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the smallest sample that at least this share of all samples does not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def spread(samples: Sequence[float], unit: str) -> Numbers:
    """Return median, p95 and worst of the samples, under names that end in their unit."""
    return {
        "samples": len(samples),
        f"p50_{unit}": round(statistics.median(samples), 3),
        f"p95_{unit}": round(percentile(samples, 95), 3),
        f"worst_{unit}": round(max(samples), 3),
    }


def best_round(rounds: int, measure: Callable[[], Numbers], by: str, *, highest: bool = False) -> Numbers:
    """Measure several times; return the round with the best `by`, and in `rounds` what each of them had.

    The machine may be busy with other things: the best round is the one that it disturbed least.
    """
    all_rounds = [measure() for _ in range(rounds)]
    pick = max if highest else min
    return {**pick(all_rounds, key=lambda one: one[by]), "rounds": [one[by] for one in all_rounds]}
