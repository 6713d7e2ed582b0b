"""Dispatch: from `queue.add` in a producer to the first line of user code in a child.

The yardstick is a bare PING by redis-py, taken between the adds of the same run: no worker can be faster than
several of these in a row, and what disturbs the machine disturbs both.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from tests.bench.figures import percentile
from tests.bench.rig import BARE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.figures import Numbers
    from tests.bench.rig import Place, Rig

_EVERY_S = 0.02


def measure(rig: Rig, samples: int) -> Callable[[], Numbers]:
    """Return the measurement of one round: a worker that waits, and one job after the other."""

    def one_round() -> Numbers:
        with rig.idle_worker(BARE, "-c", "2") as (place, _):
            waits_ms, pings_ms = latencies_ms(place, samples)
        return {
            "samples": samples,
            "p50_ms": round(statistics.median(waits_ms), 3),
            "p99_ms": round(percentile(waits_ms, 99), 3),
            "ping_p50_ms": round(statistics.median(pings_ms), 3),
            "ping_p99_ms": round(percentile(pings_ms, 99), 3),
        }

    return one_round


def latencies_ms(place: Place, samples: int, every_s: float = _EVERY_S) -> tuple[list[float], list[float]]:
    """Add jobs to a worker that waits; return how long each waited for its first line, and the PINGs between."""
    place.queue.add("short", {})  # the producer's first: it imports what it needs, and connects
    added_ns, pings_ms, job_ids = [], [], []
    for _ in range(samples):
        time.sleep(every_s / 2)
        began_ns = time.monotonic_ns()
        place.raw.ping()
        pings_ms.append((time.monotonic_ns() - began_ns) / 1e6)
        time.sleep(every_s / 2)
        added_ns.append(time.monotonic_ns())
        job_ids.append(place.queue.add("first-line", {}, remove_on_complete=False).id)
    place.jobs.wait(job_ids[-1])
    ran_ns = place.returned(job_ids)
    return [(ran - added) / 1e6 for ran, added in zip(ran_ns, added_ns, strict=True)], pings_ms
