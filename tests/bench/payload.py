"""A payload of 100 MB: what it does to a neighbour's lock, and what the supervisor needs for it.

Payloads over `max_payload` are refused by `add`; any other producer may store one all the same.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.renewal import WORKER, LockWatch

if TYPE_CHECKING:
    from tests.bench.figures import Numbers
    from tests.bench.rig import Rig

_HOLD_S = 30


def measure(rig: Rig, payload_bytes: int, jobs: int) -> Numbers:
    """Run jobs with such a payload, one after the other, beside a job whose lock is watched."""
    with rig.idle_worker(*WORKER) as (place, worker):
        supervisor = worker.find("supervisor").pid
        at_rest = _peak_bytes(supervisor)
        watch = LockWatch(place, place.jobs.add("hold", {"seconds": _HOLD_S}))
        watch.look_for(2.2)
        text, took_s = "x" * payload_bytes, []
        for _ in range(jobs):
            big = place.jobs.add("size", {"text": text})
            began_s = time.monotonic()
            while place.jobs.counts().get("completed", 0) < 2 + len(took_s):
                watch.look_for(0.05)
                assert time.monotonic() < began_s + 30, worker.tail()
            took_s.append(time.monotonic() - began_s)
            place.raw.unlink(place.key.key(big))
        watch.look_for(2.2)
        peak = _peak_bytes(supervisor)
        numbers = watch.lateness()
    return {
        "payload_mb": payload_bytes / 1e6,
        "jobs": jobs,
        **numbers,
        "job_s": round(min(took_s), 2),
        "supervisor_at_rest_mib": round(at_rest / 2**20),
        "supervisor_peak_mib": round(peak / 2**20),
    }


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)
