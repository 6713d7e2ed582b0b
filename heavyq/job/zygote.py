"""The zygote: imports the user's modules once and forks children, from its only thread.

Started by exec, so that it inherits no state of the supervisor. Owns its order of life, the forking, and the proof
that forks can work. Runs no job, opens no Redis. It dies with the supervisor. A bare one imports nothing of the
user's: its children do that themselves (`start_method="spawn"`).

A child is forked through a middle process, which names the child on the zygote's socket and only then exits:
so the supervisor, a subreaper, knows a child's name before the child falls to it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import socket
import sys
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from setproctitle import setproctitle

from heavyq.config import why_it_does_not_import
from heavyq.errors import ConfigError
from heavyq.job import hazards, loading, wire
from heavyq.job.canary import LIMIT_S, Canary
from heavyq.job.signals import hear_of_deaths, shrug
from heavyq.job.trials import trials
from heavyq.linux.frames import Frame, FrameReader, pack
from heavyq.linux.process import close_quietly, die_with_parent, oom_score_adj, set_oom_score_adj

if TYPE_CHECKING:
    from heavyq.job.child import Birth

_FDS_PER_FORK = 2
_ZYGOTE_OOM_SCORE_ADJ = 500


def start() -> NoReturn:
    """Be the zygote of the supervisor that started this process: `-c "..." SOCKET SUPERVISOR_PID`."""
    import pydantic  # noqa: F401 - these are imported here once, so that no child has to

    import heavyq.job.child  # noqa: F401

    sys.exit(main(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])))


def main(sock: socket.socket, supervisor_pid: int) -> int:
    """Serve one supervisor until it is gone; return the exit code."""
    die_with_parent(signal.SIGKILL)
    if os.getppid() != supervisor_pid:
        return 1
    shrug()
    sock.set_inheritable(False)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    requests = _Requests(sock)
    first = requests.next()
    if first is None:
        return 0
    return _Zygote(sock, requests, first[0].head, supervisor_pid).live()


class _Requests:
    """Frames from the supervisor, each with the descriptors that came with it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = FrameReader()
        self._fds: deque[int] = deque()
        self._whole: deque[Frame] = deque()

    def next(self) -> tuple[Frame, list[int]] | None:
        """Wait for a request; None when the supervisor is gone."""
        while not self._whole:
            data, fds, _, _ = socket.recv_fds(self._sock, 65536, 64, socket.MSG_CMSG_CLOEXEC)
            if not data:
                return None
            self._fds.extend(fds)
            self._whole.extend(self._reader.feed(data))
        frame = self._whole.popleft()
        wanted = _FDS_PER_FORK if frame.kind == wire.FORK else 0
        return frame, [self._fds.popleft() for _ in range(wanted)]

    def close_unclaimed(self) -> None:
        """Close what came for later requests: a child must not hold its sibling's ends."""
        for fd in self._fds:
            close_quietly(fd)


