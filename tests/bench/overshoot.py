"""How far past its memory_limit a job gets that takes memory in one way or another, before it is stopped.

Seen from outside: the child is put into a memory group of its own while it is idle, so that the kernel tells the most
that the job ever held. What the child was born with is charged elsewhere, as heavyq does too. The group has no limit
that matters, or about the one that heavyq sets where it may make such groups itself (cgroup v2).
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from tests.bench import app_memory
from tests.bench.figures import spread
from tests.bench.rig import MEMORY
from tests.support.group import memory_group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.figures import Numbers
    from tests.bench.rig import Place, Rig
    from tests.support.group import MemoryGroup
    from tests.support.worker import Worker

MIB = 2**20
LIMIT_MIB = 1024
_GIVES_UP_MIB = 4 * LIMIT_MIB
_KERNEL_LIMIT_MIB = LIMIT_MIB + LIMIT_MIB // 10 + 16  # as heavyq's, which adds what the child was born with
_NO_LIMIT_MIB = 2 * _GIVES_UP_MIB

PACED = ("steps", "arrays")
# As fast as the machine can; done here, for so many MiB, it tells how fast that is.
FAST: dict[str, Callable[[int], object]] = {
    "small-pages": lambda mib: app_memory.fault_in(mib, huge=False),
    "huge-pages": lambda mib: app_memory.fault_in(mib, huge=True),
    "one-call": app_memory.populate,
}


def measure(rig: Rig, bomb: str, rounds: int, *, kernel: bool = False) -> Numbers:
    """Let it go off again and again, each time in a new child. kernel: its group has a limit, too."""
    group_mib = _KERNEL_LIMIT_MIB if kernel else _NO_LIMIT_MIB
    past_mib, ends, kills = [], [], 0
    with rig.place() as place, rig.worker(place, MEMORY, "-c", "1", "--memory-limit", f"{LIMIT_MIB}Mi") as worker:
        for _ in range(rounds):
            place.jobs.result(place.jobs.add("short"))  # makes the child
            with _group_of(worker, group_mib) as group:
                ends.append(_go_off(place, bomb))
                past_mib.append(group.peak_bytes() / MIB - LIMIT_MIB)
                kills += bool(group.oom_kills())
    return {
        **spread(past_mib, "mib"),
        "limit_mib": LIMIT_MIB,
        "group_limit_mib": group_mib if kernel else None,
        "stopped_by_heavyq": ends.count("memory_limit"),
        "killed_by_kernel": kills,
        "not_stopped": ends.count(None),
        "fastest_gib_per_s": max(_gib_per_s(FAST[bomb]) for _ in range(3)) if bomb in FAST else None,
    }


def _go_off(place: Place, bomb: str) -> str | None:
    """Return the reason with which the job failed, None if nobody stopped it."""
    record = place.jobs.wait(place.jobs.add(bomb, {"up_to_mib": _GIVES_UP_MIB}), timeout_s=60)
    return record.failure["reason"] if record.failure else None


@contextlib.contextmanager
def _group_of(worker: Worker, limit_mib: int) -> Iterator[MemoryGroup]:
    """Put the worker's only child into a group of its own; the job's end is the child's."""
    try:
        with memory_group(limit_mib * MIB) as group:
            (group.path / "cgroup.procs").write_text(str(worker.find("child").pid))
            yield group
    except pytest.skip.Exception as error:
        raise AssertionError(str(error)) from None


def _gib_per_s(take: Callable[[int], object]) -> float:
    began_s = time.monotonic()
    take(LIMIT_MIB)
    return round(LIMIT_MIB / 1024 / (time.monotonic() - began_s), 1)
