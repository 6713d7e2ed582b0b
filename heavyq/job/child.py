"""A child: one process that runs user code, one job at a time, in its main thread.

Owns everything that happens in the process between its fork and its end. No thread and no Redis connection of
ours lives here. It dies with the supervisor, and cleans up what its jobs leave behind.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setproctitle import setproctitle

from heavyq.config import what_was_raised, why_it_does_not_import
from heavyq.core.outcome import Failure
from heavyq.job import leftovers, loading, memory, wire
from heavyq.job.attempt import DETAIL_MAX, attempt, trace_of
from heavyq.job.channel import Channel
from heavyq.job.signals import restore_in_forks, shrug
from heavyq.linux import procfs
from heavyq.linux.process import become_subreaper, die_with_parent, set_oom_score_adj
from heavyq.queue import registry

if TYPE_CHECKING:
    from heavyq.linux.frames import Frame


@dataclass(frozen=True, slots=True)
class Birth:
    """What a child needs to know at its birth.

    group: path of the kernel group that it enters, None for none. modules: what it must import itself; none, if the
    zygote has imported them.
    """

    slot: int
    supervisor_pid: int
    middle_pid: int
    workdir: Path
    nice: int
    oom_score_adj: int
    group: str | None = None
    modules: tuple[str, ...] = ()


def main(birth: Birth, sock: socket.socket, log_fd: int) -> int:
    """Run the child's whole life; return its exit code. The caller `_exit`s with it."""
    _be_born(birth, log_fd)
    channel = Channel(sock)
    not_ready = _get_ready(birth)
    if not_ready is not None:
        why, error = not_ready
        channel.send(wire.NOT_READY, {"error": why[:DETAIL_MAX]}, trace_of(error).encode("utf-8", "replace"))
        return 1
    _enter_group(birth.group)
    setproctitle("heavyq child idle")
    standing, held = leftovers.standing(), memory.Held()
    channel.send(wire.READY, {"whole": True})
    while (frame := channel.receive()) is not None and frame.kind != wire.EXIT:
        whole = _run_one(birth, channel, frame, standing, held)
        if whole is not None:
            channel.send(wire.READY, {"whole": whole})
    for hook in registry.child_stop_hooks:
        try:
            hook()
        except Exception:
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
    _tell_log_records()


def _get_ready(birth: Birth) -> tuple[str, BaseException] | None:
    """Run what the user's modules do before the first job; return why it cannot be done, None if it was."""
    try:
        if birth.modules:
            loading.load_here(birth.modules)
    except BaseException as error:  # noqa: BLE001 - a module may raise anything, SystemExit too
        names = ", ".join(birth.modules)
        return f"a spawned child cannot import {names}: {why_it_does_not_import(error, birth.modules)}", error
    for hook in registry.child_start_hooks:
        try:
            hook()
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


# ---- one job ----------------------------------------------------------------------------------------------

_current: Mapping[str, Any] | None = None  # the log fields of the running job


def _run_one(
    birth: Birth, channel: Channel, frame: Frame, standing: leftovers.Standing, held: memory.Held
) -> bool | None:
    """Run one job and report it. Return None when the child was clean, else whether it could be cleaned."""
    global _current  # noqa: PLW0603 - one job at a time, and log records are made anywhere
    head = frame.head
    queue_name, job_id = head["queue"], head["id"]
    setproctitle(f"heavyq child {queue_name} {job_id}".replace("\0", "?"))
    procfs.reset_peak()
    started_s, cpu_before_s = time.monotonic(), _cpu_s()
    limit = memory.DataLimit(head.get("memory_rlimit"))
    parts = dict(zip(wire.JOB_PARTS, frame.parts(), strict=True))
    _current = {
        "job_id": job_id,
        "queue": queue_name,
        "job_name": parts[b"name"].decode("utf-8", "replace"),
        "attempt": head["made"] + 1,
    }
    try:
        result = attempt(birth, channel, head, parts, limit)
    finally:
        _current = None
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    cpu_s = _cpu_s()
    peak_bytes, held_bytes = procfs.peak_and_anon_bytes()
    usage = {
        "peak_rss_bytes": peak_bytes,
        "cpu_s": round(cpu_s - cpu_before_s, 6),
        "wall_s": round(time.monotonic() - started_s, 6),
    }
    # From here to the report nothing may raise: the job is done.
    held.after_job(held_bytes)  # the supervisor looks for leaks when it has the report
    # Looks only: a result must not wait for the removal. A limit that stays is left over, too.
    clean = leftovers.none_left(standing, birth.workdir) and not limit.stuck
    about = {"run": head["run"], "clean": clean, "usage": usage, "cpu_total_s": round(cpu_s, 6)}
    if isinstance(result, Failure):
        about |= {"reason": result.reason, "detail": result.detail[:DETAIL_MAX], "evidence": result.evidence}
        channel.send(wire.FAILURE, about, (result.stack or "").encode("utf-8", "replace"))
    else:
        channel.send(wire.RESULT, about, result)
    setproctitle("heavyq child idle")
    if clean:
        return None
    return leftovers.remove_processes(standing) and leftovers.empty(birth.workdir) and not limit.stuck


def _cpu_s() -> float:
    """CPU seconds of this process and of the subprocesses it has waited for."""
    below = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + below.ru_utime + below.ru_stime


def _tell_log_records() -> None:
    """Let every log record made in a job carry the job's fields; add a handler only where there is none."""
    make = logging.getLogRecordFactory()

    def with_job(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        fields = _current or {"job_id": None, "queue": None, "job_name": None, "attempt": None}
        for field, value in fields.items():
            setattr(record, field, value)
        return record

    logging.setLogRecordFactory(with_job)
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
