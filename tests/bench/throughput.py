"""Short jobs a second at concurrency 2, and what each costs.

The queue is full from the start; the first fifth and the last twentieth do not count. The yardstick is the same two
scripts (complete, lease) sent by one redis-py client in plain pipelines, two jobs to a pipeline, with no worker.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from heavyq.bullmq import ops
from heavyq.bullmq.lease import LeasedJob
from heavyq.bullmq.options import Keep
from heavyq.bullmq.scripts import script
from tests.bench.rig import BARE, cpu_s

if TYPE_CHECKING:
    from collections.abc import Callable

    from heavyq.bullmq.op import Op
    from tests.bench.figures import Numbers
    from tests.bench.rig import Place, Rig

CONCURRENCY = 2
_ADDED_AT_ONCE = 500
_USAGE = b'{"ats": 1, "peak_rss_bytes": 25000000, "cpu_s": 0.0001, "wall_s": 0.0002}'


def measure(rig: Rig, jobs: int) -> Callable[[], Numbers]:
    """Return the measurement of one round: the worker, then the yardstick."""

    def one_round() -> Numbers:
        worked = _work(rig, jobs)
        with rig.place() as place:
            yardstick_per_s = _pipelines(place, jobs // 2)
        return {**worked, "yardstick_per_s": yardstick_per_s}

    return one_round


def _work(rig: Rig, jobs: int) -> Numbers:
    with rig.place() as place:
        place.jobs.add_all([("short", None)] * jobs)
        with rig.worker(place, BARE, "-c", str(CONCURRENCY)) as worker:
            place.wait_completed(jobs // 5)
            pids = [worker.find("supervisor").pid], [child.pid for child in worker.all("child")]
            began_s, began = time.monotonic(), place.completed()
            supervisor_s, children_s = (sum(map(cpu_s, some)) for some in pids)
            place.wait_completed(jobs * 19 // 20, 120)
            seconds, done = time.monotonic() - began_s, place.completed() - began
            supervisor_after_s, children_after_s = (sum(map(cpu_s, some)) for some in pids)
    return {
        "jobs": done,
        "jobs_per_s": round(done / seconds),
        "supervisor_cpu_us_per_job": round((supervisor_after_s - supervisor_s) / done * 1e6),
        "children_cpu_us_per_job": round((children_after_s - children_s) / done * 1e6),
    }


def _pipelines(place: Place, jobs: int) -> int:
    """Lease and complete jobs as fast as one client can; return how many a second."""
    for at in range(0, jobs, _ADDED_AT_ONCE):
        place.jobs.add_all([("short", None)] * min(_ADDED_AT_ONCE, jobs - at))
    held: list[LeasedJob] = []
    number = done = 0
    began_s = time.monotonic()
    while done < jobs:
        now_ms = time.time_ns() // 1_000_000
        round_trip: list[Op[Any]] = [
            ops.complete(job.lease, now_ms=now_ms, returnvalue=b"1", keep=Keep(), usage=_USAGE) for job in held
        ]
        for _ in range(CONCURRENCY):
            number += 1
            token = f"bench:{number}"
            round_trip.append(ops.lease(place.key, token=token, now_ms=now_ms, lock_ms=30_000, worker_name=None))
        replies = _send(place, round_trip)
        done += len(held)
        held = [reply for reply in replies if isinstance(reply, LeasedJob)]
    return round(done / (time.monotonic() - began_s))


def _send(place: Place, operations: list[Op[Any]]) -> list[Any]:
    pipeline = place.raw.pipeline(transaction=False)
    for op in operations:
        pipeline.evalsha(script(op.verb).sha, len(op.keys), *op.keys, *op.args)  # type: ignore[arg-type]
    return [op.read(reply) for op, reply in zip(operations, pipeline.execute(), strict=True)]
