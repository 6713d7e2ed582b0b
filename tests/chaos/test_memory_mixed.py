"""Bombs, leakers and innocents side by side in a container: the guilty alone are stopped, the kernel never acts."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import procs
from tests.support.eventually import eventually
from tests.support.group import memory_group
from tests.support.memory import APP, GIB, MIB, evidence, expect_shared_given_back, reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.jobs import Jobs
    from tests.support.worker import Worker

pytestmark = pytest.mark.timeout(240)

LIMIT = 400 * MIB
CONTAINER = 2 * GIB

# name, data, how many: 140 that stay far below 400 MiB
INNOCENT: list[tuple[str, dict[str, Any], int]] = [
    ("pid", {}, 40),
    ("plain", {"step_mib": 20, "up_to_mib": 200}, 20),
    ("numpy", {"step_mib": 20, "up_to_mib": 200}, 20),
    ("subprocess", {"step_mib": 20, "up_to_mib": 160}, 20),
    ("shared", {"step_mib": 20, "up_to_mib": 100}, 10),
    ("posix-shared", {"step_mib": 20, "up_to_mib": 100}, 10),
    ("write-file", {"mib": 64}, 10),
    ("leak", {"mb": 20}, 10),
]
# and 60 that would take 1,200
GUILTY: list[tuple[str, dict[str, Any], int]] = [
    ("plain", {"step_mib": 20, "pause_s": 0.005}, 15),
    ("plain", {"step_mib": 2, "pause_s": 0.001}, 10),
    ("numpy", {"step_mib": 20}, 10),
    ("subprocess", {"step_mib": 20}, 10),
    ("shared", {"step_mib": 20}, 5),
    ("posix-shared", {"step_mib": 20}, 5),
    ("fast", {}, 5),
]


def standing(worker: Worker, jobs: Jobs, folder: Path) -> tuple[int, int]:
    """Return how many descriptors and threads the supervisor has while two jobs run."""
    n = procs.new_marker()
    held = jobs.add_all(("hold", {"mark": f"mark-{n}-{one}", "go": f"go-{n}"}) for one in range(2))
    eventually(lambda: all((folder / f"mark-{n}-{one}").exists() for one in range(2)), 15, "two jobs run")
    pid = worker.find("supervisor").pid
    eventually(lambda: len(worker.all("child")) == 2, 5, "two children")
    found = len(procs.fds(pid)), len(list(Path(f"/proc/{pid}/task").iterdir()))
    (folder / f"go-{n}").touch()
    for job_id in held:
        jobs.result(job_id)
    return found


def test_200_mixed_jobs_cost_the_guilty_alone(run_worker: Callable[..., Worker], jobs: Jobs, tmp_path: Path) -> None:
    mark = procs.new_marker()
    mixed = [(name, {"mark": mark, **data}, False) for name, data, times in INNOCENT for _ in range(times)]
    mixed += [
        (name, {"mark": mark, "up_to_mib": 1200, **data}, True) for name, data, times in GUILTY for _ in range(times)
    ]
    assert (len(mixed), sum(guilty for *_, guilty in mixed)) == (200, 60)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    random.Random(seed).shuffle(mixed)

    with memory_group(CONTAINER) as group:
        worker = run_worker(APP, "-c", "2", "--memory-limit", "400Mi", group=group)
        standing_before = standing(worker, jobs, tmp_path)
        whole = [worker.find(role) for role in ("guard", "supervisor", "zygote")]
        most_bytes = 0
        began_s = time.monotonic()
        ids = jobs.add_all((name, data) for name, data, _ in mixed)

        def all_settled() -> bool:
            nonlocal most_bytes
            if not worker.running:
                pytest.fail("the worker has ended")
            most_bytes = max(most_bytes, group.held_bytes())
            counts = jobs.counts()
            return counts.get("completed", 0) + counts.get("failed", 0) == len(ids) + 2

        eventually(all_settled, 180, "all jobs are settled")
        seconds = time.monotonic() - began_s
        records = jobs.read_all(ids)
        ended = Counter(
            ("guilty" if guilty else "innocent", record.state, reason(record), (record.failure or {}).get("signal"))
            for (*_, guilty), record in zip(mixed, records, strict=True)
        )
        print(
            f"measured: 200 mixed jobs in {seconds:.1f} s; most that the container held: {most_bytes / MIB:.0f} of "
            f"{CONTAINER / MIB:.0f} MiB; kernel kills: {group.oom_kills()}; {dict(ended)}"
        )
        wrong = [
            (record.id, record.name, data, record.state, record.failed_reason or record.returnvalue)
            for (_, data, guilty), record in zip(mixed, records, strict=True)
            if (record.state, reason(record)) != (("failed", "memory_limit") if guilty else ("completed", None))
        ]
        assert not wrong, wrong[:5]
        assert group.oom_kills() == 0, "the kernel never kills"
        assert all(proc.still_runs() for proc in whole)
        assert {(r.attempts_started, r.stalled_count) for r in records} == {(1, 0)}
        guilty = [evidence(r) for r in records if r.state == "failed"]
        assert {(why["limit_of"], why["limit_bytes"], why["killed_by"]) for why in guilty} == {("job", LIMIT, "heavyq")}
        peaks = sorted(round(why["peak_bytes"] / MIB) for why in guilty)
        print(f"measured: peaks of the guilty, limit 400 MiB: median {peaks[30]}, worst {peaks[-1]} MiB")
        expect_shared_given_back(mark)
        eventually(lambda: not [p for p in worker.whole_tree() if p.zombie], 3, "no zombie stays")
        eventually(lambda: standing(worker, jobs, tmp_path) == standing_before, 10, f"no more than {standing_before}")
        worker.stop()