class _Zygote:
    """One zygote: its socket, its configuration, and the supervisor that it dies with."""

    def __init__(
        self, sock: socket.socket, requests: _Requests, config: Mapping[str, Any], supervisor_pid: int
    ) -> None:
        self._sock, self._requests, self._config = sock, requests, config
        self._supervisor_pid = supervisor_pid
        self._bare = bool(config.get("bare"))
        self._oom_score_adj = oom_score_adj()
        # Where no child is left to kill, the kernel takes a zygote, which is replaced, before the supervisor.
        set_oom_score_adj(max(self._oom_score_adj, _ZYGOTE_OOM_SCORE_ADJ))
        setproctitle("heavyq zygote bare" if self._bare else "heavyq zygote")

    def live(self) -> int:
        """Load, tell what was found, and fork whenever it is asked; return the exit code."""
        _restore_nofile(self._config["nofile"])
        gc.disable()
        loading.set_defaults(self._config)
        try:
            catalogue = {} if self._bare else loading.load_to_fork(self._config)
        except BaseException as error:  # noqa: BLE001 - a module may raise anything, SystemExit too
            why = why_it_does_not_import(error, self._config["modules"])[:4096]
            self._sock.sendall(pack(wire.BROKEN, {"error": why}, _trace(error)))
            return ConfigError.exit_code
        loading.settle()
        hear_of_deaths()
        self._sock.sendall(pack(wire.CATALOGUE, None, json.dumps(catalogue).encode()))
        while (request := self._requests.next()) is not None:
            frame, fds = request
            if frame.kind == wire.CHECK:
                self._check()
            else:
                self._fork_child(frame, fds)
        return 0

    # ---- proving

    def _check(self) -> None:
        """Tell whether forks of this process can work; by a canary, where nothing is known against them."""
        problem, stack = hazards.refusal(), ""
        if problem is None and (tried := trials()):
            limit_s = self._config.get("canary_s", LIMIT_S)
            problem, stack = self._send_canary(Canary(tried, limit_s=limit_s))
        head = {"problem": problem, "warning": hazards.warning()}
        self._sock.sendall(pack(wire.CHECKED, head, stack.encode("utf-8", "replace")))

    def _send_canary(self, canary: Canary) -> tuple[str | None, str]:
        try:
            pid = os.fork()
        except OSError as error:
            canary.close()
            return _why_not_forked(error), ""
        if pid == 0:
            self._sock.close()
            self._requests.close_unclaimed()
            canary.sing()
        try:
            return canary.verdict(pid)
        finally:
            canary.close()

    # ---- forking

    def _fork_child(self, frame: Frame, fds: list[int]) -> None:
        """Fork one child through a middle process; a fork that fails is a reply."""
        try:
            middle = os.fork()
        except OSError as error:
            self._cannot_fork(frame, error)
            middle = -1
        if middle == 0:
            self._requests.close_unclaimed()
            self._be_middle(frame, fds)
        for fd in fds:
            close_quietly(fd)
        if middle > 0:
            os.waitpid(middle, 0)  # ended only after its answer: answers never mix on the socket

    def _be_middle(self, frame: Frame, fds: list[int]) -> NoReturn:
        middle_pid = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._cannot_fork(frame, error)
            os._exit(0)
        if pid == 0:
            self._sock.close()
            _end(lambda: _run_child(self._birth(frame.head, middle_pid), fds))
        self._sock.sendall(pack(wire.FORKED, {"child": frame.head["child"], "pid": pid}))
        os._exit(0)

    def _birth(self, head: Mapping[str, Any], middle_pid: int) -> Birth:
        from heavyq.job.child import Birth

        return Birth(
            slot=head["slot"],
            supervisor_pid=self._supervisor_pid,
            middle_pid=middle_pid,
            workdir=Path(head["workdir"]),
            nice=head["nice"],
            oom_score_adj=max(self._oom_score_adj, head["oom_score_adj"]),
            group=head.get("group"),
            modules=tuple(self._config["modules"]) if self._bare else (),
            seats=head.get("seats", 1),
        )

    def _cannot_fork(self, frame: Frame, error: OSError) -> None:
        self._sock.sendall(pack(wire.NOT_FORKED, {"child": frame.head["child"], "error": _why_not_forked(error)}))


def _why_not_forked(error: OSError) -> str:
    return f"cannot fork: {error}; is a limit of processes or memory reached?"


def _run_child(birth: Birth, fds: list[int]) -> int:
    from heavyq.job import child

    return child.main(birth, socket.socket(fileno=fds[0]), fds[1])


def _end(run: Callable[[], int]) -> NoReturn:
    """Run the child and leave without the interpreter's clean-up: its state belongs to the zygote."""
    code = 1
    try:
        code = run()
    except BaseException:  # noqa: BLE001 - a bug of ours, or a signal's: show it in the worker's log
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


def _trace(error: BaseException) -> bytes:
    return "".join(traceback.format_exception(error)).encode("utf-8", "replace")


def _restore_nofile(soft: int) -> None:
    """The supervisor raised its own limit for its descriptors; user code gets what the user had."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
