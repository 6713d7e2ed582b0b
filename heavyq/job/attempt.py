"""One attempt at a job: its function found, its payload checked, the function called, the result encoded.

Owns what each of these failing is called, and the traceback that people see. Called in a child, in its main thread.
Sends no report and cleans nothing up: `job.child` does.
"""

from __future__ import annotations

import itertools
import json
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heavyq.bullmq.job_hash import CHECKPOINT, Unreadable
from heavyq.config import text_of
from heavyq.core.outcome import Failure
from heavyq.errors import NotInJobProcess, PayloadError
from heavyq.job import wire
from heavyq.job.channel import Channel
from heavyq.job.context import Job, JobInfo
from heavyq.job.memory import DataLimit, at_its_limit, beside_its_limit
from heavyq.queue import registry

if TYPE_CHECKING:
    from heavyq.job.child import Birth
    from heavyq.queue.queue import Queue

TRACE_MAX = 64 * 1024
DETAIL_MAX = 4096
_BRACKETS_MAX = 100  # of what may be added to a detail
_OURS = str(Path(__file__).parent)


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


def attempt(
    birth: Birth, channel: Channel, head: Mapping[str, Any], parts: Mapping[bytes, bytes], limit: DataLimit
) -> bytes | Failure:
    """Run one job; return its result's JSON, or why it failed: each step can fail in its own way.

    limit: set and lifted here, around the function.
    """
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
        return Failure("invalid_payload", why, stack=trace_of(error))
    try:
        info = _info(birth, head, parts, name)
    except Unreadable as error:
        return Failure("unreadable", str(error))
    sender = _Sender(channel, head["run"])
    job: Job[Any, Any] = Job(info, data, sender.send)
    try:
        # Around the function alone: pydantic's core, in Rust, does not raise when memory is refused, it aborts.
        limit.set()
        value = processor.function(job)
    except BaseException as error:  # noqa: BLE001 - the job pays, alone
        return _raised(error, limit)
    finally:
        limit.lift()
        sender.close()
    return _encode(queue, processor.result_codec.encode, value, head["max_result"])


def _raised(error: BaseException, limit: DataLimit) -> Failure:
    """Say what it means that the function raised. The limit is lifted first of all: the rest needs memory."""
    used = limit.used_at(error)
    line, stack = _one_line(error), trace_of(error)
    if isinstance(error, SystemExit | KeyboardInterrupt):
        return Failure("exit", f"the job ended with {line}", stack=stack)
    if used is not None and used.proved:
        return at_its_limit(used, line, stack)
    detail = text_of(error)[:DETAIL_MAX] or type(error).__name__
    if used is not None:
        return beside_its_limit(used, detail[: DETAIL_MAX - _BRACKETS_MAX], stack)
    return Failure("exception", detail, stack=stack)


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


def _one_line(error: BaseException) -> str:
    """Name and message, as BullMQ shows it first in a stack trace."""
    text = text_of(error)
    return (f"{type(error).__name__}: {text}" if text else type(error).__name__).splitlines()[0][:1000]


def trace_of(error: BaseException) -> str:
    """`Name: message`, then Python's traceback without the frames of ours that lead to the user's."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = list(itertools.dropwhile(lambda frame: frame.filename.startswith(_OURS), frames)) or frames
    text = f"{_one_line(error)}\n" + "".join(traceback.format_list(theirs))
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        text += "caused by:\n" + "".join(traceback.format_exception(cause))
    text = text.rstrip()
    return text if len(text) <= TRACE_MAX else text[: TRACE_MAX // 2] + "\n...\n" + text[-TRACE_MAX // 2 :]
