"""Run heavyq as its users do: `python -m heavyq ...`, a process of its own, on a module in its own folder.

Owns the processes that it starts, by pid: a worker's guard, and what stands below it by parentage and title.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.support import procs
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.support.group import MemoryGroup
    from tests.support.procs import Proc

REPOSITORY = Path(__file__).resolve().parents[2]
STOP_S = 30.0


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this environment without what would configure heavyq, with the repository importable."""
    ours = re.compile(r"HEAVYQ_|REDIS_URL$|WORKER_TYPE$|PYTEST_|COV_")
    kept = {name: value for name, value in os.environ.items() if not ours.match(name)}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "HEAVYQ_EMBEDDED": "0", **(extra or {})}


@dataclass(frozen=True, slots=True)
class Finished:
    """What a command that has ended left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


def heavyq(
    *argv: str, folder: Path, env: Mapping[str, str] | None = None, stdin: str = "", timeout_s: float = 60.0
) -> Finished:
    """Run one `heavyq` command to its end in `folder`."""
    done = subprocess.run(
        [sys.executable, "-m", "heavyq", *argv],
        cwd=folder,
        env=environment(env),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


class Worker:
    """One `heavyq run`. Use as a context manager, or start() and stop().

    folder: its current folder, which holds the module; its log is `<folder>/worker-<n>.log`.
    argv: what stands after `run`. group: the memory group to run it in, as in a container.
    """

    def __init__(
        self,
        folder: Path,
        argv: Sequence[str] = (),
        *,
        env: Mapping[str, str] | None = None,
        group: MemoryGroup | None = None,
    ) -> None:
        self.folder = folder
        self.group = group
        self.argv = list(argv)
        self.log_path = folder / f"worker-{len(list(folder.glob('worker-*.log')))}.log"
        self._env = environment(env)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the worker. Returns at once: `find` and `wait_log` wait."""
        assert self._process is None, "already started"
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*(self.group.prefix_argv if self.group else []), sys.executable, "-m", "heavyq", "run", *self.argv],
                cwd=self.folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C at the tests is not for the worker
                preexec_fn=procs.term_when_we_die(),  # noqa: PLW1509 - one prctl, takes no lock
            )

    # ---- ending it ----------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The guard: the process that was started."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Tell whether the guard runs."""
        return self._process is not None and self._process.poll() is None

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Wait for the worker's end; return its exit code (-9 when the guard itself was SIGKILLed)."""
        assert self._process is not None, "not started"
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pass
        raise AssertionError(f"still runs after {timeout_s:g} s\n{procs.outline(self.pid)}\n{self.tail()}")

    def term(self) -> None:
        """SIGTERM to the guard, as an orchestrator does."""
        os.kill(self.pid, signal.SIGTERM)

    def stop(self, timeout_s: float = STOP_S) -> int:
        """End the worker by TERM (KILL if that does not do) and see that nothing of it is left."""
        if self._process is None:
            return 0
        whole = self.whole_tree()
        if self.running:
            for proc in whole:
                self._signal(proc, signal.SIGCONT)  # a test may have failed with the tree stopped
            self.term()
        try:
            return self.wait(timeout_s)
        finally:
            whole += self.whole_tree()
            if self.running:
                self._process.kill()
            self._process.wait()
            self.expect_gone(whole)

    def kill(self, role: str, signum: int = signal.SIGKILL) -> Proc:
        """Signal one process of the tree by its role (see `find`); return what it was."""
        proc = self.find(role)
        self._signal(proc, signum)
        return proc

    def signal_tree(self, signum: int) -> list[Proc]:
        """Signal every process of the tree, the guard first; return them."""
        whole = self.whole_tree()
        for proc in whole:
            self._signal(proc, signum)
        return whole

    # ---- looking at it ------------------------------------------------------------------------------------

    def whole_tree(self) -> list[Proc]:
        """Return the guard and everything below it, zombies included, parents before children."""
        guard = procs.look(self.pid)
        return ([guard] if guard else []) + procs.tree(self.pid)

    def all(self, role: str) -> list[Proc]:
        """Return the living processes of a role, now: "guard", "supervisor", "zygote" or "child".

        More words narrow it: a child's title is `heavyq child <queue> <id>` or `heavyq child idle`.
        """
        if role == "guard":
            return [proc for proc in self.whole_tree()[:1] if not proc.zombie]
        title = f"heavyq {role}"
        at_or_below = [p for s in procs.children(self.pid) for p in (s, *procs.children(s.pid))]
        return [p for p in at_or_below if (p.title + " ").startswith(title + " ") and not p.zombie]

    def find(self, role: str, timeout_s: float = 15.0) -> Proc:
        """Wait for a process of this role and return it (the first, if there are several)."""

        def look() -> list[Proc]:
            assert self.running, f"the worker has ended\n{self.tail()}"
            return self.all(role)

        try:
            return eventually(look, timeout_s)[0]
        except AssertionError as error:
            raise AssertionError(f"no {role}: {error}\n{procs.outline(self.pid)}\n{self.tail()}") from None

    def expect_gone(self, whole: Iterable[Proc], within_s: float = 5.0) -> None:
        """Check that none of these processes runs any more."""
        watched = {proc.pid: proc for proc in whole}.values()

        def none_left() -> bool:
            left = [proc for proc in watched if proc.still_runs()]
            assert not left, left
            return True

        eventually(none_left, within_s, "every process of the worker is gone")

    @property
    def log(self) -> str:
        """Everything that the worker wrote to stdout and stderr so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def wait_log(self, pattern: str, timeout_s: float = 15.0) -> re.Match[str]:
        """Wait until the log matches a regular expression; return the match."""

        def look() -> re.Match[str] | None:
            return re.search(pattern, self.log)

        found = eventually(look, timeout_s, f"log line {pattern!r} in {self.log_path}")
        assert found is not None
        return found

    def tail(self, lines: int = 40) -> str:
        """Return the last lines of the log, for failure messages."""
        return "\n".join(self.log.splitlines()[-lines:])

    @staticmethod
    def _signal(proc: Proc, signum: int) -> None:
        if proc.still_runs():
            os.kill(proc.pid, signum)
