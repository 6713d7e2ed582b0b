"""A child: one process that runs user code, one job at a time, in its main thread.

Owns everything that happens in the process between its fork and its end. No thread and no Redis connection of
ours lives here. It dies with the supervisor, and cleans up what its jobs leave behind.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setproctitle import setproctitle

from heavyq.bullmq.job_hash import CHECKPOINT, Unreadable
from heavyq.config import text_of, what_was_raised
from heavyq.core.outcome import Failure
from heavyq.errors import NotInJobProcess, PayloadError
from heavyq.job import leftovers, wire
from heavyq.job.channel import Channel
from heavyq.job.context import Job, JobInfo
from heavyq.job.signals import restore_in_forks, shrug
from heavyq.linux import procfs
from heavyq.linux.process import become_subreaper, die_with_parent
from heavyq.queue import registry

if TYPE_CHECKING:
    from heavyq.linux.frames import Frame
    from heavyq.queue.queue import Queue

TRACE_MAX = 64 * 1024
DETAIL_MAX = 4096


@dataclass(frozen=True, slots=True)
class Birth:
    """What a child needs to know at its birth."""

    slot: int
    supervisor_pid: int
    middle_pid: int
    workdir: Path
    nice: int
    oom_score_adj: int


def main(birth: Birth, sock: socket.socket, log_fd: int) -> int:
    """Run the child's whole life; return its exit code. The caller `_exit`s with it."""
    _be_born(birth, log_fd)
    channel = Channel(sock)
    for hook in registry.child_start_hooks:
        try:
            hook()
        except BaseException as error:  # noqa: BLE001 - whatever the user's hook raises is theirs, and is reported
            why = f"@child_start {getattr(hook, '__qualname__', hook)} raised {what_was_raised(error)}"
            channel.send(wire.NOT_READY, {"error": why[:DETAIL_MAX]}, _trace(error).encode("utf-8", "replace"))
            return 1
    standing = leftovers.standing()
    channel.send(wire.READY, {"whole": True})
    while (frame := channel.receive()) is not None and frame.kind != wire.EXIT:
        whole = _run_one(birth, channel, frame, standing)
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
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+") as f:
        if int(f.read()) < birth.oom_score_adj:
            f.seek(0)
            f.write(str(birth.oom_score_adj))
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
    setproctitle("heavyq child idle")
    gc.enable()
    if (numpy_random := sys.modules.get("numpy.random")) is not None:
        numpy_random.seed(int.from_bytes(os.urandom(4), "big"))
    os.environ["HEAVYQ_SLOT"] = str(birth.slot)
    os.environ["TMPDIR"] = str(birth.workdir)
    if (tempfile := sys.modules.get("tempfile")) is not None:
        setattr(tempfile, "tempdir", None)  # noqa: B010 - a module's; it may have been asked, and remembered, in the zygote
    _tell_log_records()


# ---- one job ----------------------------------------------------------------------------------------------

_current: Mapping[str, Any] | None = None  # the log fields of the running job


def _run_one(birth: Birth, channel: Channel, frame: Frame, standing: leftovers.Standing) -> bool | None:
    """Run one job and report it. Return None when the child was clean, else whether it could be cleaned."""
    global _current  # noqa: PLW0603 - one job at a time, and log records are made anywhere
    head = frame.head
    queue_name, job_id = head["queue"], head["id"]
    setproctitle(f"heavyq child {queue_name} {job_id}".replace("\0", "?"))
    procfs.reset_peak()
    started_s, cpu_before_s = time.monotonic(), _cpu_s()
    parts = dict(zip(wire.JOB_PARTS, frame.parts(), strict=True))
    _current = {
        "job_id": job_id,
        "queue": queue_name,
        "job_name": parts[b"name"].decode("utf-8", "replace"),
        "attempt": head["made"] + 1,
    }
    try:
        result = _process(birth, channel, head, parts)
    finally:
        _current = None
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    cpu_s = _cpu_s()
    usage = {
        "peak_rss_bytes": procfs.peak_rss_bytes(),
        "cpu_s": round(cpu_s - cpu_before_s, 6),
        "wall_s": round(time.monotonic() - started_s, 6),
    }
    # From here to the report nothing may raise: the job is done.
    clean = leftovers.none_left(standing, birth.workdir)  # looks only: a result must not wait for the removal
    about = {"run": head["run"], "clean": clean, "usage": usage, "cpu_total_s": round(cpu_s, 6)}
    if isinstance(result, Failure):
        about |= {"reason": result.reason, "detail": result.detail[:DETAIL_MAX]}
        channel.send(wire.FAILURE, about, (result.stack or "").encode("utf-8", "replace"))
    else:
        channel.send(wire.RESULT, about, result)
    setproctitle("heavyq child idle")
    if clean:
        return None
    return leftovers.remove_processes(standing) and leftovers.empty(birth.workdir)


