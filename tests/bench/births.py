"""How long a new child takes: a job's wait in a worker that has to fork for it, less its wait in one that has not.

Seen from outside. With `--max-jobs-per-child 1` a worker that waits has no child, for children are made when a job
needs one. What such a job waits longer than another is the way from the worker's request to the child's READY.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from tests.bench.dispatch import latencies_ms
from tests.bench.figures import percentile

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.figures import Numbers
    from tests.bench.rig import Rig

_EVERY_S = 0.12  # in which the child before has gone


def measure(rig: Rig, module: str, samples: int) -> Callable[[], Numbers]:
    """Return the measurement of one round, with what this module imports in the zygote."""

    def one_round() -> Numbers:
        with rig.idle_worker(module, "-c", "1") as (place, _):
            warm_ms, _ = latencies_ms(place, samples)
        with rig.idle_worker(module, "-c", "1", "--max-jobs-per-child", "1") as (place, worker):
            assert not worker.all("child"), "a child stands ready before a job needs it: this measures nothing"
            cold_ms, _ = latencies_ms(place, samples, _EVERY_S)
        warm = statistics.median(warm_ms)
        return {
            "samples": samples,
            "p50_ms": round(statistics.median(cold_ms) - warm, 2),
            "p95_ms": round(percentile(cold_ms, 95) - warm, 2),
            "first_line_p50_ms": round(statistics.median(cold_ms), 2),
        }

    return one_round
