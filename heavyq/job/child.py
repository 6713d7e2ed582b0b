"""A child: one process that runs user code, in its main thread: one job at a time, or many as tasks of one loop.

Owns what happens in the process between its fork and its first job, and its end; what is between them is `job.single`'s
or `job.tasks`'. It opens no Redis connection of its own accord. It dies with the supervisor.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from setproctitle import setproctitle

from heavyq.config import what_was_raised, why_it_does_not_import
from heavyq.job import loading, records, wire
from heavyq.job.channel import Channel
from heavyq.job.home import Home, Loops
from heavyq.job.report import DETAIL_MAX
from heavyq.job.signals import restore_in_forks, shrug
from heavyq.job.single import Single
from heavyq.job.trace import trace_of
from heavyq.linux.process import become_subreaper, die_with_parent, set_oom_score_adj
from heavyq.queue import registry


@dataclass(frozen=True, slots=True)
class Birth:
    """What a child needs to know at its birth.

    group: path of the kernel group that it enters, None for none. modules: what it must import itself; none, if the
    zygote has imported them. seats: jobs at once; of more than one, each is a task of one event loop.
    """

    slot: int
    supervisor_pid: int
    middle_pid: int
    workdir: Path
    nice: int
    oom_score_adj: int
    group: str | None = None
    modules: tuple[str, ...] = ()
    seats: int = 1


def main(birth: Birth, sock: socket.socket, log_fd: int) -> int:
    """Run the child's whole life; return its exit code. The caller `_exit`s with it."""
    _be_born(birth, log_fd)
    channel = Channel(sock)
    loop = Loops()
    not_ready = _get_ready(birth, loop)
    if not_ready is not None:
        why, error = not_ready
        channel.send(wire.NOT_READY, {"error": why[:DETAIL_MAX]}, trace_of(error).encode("utf-8", "replace"))
        return 1
    _enter_group(birth.group)
    setproctitle("heavyq child idle")
    home = Home(birth.workdir, loop)
    channel.send(wire.READY, {"whole": True})
    if birth.seats > 1:
        from heavyq.job.tasks import Tasks

        loop.get().run(Tasks(birth.slot, channel, home).serve())
    else:
        Single(birth.slot, channel, home).serve()
    for hook in registry.child_stop_hooks:
        try:
            loop.call(hook)
        except BaseException:  # an async one that awaits a task it has cancelled raises CancelledError
            logging.getLogger("heavyq").exception("@child_stop hook %s failed", getattr(hook, "__qualname__", hook))
    return 0


def _be_born(birth: Birth, log_fd: int) -> None:
    """Become a process of our own, in the order that leaves no gap: see docs/explain/processes.md."""
    set_oom_score_adj(birth.oom_score_adj)
    os.setpgid(0, 0)
    become_subreaper()
    while (parent := os.getppid()) == birth.middle_pid:
        time.sleep(0.0001)
    if parent != birth.supervisor_pid:
        os._exit(1)
    die_with_parent(signal.SIGKILL)
    if os.getppid() != birth.supervisor_pid:
        os._exit(1)
    with contextlib.suppress(OSError):
        os.nice(birth.nice)
    shrug()
    restore_in_forks()
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    os.close(log_fd)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    setproctitle("heavyq child starting")
    gc.enable()
    if (numpy_random := sys.modules.get("numpy.random")) is not None:
        numpy_random.seed(int.from_bytes(os.urandom(4), "big"))
    os.environ["HEAVYQ_SLOT"] = str(birth.slot)
    os.environ["TMPDIR"] = str(birth.workdir)
    if (tempfile := sys.modules.get("tempfile")) is not None:
        setattr(tempfile, "tempdir", None)  # noqa: B010 - a module's; it may have been asked, and remembered, in the zygote
    records.tell_records()


def _get_ready(birth: Birth, loop: Loops) -> tuple[str, BaseException] | None:
    """Run what the user's modules do before the first job; return why it cannot be done, None if it was."""
    try:
        if birth.modules:
            loading.load_here(birth.modules)
    except BaseException as error:  # noqa: BLE001 - a module may raise anything, SystemExit too
        names = ", ".join(birth.modules)
        return f"a spawned child cannot import {names}: {why_it_does_not_import(error, birth.modules)}", error
    for hook in registry.child_start_hooks:
        try:
            loop.call(hook)
        except BaseException as error:  # noqa: BLE001 - whatever the user's hook raises is theirs, and is reported
            return f"@child_start {getattr(hook, '__qualname__', hook)} raised {what_was_raised(error)}", error
    return None


def _enter_group(path: str | None) -> None:
    """Enter the kernel group that will be limited while a job runs.

    Only now: what a child was born with, and what its hooks have loaded, is not charged to its jobs.
    """
    if path is None:
        return
    from heavyq.linux.groups import enter

    try:
        enter(path)
    except OSError as error:
        print(f"heavyq: this child runs without a memory group of its own: {error}")