class _Sender:
    """What a `Job` sends through. Closed when its function has returned: the child goes on to other jobs."""

    def __init__(self, channel: Channel, run: int) -> None:
        self._channel, self._run, self._closed = channel, run, False

    def send(self, kind: bytes, body: bytes) -> None:
        if self._closed:
            raise NotInJobProcess("this job is over: its function has returned (a thread that it left behind?)")
        self._channel.send(kind, None, wire.with_run(self._run, body))

    def close(self) -> None:
        self._closed = True


def _process(birth: Birth, channel: Channel, head: Mapping[str, Any], parts: Mapping[bytes, bytes]) -> bytes | Failure:
    """Find the function, check the payload, call it, encode its result: each can fail in its own way."""
    queue = registry.queue_of(head["prefix"], head["queue"])
    name = parts[b"name"].decode("utf-8", "replace")
    processor = queue.processor_of(name)
    if processor is None:
        known = ", ".join(sorted(n for n in queue.processors if n)) or "none"
        return Failure("no_processor", f"no processor for jobs named {name[:100]!r} (known names: {known[:1000]})")
    try:
        data = processor.payload_codec.decode(parts[b"data"])
    except PayloadError as error:
        return Failure("invalid_payload", str(error)[:DETAIL_MAX])
    except Exception as error:  # noqa: BLE001 - a validator of the user's may raise anything
        why = f"the payload of queue {queue.name!r} cannot be read: {_one_line(error)}"
        return Failure("invalid_payload", why, stack=_trace(error))
    try:
        info = _info(birth, head, parts, name)
    except Unreadable as error:
        return Failure("unreadable", str(error))
    sender = _Sender(channel, head["run"])
    job: Job[Any, Any] = Job(info, data, sender.send)
    try:
        value = processor.function(job)
    except (SystemExit, KeyboardInterrupt) as error:
        return Failure("exit", f"the job ended with {_one_line(error)}", stack=_trace(error))
    except BaseException as error:  # noqa: BLE001 - the job pays, alone
        detail = text_of(error)[:DETAIL_MAX] or type(error).__name__
        return Failure("exception", detail, stack=_trace(error))
    finally:
        sender.close()
    return _encode(queue, processor.result_codec.encode, value, head["max_result"])


def _encode(queue: Queue[Any, Any], encode: Callable[[Any], bytes], value: Any, limit: int) -> bytes | Failure:
    try:
        raw = encode(value)
    except ValueError as error:  # the codec's, in words
        return Failure("invalid_result", str(error)[:DETAIL_MAX])
    except Exception as error:  # noqa: BLE001 - a serializer of the user's may raise anything
        return Failure("invalid_result", f"the result of queue {queue.name!r} cannot be written: {_one_line(error)}")
    if len(raw) > limit:
        why = f"the result is {len(raw)} bytes, max_result is {limit}: store it and return its address"
        return Failure("result_too_large", why)
    return raw


def _info(birth: Birth, head: Mapping[str, Any], parts: Mapping[bytes, bytes], name: str) -> JobInfo:
    return JobInfo(
        id=head["id"],
        name=name,
        queue_name=head["queue"],
        attempt=head["made"] + 1,
        attempts_made=head["made"],
        fence=head["fence"],
        timestamp_ms=_read_field("timestamp", _milliseconds, parts[b"timestamp"] or b"0"),
        slot=birth.slot,
        workdir=birth.workdir,
        opts=parts[b"opts"],
        progress=_read_field("progress", json.loads, parts[b"progress"]) if parts[b"progress"] else 0,
        checkpoint=_read_field(CHECKPOINT, json.loads, saved) if (saved := parts[CHECKPOINT.encode()]) else None,
    )


def _read_field(field: str, read: Callable[[bytes], Any], raw: bytes) -> Any:
    try:
        return read(raw)
    except (ValueError, OverflowError, RecursionError) as error:
        raise Unreadable(field, str(error)) from None


def _milliseconds(raw: bytes) -> int:
    return int(float(raw))


def _cpu_s() -> float:
    """CPU seconds of this process and of the subprocesses it has waited for."""
    below = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + below.ru_utime + below.ru_stime


def _one_line(error: BaseException) -> str:
    """Name and message, as BullMQ shows it first in a stack trace."""
    text = text_of(error)
    return (f"{type(error).__name__}: {text}" if text else type(error).__name__).splitlines()[0][:1000]


def _trace(error: BaseException) -> str:
    """`Name: message`, then Python's traceback without the frames that are ours."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if f.filename != __file__] or frames
    text = f"{_one_line(error)}\n" + "".join(traceback.format_list(theirs))
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        text += "caused by:\n" + "".join(traceback.format_exception(cause))
    text = text.rstrip()
    return text if len(text) <= TRACE_MAX else text[: TRACE_MAX // 2] + "\n...\n" + text[-TRACE_MAX // 2 :]


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
