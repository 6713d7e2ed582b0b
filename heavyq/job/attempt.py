"""One attempt at a job: its function found, its payload checked, the function called, the result encoded.

Owns what each of these failing is called, and what is asked of the queue's backoff strategy. Called in a child, in its
main thread. Sends no report and cleans nothing up: `job.child` and `job.tasks` do.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heavyq.bullmq.job_hash import CHECKPOINT, PARENT_KEY, Unreadable
from heavyq.config import parse_duration, text_of, what_was_raised
from heavyq.core.outcome import NEVER_RETRIED, Failure
from heavyq.errors import JobError, NotInJobProcess, PayloadError
from heavyq.job import around, wire
from heavyq.job.channel import Channel
from heavyq.job.context import Job, JobInfo
from heavyq.job.memory import DataLimit, Used, at_its_limit, beside_its_limit
from heavyq.job.raised import RateLimited, RetryAfter, Snooze, Unrecoverable, WaitForChildren, said_by
from heavyq.job.report import DETAIL_MAX, NEVER, Failed, Outcome, PutOff, Returned
from heavyq.job.trace import one_line, trace_of
from heavyq.queue import registry

if TYPE_CHECKING:
    from heavyq.queue.queue import Queue
    from heavyq.queue.registry import Processor

_BRACKETS_MAX = 100  # of what may be added to a detail
_PLAIN_BACKOFFS = ("fixed", "exponential")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job runs. slot: the child's. workdir: an empty folder of its own."""

    slot: int
    workdir: Path


class _Sender:
    """What a `Job` sends through. Closed when its function has returned: the child goes on to other jobs."""

    def __init__(self, channel: Channel, run: int) -> None:
        self._channel, self._run, self._closed = channel, run, False

    def send(self, kind: bytes, body: bytes) -> None:
        self.check()
        self._channel.send(kind, None, wire.with_run(self._run, body))

    def check(self) -> None:
        if self._closed:
            raise NotInJobProcess("this job is over: its function has returned (a thread that it left behind?)")
        self._channel.check()

    def close(self) -> None:
        self._closed = True


def prepare(place: Place, channel: Channel, head: Mapping[str, Any], parts: Mapping[bytes, bytes]) -> Attempt | Failed:
    """Make a JOB frame into what can be called, or tell why that cannot be: each step can fail in its own way."""
    queue = registry.queue_of(head["prefix"], head["queue"])
    name = parts[b"name"].decode("utf-8", "replace")
    processor = queue.processor_of(name)
    if processor is None:
        known = ", ".join(sorted(n for n in queue.processors if n)) or "none"
        return _failed("no_processor", f"no processor for jobs named {name[:100]!r} (known names: {known[:1000]})")
    try:
        data = processor.payload_codec.decode(parts[b"data"])
    except PayloadError as error:
        return _failed("invalid_payload", str(error)[:DETAIL_MAX])
    except BaseException as error:  # noqa: BLE001 - a validator of the user's may raise anything, SystemExit too
        why = f"the payload of queue {queue.name!r} cannot be read: {one_line(error)}"
        return Failed(Failure("invalid_payload", why, stack=trace_of(error)))
    try:
        info = _info(place, head, parts, name)
    except Unreadable as error:
        return _failed("unreadable", str(error))
    sender = _Sender(channel, head["run"])
    job: Job[Any, Any] = Job(info, data, sender.send, queue=queue, check=sender.check)
    return Attempt(queue, processor, job, sender, head["max_result"])


