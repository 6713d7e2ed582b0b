"""What runs on this machine, read from /proc: trees by parentage, marked strangers, descriptors.

Owns the tests' own view of processes, apart from heavyq's: a test must not believe what it tests. Never
signals a process that the tests did not start.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import signal
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)
_marks = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Proc:
    """One process as it was when looked at. started: kernel ticks since boot; with the pid it is unique."""

    pid: int
    ppid: int
    state: str
    title: str
    started: int

    @property
    def zombie(self) -> bool:
        """Dead, but not reaped by its parent."""
        return self.state in "ZX"

    def still_runs(self) -> bool:
        """Tell whether this very process (not a later one of its pid) is alive now; a zombie is not."""
        now = look(self.pid)
        return now is not None and now.started == self.started and not now.zombie


def become_subreaper() -> None:
    """Make this process the one to which orphans below it fall, so that no leaked process can hide."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def term_when_we_die() -> Callable[[], None] | None:
    """Return a `preexec_fn` that ends what is started by SIGTERM when these tests are killed.

    None in a side thread: the signal belongs to the thread that forks, and would come at that thread's end.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    return lambda: _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def look(pid: int) -> Proc | None:
    """Return one process, None when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    comm, _, rest = stat.partition(b"(")[2].rpartition(b")")
    fields = rest.split()
    words = command.replace(b"\0", b" ").strip() or b"[" + comm + b"]"
    return Proc(pid, int(fields[1]), fields[0].decode(), words.decode(errors="replace"), int(fields[19]))


def alive(pid: int) -> bool:
    """Tell whether a process of this pid runs; a zombie does not."""
    seen = look(pid)
    return seen is not None and not seen.zombie


def children(pid: int) -> list[Proc]:
    """Return the direct children of a process, zombies included."""
    pids: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                pids += map(int, (task / "children").read_bytes().split())
    return [seen for child in pids if (seen := look(child)) is not None]


def tree(pid: int) -> list[Proc]:
    """Return everything below a process (without itself), parents before children, zombies included."""
    found = children(pid)
    for proc in found:  # grows while it is walked: breadth first
        found += children(proc.pid)
    return found


def outline(pid: int) -> str:
    """Draw a process and what is below it, for failure messages."""

    def lines(proc: Proc, depth: int) -> list[str]:
        own = f"{'  ' * depth}{proc.pid} {proc.state} {proc.title[:100]}"
        return [own, *itertools.chain.from_iterable(lines(c, depth + 1) for c in children(proc.pid))]

    top = look(pid)
    return "\n".join(lines(top, 0)) if top else f"{pid} is gone"


def new_marker() -> str:
    """Return a number that no other process has as an argument: `sleep <marker>` can be found anywhere."""
    return f"9{os.getpid():07d}{next(_marks):04d}"


def marked(marker: str) -> list[Proc]:
    """Return every living process with `marker` as one of its arguments, whoever its parent is."""
    found = []
    needle = marker.encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if needle in (entry / "cmdline").read_bytes().split(b"\0"):
                seen = look(int(entry.name))
                if seen is not None and not seen.zombie:
                    found.append(seen)
    return found


def fds(pid: int | str = "self") -> dict[int, str]:
    """Return the open descriptors of a process and what each is."""
    found: dict[int, str] = {}
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # the descriptor of this very listing
                found[int(entry.name)] = str(entry.readlink())
    return found


def pss_bytes(pid: int) -> int:
    """Return the proportional set size of a process; 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def kill_all(found: Iterable[Proc]) -> None:
    """SIGKILL these processes, if they are still the same ones."""
    for proc in found:
        if proc.still_runs():
            with contextlib.suppress(ProcessLookupError):
                os.kill(proc.pid, signal.SIGKILL)


@contextlib.contextmanager
def running(*argv: str, **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Start a program; in the end it and all below it are killed: a test that fails then fails, and does not hang."""
    with subprocess.Popen(argv, **options) as process:
        try:
            yield process
        finally:
            kill_all([*tree(process.pid), *filter(None, [look(process.pid)])])
