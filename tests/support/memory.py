"""Jobs that take memory in every way there is, and a look from outside at what a worker's children hold.

Owns the text of the module that the memory tests run, and the sampler. Reads /proc by itself: a test must not
believe the meter that it tests. Every job here gives up by itself some way past any limit, and completes: so a
limit that nobody enforces is a failed test, not a machine without memory.
"""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.support.eventually import eventually

if TYPE_CHECKING:
    from heavyq.bullmq.job_hash import JobRecord
    from tests.support.worker import Worker

MIB = 2**20
GIB = 2**30

APP = """
    import ctypes
    import mmap
    import os
    import subprocess
    import sys
    import time
    from multiprocessing import shared_memory
    from pathlib import Path

    from heavyq import Queue

    q = Queue("q")
    MIB = 2**20
    GIB = 2**30
    POPULATE_WRITE = 23
    kept = []


    def wait_for(path, for_s=60):
        until_s = time.monotonic() + for_s
        while not Path(path).exists() and time.monotonic() < until_s:
            time.sleep(0.005)


    def anonymous(size, shared=False):
        return mmap.mmap(-1, size, flags=(mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE) | mmap.MAP_ANONYMOUS)


    def fill(buffer):
        ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(buffer)), 1, len(buffer))


    @q.processor("pid")
    def pid(job):
        return os.getpid()


    @q.processor("hold")
    def hold(job):  # as much as it is told, until it may go
        mine = b"x" * (job.data.get("mib", 0) * MIB)
        Path(job.data["mark"]).write_text(str(os.getpid()))
        wait_for(job.data["go"])
        return os.getpid()


    @q.processor("plain")
    def plain(job):  # step by step, with Python's own allocator
        mine = []
        for _ in range(job.data["up_to_mib"] // job.data["step_mib"]):
            mine.append(b"x" * (job.data["step_mib"] * MIB))
            time.sleep(job.data.get("pause_s", 0))
        return "not stopped"


    @q.processor("numpy")
    def with_numpy(job):
        import numpy

        steps = range(job.data["up_to_mib"] // job.data["step_mib"])
        mine = [numpy.ones(job.data["step_mib"] * MIB // 8) for _ in steps]
        return "not stopped"


    @q.processor("fast")
    def fast(job):  # one write after the other, with no pause and no Python in between
        mine = anonymous(job.data["up_to_mib"] * MIB)
        if job.data.get("huge"):
            mine.madvise(mmap.MADV_HUGEPAGE)
        fill(mine)
        return "not stopped"


    @q.processor("subprocess")
    def through_a_subprocess(job):
        code = '''
    import sys, time
    up_to, step, mine = int(sys.argv[1]), int(sys.argv[2]), []
    while len(mine) * step < up_to:
        mine.append(b"x" * (step * 2**20))
        time.sleep(0.005)
    '''
        subprocess.run([sys.executable, "-c", code, str(job.data["up_to_mib"]), str(job.data["step_mib"])], check=True)
        return "not stopped"


    @q.processor("shared")
    def shared(job):  # anonymous memory that its own subprocesses would share
        mine = []
        for _ in range(job.data["up_to_mib"] // job.data["step_mib"]):
            mine.append(anonymous(job.data["step_mib"] * MIB, shared=True))
            fill(mine[-1])
        return "not stopped"


    @q.processor("posix-shared")
    def posix_shared(job):  # as torch and multiprocessing pass arrays
        mine, size = [], job.data["step_mib"] * MIB
        for n in range(job.data["up_to_mib"] // job.data["step_mib"]):
            name = f"heavyq-test-{job.data['mark']}-{job.id}-{n}"
            mine.append(shared_memory.SharedMemory(name, create=True, size=size))
            ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(mine[-1].buf)), 1, size)
        for block in mine:
            block.close()
            block.unlink()
        return "not stopped"


    @q.processor("forks")
    def through_forks(job):  # little in itself, and each fork writes over its own copy
        mine = bytearray(b"x") * (job.data["step_mib"] * MIB)
        pids = []
        for _ in range(job.data["up_to_mib"] // job.data["step_mib"]):
            if (pid := os.fork()) == 0:
                fill(mine)
                time.sleep(60)
                os._exit(0)
            pids.append(pid)
            time.sleep(0.05)
        for pid in pids:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        return "not stopped"


    @q.processor("leak")
    def leak(job):  # what outlives the job
        began_s = time.monotonic()
        kept.append(b"x" * int(job.data["mb"] * 1e6))
        time.sleep(job.data.get("s", 0))
        return os.getpid(), began_s, time.monotonic()


    @q.processor("one-call")
    def one_call(job):  # all pages in one system call: no signal but SIGKILL is taken in the middle of it
        if "go" in job.data:
            Path(job.data["mark"]).write_text(str(os.getpid()))
            wait_for(job.data["go"])
        mine = anonymous(job.data["mib"] * MIB)
        mine.madvise(POPULATE_WRITE)
        return "not stopped"


    @q.processor("read-file")
    def read_file(job):
        import numpy

        mapped = numpy.memmap(job.data["path"], dtype="u1", mode="r")
        total = 0
        for at in range(0, len(mapped), 64 * MIB):
            total += int(mapped[at : at + 64 * MIB : 4096].sum())
        return len(mapped)


    @q.processor("write-file")
    def write_file(job):
        block = bytes(8 * MIB)
        path = f"written-{job.id}.bin"
        with open(path, "wb") as out:
            for _ in range(job.data["mib"] // 8):
                out.write(block)
        size = os.path.getsize(path)
        os.remove(path)
        return size
"""


