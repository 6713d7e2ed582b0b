"""What it costs to replace a child that has grown: from the last line of its last job to the first line of the next.

Seen by the jobs themselves: each returns its seat, its child and the times of its first and last line, and another
waits behind it. What a seat's pause takes longer where the child changes is the price of the change.
"""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench.figures import spread
from tests.bench.rig import MEMORY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.figures import Numbers
    from tests.bench.rig import Place, Rig

_LEAK_MB = 20
_RECYCLE = "500M"
_JOB_S = 0.2


@dataclass(frozen=True, slots=True)
class Pause:
    """Between two jobs of one seat. changed: the second had another child."""

    ms: float
    changed: bool


def pauses(rig: Rig, jobs: int) -> Callable[[], Numbers]:
    """Return the measurement of one round: a child that is replaced after each job, and one that stays."""

    def one_round() -> Numbers:
        changes = _pauses_of(rig, jobs, "--recycle-rss", "16Mi")
        stays = _pauses_of(rig, jobs)
        assert all(one.changed for one in changes), "a child that has grown was not replaced"
        assert not any(one.changed for one in stays)
        stays_ms = statistics.median(one.ms for one in stays)
        return {**spread([one.ms for one in changes], "ms"), "stays_p50_ms": round(stays_ms, 3)}

    return one_round


def _pauses_of(rig: Rig, jobs: int, *argv: str) -> list[Pause]:
    with rig.idle_worker(MEMORY, "-c", "1", *argv) as (place, _):
        return _leak(place, jobs, 0.0)


def leaks(rig: Rig, jobs: int) -> Numbers:
    """Run jobs that leak at concurrency 2; return which share of the run went by with replacing children."""
    with rig.idle_worker(MEMORY, "-c", "2", "--recycle-rss", _RECYCLE) as (place, _):
        began_s = time.monotonic()
        found = _leak(place, jobs, _JOB_S)
        seconds = time.monotonic() - began_s
    usual_ms = statistics.median(one.ms for one in found if not one.changed)
    cost_ms = [max(0.0, one.ms - usual_ms) for one in found if one.changed]
    assert cost_ms, f"{jobs} jobs are too few: no child was replaced"
    return {
        "jobs": jobs,
        "leak_mb": _LEAK_MB,
        "job_s": _JOB_S,
        "recycle_rss": _RECYCLE,
        "run_s": round(seconds, 1),
        "replaced": len(cost_ms),
        **spread(cost_ms, "ms"),
        "share_percent": round(sum(cost_ms) / (2 * seconds * 1000) * 100, 2),
    }


def _leak(place: Place, jobs: int, seconds: float) -> list[Pause]:
    job_ids = place.jobs.add_all([("leak", {"mb": _LEAK_MB, "seconds": seconds})] * jobs)
    place.wait_completed(1 + jobs, 120)
    return list(_by_seat(sorted(place.returned(job_ids), key=lambda run: (run[0], run[2]))))


def _by_seat(runs: list[list[int]]) -> Iterator[Pause]:
    for (seat, child, _, ended_ns), (next_seat, next_child, began_ns, _) in itertools.pairwise(runs):
        if seat == next_seat:
            yield Pause((began_ns - ended_ns) / 1e6, child != next_child)
