"""A payload of 100 MB: what it does to a neighbour's lock, and what the supervisor needs for it.

Payloads over `max_payload` are refused by `add`; any other producer may store one all the same.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from heavyq.bullmq import ops
from tests.bench.renewal import WORKER, LockWatch
from tests.bench.rig import settle

if TYPE_CHECKING:
    from tests.bench.figures import Numbers
    from tests.bench.rig import Rig

_HOLD_S = 60
_BEFORE_AND_AFTER_S = 2.5


def measure(rig: Rig, payload_bytes: int, jobs: int) -> Numbers:
    """Run jobs with such a payload, one after the other, beside a job whose lock is watched."""
    data = json.dumps({"text": "x" * payload_bytes}).encode()
    with rig.idle_worker(*WORKER) as (place, worker):
        supervisor = worker.find("supervisor").pid
        at_rest = _peak_bytes(supervisor)
        neighbour = place.jobs.add("hold", {"seconds": _HOLD_S})
        took_s = []
        with LockWatch(rig, place, neighbour) as watch:
            settle(_BEFORE_AND_AFTER_S)
            for done in range(1, jobs + 1):
                began_s = time.monotonic()
                add = ops.add(place.key, name="size", data=data, opts=b"{}", timestamp_ms=time.time_ns() // 1_000_000)
                big = place.jobs.client.run(add).id
                place.wait_completed(1 + done)  # the first is the one that the worker began with
                took_s.append(time.monotonic() - began_s)
                place.raw.unlink(place.key.key(big))
            settle(_BEFORE_AND_AFTER_S)
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
