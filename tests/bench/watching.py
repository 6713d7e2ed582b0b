"""What the watch costs: CPU of the supervisor while its children hold quiet jobs, and the time of one look.

Without a job the watch looks once a second, with one twice, and up to 40 times when a limit is near.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from heavyq.core.memory import LOOK_MIN_S
from heavyq.worker.meter import ChildMeter
from tests.bench.rig import MEMORY, cpu_s, settle, until
from tests.support import procs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.figures import Numbers
    from tests.bench.rig import Rig

_HELD_MIB = 124  # with what a job writes to of its birth, it is within 5 % of the near limit
_LIMITS = {"no_limit": (), "far": ("--memory-limit", "8Gi"), "near": ("--memory-limit", "128Mi")}
_HOLD_S = 120


def supervisor(rig: Rig, children: int, seconds: float) -> Numbers:
    """Watch a supervisor at rest, and then with a job in each child that holds its memory and does nothing."""
    numbers: Numbers = {"seconds": seconds, "held_mib": _HELD_MIB}
    for name, limit in _LIMITS.items():
        with rig.idle_worker(MEMORY, "-c", str(children), "--drain-timeout", "0s", *limit) as (place, worker):
            pid = worker.find("supervisor").pid
            if name == "no_limit":  # make the children, and let them stand idle
                place.jobs.add_all([_job(1.0)] * children)
                place.wait_completed(1 + children)
                settle(2.0)
                numbers["rest_percent"] = _percent(pid, seconds)
            place.jobs.add_all([_job(_HOLD_S)] * children)
            place.jobs.wait_counts({"active": children, "completed": place.completed()})
            settle(2.0)  # until they hold what they hold
            numbers[f"{name}_percent"] = _percent(pid, seconds)
            assert place.jobs.counts()["active"] == children, "a job that holds less than its limit was stopped"
    return numbers


def looks(rig: Rig, count: int) -> Numbers:
    """Time the looks at a child alone, and at one with four processes below it."""
    numbers: Numbers = {"looks": count}
    for below in (0, 4):
        with rig.idle_worker(MEMORY, "-c", "1", "--drain-timeout", "0s") as (place, worker):
            place.jobs.add("keep", {"mib": _HELD_MIB, "seconds": _HOLD_S, "below": below})
            child = worker.find("child").pid
            until(partial(_has_below, child, below), 10, f"{below} processes run below the child")
            settle()
            with _meter(child) as meter:
                numbers[f"p50_us_{below}_below"] = _us(meter, count, LOOK_MIN_S)
                numbers[f"warm_p50_us_{below}_below"] = _us(meter, 10 * count, 0)
    return numbers


def _has_below(pid: int, count: int) -> bool:
    return len(procs.tree(pid)) == count


def _job(seconds: float) -> tuple[str, dict[str, Any]]:
    return "keep", {"mib": _HELD_MIB, "seconds": seconds}


def _percent(pid: int, seconds: float) -> float:
    """Return how much of a core a process takes, with all its threads."""
    before_s = cpu_s(pid)
    settle(seconds)
    return round((cpu_s(pid) - before_s) / seconds * 100, 2)


@contextlib.contextmanager
def _meter(pid: int) -> Iterator[ChildMeter]:
    pidfd = os.pidfd_open(pid)
    meter = ChildMeter(1, pid, pidfd, None)
    try:
        yield meter
    finally:
        meter.close()
        os.close(pidfd)


def _us(meter: ChildMeter, looks: int, every_s: float) -> float:
    """Return the CPU time of a look: one after the other, or with a pause in which the caches go cold."""
    took_ns = []
    for _ in range(looks):
        time.sleep(every_s)
        began_ns = time.thread_time_ns()
        meter.tree()
        took_ns.append(time.thread_time_ns() - began_ns)
    return round(statistics.median(took_ns) / 1000, 1)
