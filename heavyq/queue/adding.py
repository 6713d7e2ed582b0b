"""An add: what is checked, what is written, and what is known when no answer came.

Everything is checked before anything is sent, for all jobs of a bulk. Owns no connection and retries nothing: an
add without an answer may have happened, and only the caller can know whether twice is once too often.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from heavyq.bullmq.job_hash import JobRecord
from heavyq.bullmq.ops.add import Added, add
from heavyq.bullmq.options import pack_options
from heavyq.config.jobs import job_settings, read_job_options
from heavyq.config.units import format_size
from heavyq.errors import AddUnknown, BadValue, HeavyqError, PayloadError, PayloadTooLarge, RedisUnavailable
from heavyq.linux.clock import epoch_ms
from heavyq.queue.handle import JobHandle

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from heavyq.bullmq.keys import QueueKey
    from heavyq.bullmq.op import Op
    from heavyq.queue.link import QueueLink

DEFAULT_NAME: Final = "process"
_NAMED: Final = 2  # (name, payload)
_NAMED_WITH_OPTIONS: Final = 3

# Where a connection was never made, nothing was sent.
_NEVER_SENT: Final = (ConnectionRefusedError, FileNotFoundError, socket.gaierror)


@dataclass(frozen=True, slots=True)
class _Draft:
    """A job that has passed every check. fields: what its hash will be."""

    op: Op[Added]
    name: str
    fields: Mapping[bytes, bytes]
    timestamp_ms: int
    job_id: str | None


def add_one(link: QueueLink, name: object, payload: object, options: Mapping[str, Any]) -> JobHandle[Any, Any]:
    """Add a job and return its handle. Raises what `Queue.add` says."""
    where = f"add to queue {link.name!r}"
    draft = _draft(link, link.key(), name, payload, read_job_options(options, where=where), where)
    (handle,) = _send(link, [draft])
    return handle


def add_many(link: QueueLink, jobs: Iterable[Any], options: Mapping[str, Any]) -> list[JobHandle[Any, Any]]:
    """Add jobs in one round trip and return their handles, in order. Raises what `Queue.add_bulk` says."""
    where = f"add_bulk to queue {link.name!r}"
    shared = read_job_options(options, where=where)
    if "job_id" in shared:
        raise BadValue(f"{where}: one job_id cannot be that of several jobs: write (name, payload, {{'job_id': ...}})")
    key = link.key()
    drafts = []
    for n, job in enumerate(jobs):
        name, payload, own = _parts(job)
        here = f"{where}, job {n}"
        try:
            drafts.append(_draft(link, key, name, payload, shared | read_job_options(own, where=here), here))
        except PayloadError as error:
            raise PayloadError(f"{here}: {error}") from None
    return _send(link, drafts)


def _parts(job: Any) -> tuple[object, object, Mapping[str, Any]]:
    """A job of a bulk is (name, payload), (name, payload, options), or a payload alone."""
    if isinstance(job, tuple) and len(job) == _NAMED:
        return job[0], job[1], {}
    if isinstance(job, tuple) and len(job) == _NAMED_WITH_OPTIONS:
        return job[0], job[1], job[2]
    return DEFAULT_NAME, job, {}


def _draft(
    link: QueueLink, key: QueueKey, name: object, payload: object, options: Mapping[str, Any], where: str
) -> _Draft:
    if not isinstance(name, str):
        raise BadValue(f"{where}: the job's name is text, and not {name!r}")
    data = link.types(name).payload.encode(payload)
    settings = job_settings(link.profile, link.declaration.options.job, options)
    for limit, option in ((settings.size_limit, "size_limit"), (link.max_payload, "max_payload")):
        if limit is not None and len(data) > limit:
            raise PayloadTooLarge(
                f"{where}: the payload has {len(data)} bytes as JSON, and {option} is {format_size(limit)}: "
                "store it, pass its id, and fetch it in the processor"
            )
    timestamp_ms = epoch_ms() if settings.timestamp_ms is None else settings.timestamp_ms
    opts = pack_options(
        attempts=settings.attempts,
        backoff=settings.backoff,
        priority=settings.priority,
        delay_ms=settings.delay_ms,
        lifo=settings.lifo,
        remove_on_complete=settings.remove_on_complete,
        remove_on_fail=settings.remove_on_fail,
        keep_logs=settings.keep_logs,
        stack_trace_limit=settings.stack_trace_limit,
        size_limit=settings.size_limit,
        job_id=settings.job_id,
        timestamp_ms=settings.timestamp_ms,
    )
    op = add(
        key,
        name=name,
        data=data,
        opts=opts,
        timestamp_ms=timestamp_ms,
        delay_ms=settings.delay_ms,
        priority=settings.priority,
        lifo=settings.lifo,
        job_id=settings.job_id,
    )
    fields = {
        b"name": name.encode("utf-8", "backslashreplace"),
        b"data": data,
        b"opts": opts,
        b"timestamp": str(timestamp_ms).encode(),
        b"delay": str(settings.delay_ms).encode(),
        b"priority": str(settings.priority).encode(),
    }
    return _Draft(op, name, fields, timestamp_ms, settings.job_id)


def _send(link: QueueLink, drafts: list[_Draft]) -> list[JobHandle[Any, Any]]:
    if not drafts:
        return []
    client = link.client()
    try:
        answers: list[Added | HeavyqError] = client.run_many([draft.op for draft in drafts])
    except RedisUnavailable as error:
        if _never_sent(error):
            raise
        raise AddUnknown(_unknown(link, drafts, error)) from error
    refused = [answer for answer in answers if isinstance(answer, HeavyqError)]
    if refused:
        if len(drafts) > 1:
            done = len(drafts) - len(refused)
            refused[0].add_note(f"add_bulk to queue {link.name!r}: {done} of {len(drafts)} jobs were added")
        raise refused[0]
    return [
        _handle(link, draft, answer) for draft, answer in zip(drafts, answers, strict=True) if isinstance(answer, Added)
    ]


def _handle(link: QueueLink, draft: _Draft, answer: Added) -> JobHandle[Any, Any]:
    # Of a job that existed already nothing is known: its payload may be another.
    record = None if answer.existed else JobRecord.read(answer.id, draft.fields)
    return JobHandle(
        link,
        answer.id,
        record=record,
        added=not answer.existed,
        since_ms=0 if answer.existed else min(draft.timestamp_ms, epoch_ms()),
    )


def _never_sent(error: BaseException | None) -> bool:
    """Tell whether the connection was refused, so that the command cannot have reached the server."""
    while error is not None:
        if isinstance(error, _NEVER_SENT):
            return True
        error = error.__cause__ or error.__context__
    return False


def _unknown(link: QueueLink, drafts: list[_Draft], error: RedisUnavailable) -> str:
    what = "the job may be" if len(drafts) == 1 else f"any of the {len(drafts)} jobs may be"
    todo = (
        "repeat the add: with its job_id it is one job"
        if all(draft.job_id is not None for draft in drafts)
        else "pass a job_id to make an add safe to repeat"
    )
    return f"no answer to the add: {what} in queue {link.name!r} or not ({error}); {todo}"
