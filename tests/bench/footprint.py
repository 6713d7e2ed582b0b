"""What a worker costs that has nothing to do: CPU, wake-ups and memory of each of its processes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.rig import BARE, cpu_s, settle
from tests.support import procs

if TYPE_CHECKING:
    from tests.bench.figures import Numbers
    from tests.bench.rig import Rig

_ROLES = ("guard", "supervisor", "zygote", "child")


def measure(rig: Rig, seconds: float) -> Numbers:
    """Watch a worker with two children that has run a job in each."""
    with rig.idle_worker(BARE, "-c", "2") as (place, worker):
        place.jobs.add_all([("hold", {"seconds": 0.3})] * 2)
        place.wait_completed(3)
        settle(2.0)
        whole = {f"{role} {n}" if n else role: p.pid for role in _ROLES for n, p in enumerate(worker.all(role))}
        before = {role: (cpu_s(pid), _wakeups(pid)) for role, pid in whole.items()}
        settle(seconds)
        processes = {}
        for role, pid in whole.items():
            used_s, woken = cpu_s(pid) - before[role][0], _wakeups(pid) - before[role][1]
            processes[role] = {
                "cpu_percent_of_a_core": round(used_s / seconds * 100, 3),
                "wakeups_per_s": round(woken / seconds, 1),
                "pss_mib": round(procs.pss_bytes(pid) / 2**20, 1),
            }
    total = {name: round(sum(p[name] for p in processes.values()), 3) for name in next(iter(processes.values()))}
    return {"seconds": seconds, "total": total, "processes": processes}


def _wakeups(pid: int) -> int:
    """Return how often the threads of a process have waited for something."""
    return sum(
        int(line.split()[1])
        for task in Path(f"/proc/{pid}/task").iterdir()
        for line in (task / "status").read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches:")
    )
