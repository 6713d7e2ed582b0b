"""How late the renewal of a lock comes, while something is in its way.

Seen from outside: with a lock of 3 s the worker renews once a second. Every 20 ms the lock's moment of expiry is read
(PEXPIRETIME: PTTL as a point on the server's own clock, so that a look that comes late itself does no harm); less the
lock's time that is when it was last set. How far these moments lie behind a grid of one second is their lateness; the
grid is laid through the earliest of them, as nobody outside knows where it begins.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Self

from tests.bench.rig import BARE, cpu_hogs

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tests.bench.figures import Numbers
    from tests.bench.rig import Place, Rig

LOCK_MS = 3000
_PERIOD_MS = 1000
_LOOK_EVERY_S = 0.02
WORKER = (BARE, "-c", "2", "--set", f"bench.lock_duration={LOCK_MS}ms", "--drain-timeout", "0s")


def under_cpu_hogs(rig: Rig, hogs: int, seconds: float) -> Numbers:
    """Measure beside this many processes that never wait."""
    return _watch_job(rig, "hold", seconds, cpu_hogs(hogs))


def under_gil_hog(rig: Rig, hogs: int, seconds: float) -> Numbers:
    """Measure on a job that holds its interpreter's GIL for its whole life, beside processes that never wait."""
    return _watch_job(rig, "hog", seconds, cpu_hogs(hogs))


def _watch_job(rig: Rig, name: str, seconds: float, disturbance: AbstractContextManager[Any]) -> Numbers:
    with rig.idle_worker(*WORKER) as (place, _), disturbance:
        job_id = place.jobs.add(name, {"seconds": round(seconds)})
        with LockWatch(rig, place, job_id) as watch:
            time.sleep(seconds - 1)
        place.jobs.wait(job_id, timeout_s=30)
        return watch.lateness()


class LockWatch:
    """Notes the moments at which one job's lock is set, in a thread, on a connection of its own."""

    def __init__(self, rig: Rig, place: Place, job_id: str) -> None:
        self._rig, self._lock = rig, place.key.key(f"{job_id}:lock")
        self._set_ms: list[int] = []
        self._slowest_s = self._blind_s = 0.0
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="lock-watch")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    def _look_on(self) -> None:
        with self._rig.server.redis(socket_timeout=60.0) as raw:
            looked_s = time.monotonic()
            while not self._enough.wait(_LOOK_EVERY_S):
                began_s = time.monotonic()
                expires_ms: Any = raw.pexpiretime(self._lock)
                now_s = time.monotonic()
                self._slowest_s = max(self._slowest_s, now_s - began_s)
                self._blind_s, looked_s = max(self._blind_s, now_s - looked_s), now_s
                if expires_ms > 0 and (not self._set_ms or expires_ms - LOCK_MS != self._set_ms[-1]):
                    self._set_ms.append(expires_ms - LOCK_MS)

    def lateness(self) -> Numbers:
        """Return how late the renewals came, and how little time the lock ever had left."""
        renewed_ms = self._set_ms[1:]  # the first is the lease
        assert len(renewed_ms) > 1, f"the lock was set at {self._set_ms} only"
        assert self._blind_s * 1000 < _PERIOD_MS, "a renewal may have come and gone between two looks: measure again"
        # Each has its place on the grid, in its order: the one that is nearest to its place counts as in time.
        offset_ms = [at_ms - n * _PERIOD_MS for n, at_ms in enumerate(renewed_ms)]
        late_ms = [offset - min(offset_ms) for offset in offset_ms]
        gaps_ms = [after - before for before, after in zip(self._set_ms, renewed_ms, strict=False)]
        return {
            "renewals": len(renewed_ms),
            "late_p50_ms": sorted(late_ms)[len(late_ms) // 2],
            "late_worst_ms": max(late_ms),
            "lock_ms": LOCK_MS,
            "least_left_ms": LOCK_MS - max(gaps_ms),
            "slowest_look_ms": round(self._slowest_s * 1000),
            "longest_between_looks_ms": round(self._blind_s * 1000),
        }
