"""The zygote: imports the user's modules once and forks children, from its only thread.

Started by exec, so that it inherits no state of the supervisor. Owns the imports, the @preload hooks, the
catalogue of what was found, and the forking. Runs no job, opens no Redis. It dies with the supervisor.

A child is forked through a middle process, which names the child on the zygote's socket and only then exits:
so the supervisor, a subreaper, knows a child's name before the child falls to it.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import json
import os
import resource
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from setproctitle import setproctitle

from heavyq.config import import_modules, what_was_raised, why_it_does_not_import
from heavyq.errors import ConfigError
from heavyq.job import wire
from heavyq.job.signals import shrug
from heavyq.linux.frames import Frame, FrameReader, pack
from heavyq.linux.process import close_quietly, die_with_parent
from heavyq.queue import connection, registry

if TYPE_CHECKING:
    from heavyq.job.child import Birth

_FDS_PER_FORK = 2


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
    setproctitle("heavyq zygote")
    sock.set_inheritable(False)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    requests = _Requests(sock)
    first = requests.next()
    if first is None:
        return 0
    config = first[0].head
    _restore_nofile(config["nofile"])
    gc.disable()
    try:
        catalogue = _load(config)
    except BaseException as error:  # noqa: BLE001 - a module may raise anything, SystemExit too
        sock.sendall(
            pack(wire.BROKEN, {"error": why_it_does_not_import(error, config["modules"])[:4096]}, _trace(error))
        )
        return ConfigError.exit_code
    gc.collect()
    gc.freeze()
    sock.sendall(pack(wire.CATALOGUE, None, json.dumps(catalogue).encode()))
    while (request := requests.next()) is not None:
        _fork_child(sock, requests, *request, supervisor_pid)
    return 0


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


# ---- importing --------------------------------------------------------------------------------------------


def _load(config: Any) -> dict[str, Any]:
    """Import the modules, run the @preload hooks, and return the catalogue."""
    connection.set_worker_default(config["redis_url"], config["prefix"])
    import_modules(config["modules"])
    found = catalogue(config["prefix"])
    _preload()
    return found


def catalogue(prefix: str) -> dict[str, Any]:
    """Describe what the modules declared, in plain JSON: queues with a processor, their options, their connections.

    Raises ConfigError for a declaration that this worker cannot serve.
    """
    queues = []
    for queue in registry.queues():
        if not queue.processors:
            continue
        for processor in queue.processors.values():
            processor.payload_codec.check_type()  # made here once, so that no child has to
            processor.result_codec.check_type()
            _refuse_async(processor.function, f"a processor of queue {queue.name}")
        queues.append(
            {
                "name": queue.name,
                "prefix": queue.key(prefix).prefix,
                "profile": queue.profile.to_json(),
                "options": dict(queue.code_options),
                "url": queue.connection_url,
                "processors": [name for name in queue.processors if name is not None],
            }
        )
    for hook in (*registry.preload_hooks, *registry.child_start_hooks, *registry.child_stop_hooks):
        _refuse_async(hook, "a hook")
    return {"queues": queues, "declared": [q.name for q in registry.queues()]}


def _refuse_async(function: Callable[..., Any], what: str) -> None:
    for called in (function, type(function).__call__):
        if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
            name = getattr(function, "__qualname__", type(function).__qualname__)
            raise ConfigError(f"{name} ({what}) is `async def`: not built yet; use `def`")


def _preload() -> None:
    """Run the @preload hooks in a thread that ends, with pools of one thread.

    A pool of GNU OpenMP belongs to the thread that made it and its threads are not in a forked child: made in
    the main thread, it hangs every child.
    """
    if not registry.preload_hooks:
        return
    raised: list[BaseException] = []

    def run() -> None:
        try:
            with _one_thread_pools():
                for hook in registry.preload_hooks:
                    _preload_one(hook)
        except BaseException as error:  # noqa: BLE001 - carried to the main thread and raised there
            raised.append(error)

    thread = threading.Thread(target=run, name="preload")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def _preload_one(hook: Callable[[], Any]) -> None:
    try:
        hook()
    except BaseException as error:
        name = getattr(hook, "__qualname__", hook)
        raise ConfigError(f"@preload {name} raised {what_was_raised(error)}") from error


def _one_thread_pools() -> contextlib.AbstractContextManager[Any]:
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return contextlib.nullcontext()
    limits: contextlib.AbstractContextManager[Any] = threadpool_limits(limits=1)
    return limits


def _trace(error: BaseException) -> bytes:
    return "".join(traceback.format_exception(error)).encode("utf-8", "replace")


def _restore_nofile(soft: int) -> None:
    """The supervisor raised its own limit for its descriptors; user code gets what the user had."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# ---- forking ----------------------------------------------------------------------------------------------


def _fork_child(sock: socket.socket, requests: _Requests, frame: Frame, fds: list[int], supervisor_pid: int) -> None:
    """Fork one child through a middle process; a fork that fails is a reply."""
    child = frame.head["child"]
    try:
        middle = os.fork()
    except OSError as error:
        _cannot_fork(sock, child, error)
        middle = -1
    if middle == 0:
        requests.close_unclaimed()
        _be_middle(sock, frame, fds, supervisor_pid)
    for fd in fds:
        close_quietly(fd)
    if middle > 0:
        os.waitpid(middle, 0)  # ended only after its answer: answers never mix on the socket


def _be_middle(sock: socket.socket, frame: Frame, fds: list[int], supervisor_pid: int) -> NoReturn:
    middle_pid = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        _cannot_fork(sock, frame.head["child"], error)
        os._exit(0)
    if pid == 0:
        sock.close()
        birth = _birth(frame, middle_pid, supervisor_pid)
        _end(lambda: _run_child(birth, fds))
    sock.sendall(pack(wire.FORKED, {"child": frame.head["child"], "pid": pid}))
    os._exit(0)


def _birth(frame: Frame, middle_pid: int, supervisor_pid: int) -> Birth:
    from heavyq.job.child import Birth

    return Birth(
        slot=frame.head["slot"],
        supervisor_pid=supervisor_pid,
        middle_pid=middle_pid,
        workdir=Path(frame.head["workdir"]),
        nice=frame.head["nice"],
        oom_score_adj=frame.head["oom_score_adj"],
    )


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


def _cannot_fork(sock: socket.socket, child: int, error: OSError) -> None:
    why = f"cannot fork: {error}; is a limit of processes or memory reached?"
    sock.sendall(pack(wire.NOT_FORKED, {"child": child, "error": why}))
