"""A container's control group, made by hand on cgroup v2: what Docker, Kubernetes or systemd would make.

Owns the folders below /sys/fs/cgroup that it makes, and everything that was started in them. Reads the kernel's own
files for the tests: they must not believe what they test.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.support.eventually import eventually
from tests.support.worker import environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path("/sys/fs/cgroup")
MIB = 1 << 20
_ENTER = 'echo 0 > "$0/cgroup.procs" && exec "$@"'
# What a container runtime does after it has put the process into its group: a namespace, and cgroups mounted in it.
_MOUNT = 'umount "$0" && mount -t cgroup2 none "$0" && exec "$@"'
CONTAINED = ["unshare", "--cgroup", "--mount", "sh", "-c", _MOUNT, str(ROOT)]
_REMOUNT = 'mount -o remount,bind,ro "$0" && exec "$@"'
READ_ONLY = ["unshare", "--mount", "sh", "-c", _REMOUNT, str(ROOT)]
_SCRIPT_S = 120.0


class Pod:
    """One group. Use as a context manager: at its end all in it is killed, and it is removed.

    oom_group: memory.oom.group, which Kubernetes sets since 1.28. front: words before a worker's command line, such as
    CONTAINED.
    """

    def __init__(
        self,
        name: str,
        limit_bytes: int | None = None,
        *,
        oom_group: bool = False,
        front: Sequence[str] = (),
        parent: Path = ROOT,
    ) -> None:
        self.path = parent / name
        self._front = front
        self.path.mkdir()
        if limit_bytes is not None:
            self.write("memory.max", limit_bytes)
            self.write("memory.swap.max", 0)
        if oom_group:
            self.write("memory.oom.group", 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.write("cgroup.kill", 1)
        eventually(lambda: "populated 0" in self.read("cgroup.events"), 60.0, f"{self.path} is empty")
        for folder, _, _ in os.walk(self.path, topdown=False):
            os.rmdir(folder)

    @property
    def prefix_argv(self) -> list[str]:
        """What to put before a command, as `tests.support.group` has it: a worker takes this group as any other."""
        return self.inside(*self._front)

    def inside(self, *argv: str) -> list[str]:
        """Return the command line that runs `argv` in this group; its pid stays the same."""
        return ["/bin/sh", "-c", _ENTER, str(self.path), *argv]

    @contextlib.contextmanager
    def stranger(self) -> Iterator[int]:
        """Run a process that is not the worker's in this group, and yield its pid."""
        with subprocess.Popen(self.inside("sleep", "100000")) as process:
            comm = Path(f"/proc/{process.pid}/comm")
            try:
                eventually(lambda: self.pids() == [process.pid] and comm.read_text() == "sleep\n", 60.0, "it sleeps")
                yield process.pid
            finally:
                process.kill()

    # ---- the kernel's files -------------------------------------------------------------------------------

    def write(self, name: str, value: int | str) -> None:
        """Write one of the group's files."""
        (self.path / name).write_text(str(value))

    def read(self, name: str) -> str:
        """Return the text of one of the group's files."""
        return (self.path / name).read_text()

    def number(self, name: str, key: str = "") -> int:
        """Return a file's number, or that of a key in it."""
        words = self.read(name).split()
        return int(words[words.index(key) + 1] if key else words[0])

    def pids(self) -> list[int]:
        """Return the processes in the group itself."""
        return [int(pid) for pid in self.read("cgroup.procs").split()]

    def kills(self) -> int:
        """Return how many processes the kernel has killed for memory, here and below."""
        return self.number("memory.events", "oom_kill")

    def groups(self) -> dict[str, list[int]]:
        """Return the groups directly below, and the processes in each."""
        found = {}
        for path in self.path.iterdir():
            with contextlib.suppress(OSError):
                if path.is_dir():
                    found[path.name] = [int(pid) for pid in (path / "cgroup.procs").read_text().split()]
        return found


def python(argv: Sequence[str], script: str) -> Any:
    """Run a script by `argv` (the front of a command line) and Python; return the JSON of its last line."""
    done = subprocess.run(
        [*argv, sys.executable, "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=_SCRIPT_S,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])


def group_of(pid: int) -> Path:
    """Return the group of a process."""
    line = Path(f"/proc/{pid}/cgroup").read_text().strip()
    return ROOT / line.removeprefix("0::/")
