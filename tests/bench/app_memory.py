"""The same module, with jobs that hold memory, take too much of it, or leave some behind.

A job that takes too much gives up by itself some way past any limit: so a limit that nobody enforces is a number in
the table, not a machine without memory.
"""

import ctypes
import mmap
import os
import subprocess
import time
from typing import Any

from heavyq import Job
from tests.bench.app import q

MB = 10**6
MIB = 2**20
_kept: list[bytes] = []


@q.processor("keep")
def keep(job: Job[dict[str, Any], None]) -> None:  # holds so much, with so many processes below it, and waits
    mine = b"x" * (job.data["mib"] * MIB)
    below = [subprocess.Popen(["sleep", str(job.data["seconds"])]) for _ in range(job.data.get("below", 0))]
    time.sleep(job.data["seconds"])
    for one in below:
        one.wait()
    del mine


@q.processor("steps")
def steps(job: Job[dict[str, Any], str]) -> str:  # 100 MB every 50 ms
    mine = []
    for _ in range(0, job.data["up_to_mib"] * MIB, 100 * MB):
        mine.append(b"x" * (100 * MB))
        time.sleep(0.05)
    return "not stopped"


@q.processor("arrays")
def arrays(job: Job[dict[str, Any], str]) -> str:  # as most do: one numpy array after the other, with no pause
    import numpy as np

    mine = [np.ones(20 * MIB // 8) for _ in range(job.data["up_to_mib"] // 20)]
    return f"not stopped with {len(mine)}"


def fault_in(mib: int, *, huge: bool) -> mmap.mmap:
    """Touch every page of a new mapping as fast as they come: one memset, no Python in between."""
    mine = mmap.mmap(-1, mib * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mine.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(mine)), 1, mib * MIB)
    return mine


def populate(mib: int) -> mmap.mmap:
    """Take all pages in one system call: a SIGSTOP waits for its end."""
    return mmap.mmap(-1, mib * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)


@q.processor("small-pages")
def small_pages(job: Job[dict[str, Any], str]) -> str:
    fault_in(job.data["up_to_mib"], huge=False)
    return "not stopped"


@q.processor("huge-pages")
def huge_pages(job: Job[dict[str, Any], str]) -> str:
    fault_in(job.data["up_to_mib"], huge=True)
    return "not stopped"


@q.processor("one-call")
def one_call(job: Job[dict[str, Any], str]) -> str:
    populate(job.data["up_to_mib"])
    return "not stopped"


@q.processor("leak")
def leak(job: Job[dict[str, Any], list[int]]) -> list[int]:  # its seat, its child, its first line and its last
    began_ns = time.monotonic_ns()
    _kept.append(b"x" * (job.data["mb"] * MB))
    time.sleep(job.data["seconds"])
    return [job.slot, os.getpid(), began_ns, time.monotonic_ns()]