def give_up_at(limit_bytes: int) -> int:
    """Return, in MiB, how far a bomb goes by itself when nobody stops it: past any excuse, not past the machine."""
    return 2 * limit_bytes // MIB


def evidence(record: JobRecord) -> dict[str, Any]:
    """Return what a job's failure rests on; fails the test, saying how the job ended, if there is none."""
    assert record.state == "failed", f"job {record.id} is {record.state}: {record.returnvalue!r}"
    failure = record.failure or {}
    assert failure.get("evidence"), f"job {record.id} ({record.name}) failed without evidence: {failure}"
    found: dict[str, Any] = failure["evidence"]
    return found


def reason(record: JobRecord) -> str | None:
    """Return the reason of a failed job, None for one that has not failed."""
    return (record.failure or {}).get("reason") if record.state == "failed" else None


def oom_counter() -> int:
    """Return how often the kernel has killed for want of memory, on this machine, in any group."""
    for line in Path("/proc/vmstat").read_text().splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0


def expect_shared_given_back(mark: str) -> None:
    """Wait until what the jobs `posix-shared` of this mark had in /dev/shm is gone; remove what may be left.

    One block of each may: a job can die between making a block and telling multiprocessing's tracker of it.
    """

    def given_back() -> list[Path]:
        left = list(Path("/dev/shm").glob(f"heavyq-test-{mark}-*"))
        jobs = [path.name.rsplit("-", 1)[0] for path in left]
        assert len(jobs) == len(set(jobs)), left
        return [*left, Path("/dev/shm")]

    for path in eventually(given_back, 5, "shared memory is given back")[:-1]:
        path.unlink()


class Sampler:
    """Looks at a worker's tree from a thread of its own, many times a second, and remembers the most that was held.

    peak_of: by child, what it and all below it held above what the child itself held when first seen. Pages that
    several of its processes share count once for each, so only jobs without forks of their own are measured exactly.
    tree_peak_bytes: everything below and with the guard.
    """

    def __init__(self, worker: Worker, every_s: float = 0.004) -> None:
        self._worker, self._every_s = worker, every_s
        self._supervisor = worker.find("supervisor").pid
        self._zygotes = {proc.pid for proc in worker.all("zygote")}
        self._first: dict[int, int] = {}
        self.peak_of: dict[int, int] = defaultdict(int)
        self.tree_peak_bytes = 0
        self.looks = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def peak_bytes(self) -> int:
        """The most that any child held."""
        return max(self.peak_of.values(), default=0)

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            self._look()

    def _look(self) -> None:
        whole = held_bytes(self._worker.pid) + held_bytes(self._supervisor)
        for pid in _children(self._supervisor):
            own = held_bytes(pid)
            tree = own + sum(held_bytes(p) for p in _below(pid))
            whole += tree
            if pid in self._zygotes or not own:
                continue
            self.peak_of[pid] = max(self.peak_of[pid], tree - self._first.setdefault(pid, own))
        self.tree_peak_bytes = max(self.tree_peak_bytes, whole)
        self.looks += 1


def held_bytes(pid: int) -> int:
    """Return the anonymous and the shared memory that a process has resident, 0 when it is gone."""
    held = 0
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_bytes().splitlines():
            if line.startswith((b"RssAnon:", b"RssShmem:")):
                held += int(line.split()[1]) * 1024
    return held


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_bytes().split()]
    return []


def _below(pid: int) -> list[int]:
    found = _children(pid)
    for child in found:  # grows while it is walked
        found += _children(child)
    return found