class Attempt:
    """One run of one job, ready to be called, once: by `call`, or by `acall` and then `returned` or `raised`."""

    def __init__(
        self, queue: Queue[Any, Any], processor: Processor, job: Job[Any, Any], sender: _Sender, max_result: int
    ) -> None:
        self._queue, self._processor, self._job = queue, processor, job
        self._sender, self._max_result = sender, max_result
        self._used: Used | None = None

    def call(self, run: around.Run, limit: DataLimit) -> Outcome:
        """Run the job; return how it ended. run: runs a coroutine. limit: set and lifted here, around the function."""
        function = self._processor.function
        try:
            if around.is_async(function):
                value = run(self.acall(limit))
            else:
                value = around.call(self._limited(function, run, limit), self._job, run)
        except BaseException as error:  # noqa: BLE001 - the job pays, alone
            return self.raised(error)
        return self.returned(value)

    async def acall(self, limit: DataLimit) -> Any:
        """Run an async job; return what it returned. What it raised comes through.

        A plain function beside async ones runs in a thread, so that they go on.
        """
        function = self._processor.function

        async def limited(job: Job[Any, Any]) -> Any:
            try:
                limit.set()
                if around.is_async(function):
                    return await function(job)
                value = await _in_thread(function, job)
                return await value if inspect.iscoroutine(value) else value
            except BaseException as error:
                self._used = limit.used_at(error)
                raise
            finally:
                limit.lift()

        return await around.acall(limited, self._job)

    def _limited(self, function: Callable[[Any], Any], run: around.Run, limit: DataLimit) -> Callable[[Any], Any]:
        """Put the limit around the function alone: pydantic's core, in Rust, aborts when memory is refused."""

        def limited(job: Job[Any, Any]) -> Any:
            try:
                limit.set()
                value = function(job)
                return run(value) if inspect.iscoroutine(value) else value  # a decorator may hide an `async def`
            except BaseException as error:
                self._used = limit.used_at(error)
                raise
            finally:
                limit.lift()

        return limited

    def close(self) -> None:
        """Let the job's API refuse from now on: its function is over."""
        self._sender.close()

    def returned(self, value: Any) -> Outcome:
        """Say what the returned value makes of the run."""
        self.close()
        try:
            raw = self._processor.result_codec.encode(value)
        except ValueError as error:  # the codec's, in words
            return self._asked(Failure("invalid_result", str(error)[:DETAIL_MAX]))
        except BaseException as error:  # noqa: BLE001 - a serializer of the user's may raise anything, SystemExit too
            why = f"the result of queue {self._queue.name!r} cannot be written: {one_line(error)}"
            return self._asked(Failure("invalid_result", why))
        if len(raw) > self._max_result:
            why = f"the result is {len(raw)} bytes, max_result is {self._max_result}: store it and return its address"
            return self._asked(Failure("result_too_large", why))
        return Returned(raw)

    def raised(self, error: BaseException) -> Outcome:
        """Say what it means that the function raised."""
        self.close()
        said = said_by(error)
        match said:
            case Snooze():
                return PutOff("snooze", said.delay_ms)
            case RateLimited():
                return PutOff("rate_limited", said.delay_ms)
            case WaitForChildren():
                return PutOff("children")
            case Unrecoverable():
                return Failed(self._failure(said), final=True)
            case RetryAfter():
                return Failed(self._failure(said), retry_ms=said.delay_ms)
            case _:
                return self._asked(self._failure(error), error)

    def _failure(self, error: BaseException) -> Failure:
        line, stack = one_line(error), trace_of(error)
        if isinstance(error, SystemExit | KeyboardInterrupt):
            return Failure("exit", f"the job ended with {line}", stack=stack)
        used = self._used
        if used is not None and used.proved:
            return at_its_limit(used, line, stack)
        detail = text_of(error)[:DETAIL_MAX] or type(error).__name__
        if used is not None:
            return beside_its_limit(used, detail[: DETAIL_MAX - _BRACKETS_MAX], stack)
        return Failure("exception", detail, stack=stack)

    def _asked(self, failure: Failure, error: BaseException | None = None) -> Failed:
        """Ask the queue's backoff strategy when the job is to be retried, if that is its to say."""
        strategy, job = self._queue.strategy, self._job
        backoff, made = job.opts.backoff, job.attempts_made + 1
        if (
            strategy is None
            or backoff is None
            or backoff.type in _PLAIN_BACKOFFS
            or made >= job.opts.attempts
            or failure.reason in NEVER_RETRIED
        ):
            return Failed(failure)
        try:
            answer = strategy(made, backoff.type, error or JobError(failure.detail), job)
            never = not isinstance(answer, str | bool) and answer == NEVER
            return Failed(failure, retry_ms=NEVER if never else round(parse_duration(answer, bare_ok=True) * 1000))
        except BaseException as broken:  # noqa: BLE001 - the user's; not retried: at once would hammer what it spares
            why = f" (not retried: the backoff strategy failed: {what_was_raised(broken)[:500]})"
            return Failed(replace(failure, detail=failure.detail[: DETAIL_MAX - len(why)] + why), final=True)


async def _in_thread(function: Callable[[Any], Any], job: Job[Any, Any]) -> Any:
    import asyncio

    return await asyncio.to_thread(function, job)


def _failed(reason: Any, detail: str) -> Failed:
    return Failed(Failure(reason, detail))


def _info(place: Place, head: Mapping[str, Any], parts: Mapping[bytes, bytes], name: str) -> JobInfo:
    return JobInfo(
        id=head["id"],
        name=name,
        queue_name=head["queue"],
        prefix=head["prefix"],
        attempt=head["made"] + 1,
        attempts_made=head["made"],
        fence=head["fence"],
        timestamp_ms=_read_field("timestamp", _milliseconds, parts[b"timestamp"] or b"0"),
        slot=place.slot,
        workdir=place.workdir,
        opts=parts[b"opts"],
        parent=head.get("parent_key") or parts[PARENT_KEY].decode("utf-8", "replace") or None,
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
