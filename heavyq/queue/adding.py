"""An add: what is checked, what is written, and what is known when no answer came.

Everything is checked before anything is sent, for all jobs of a bulk or a flow. Owns no connection and retries
nothing: an add without an answer may have happened, and only the caller can know whether twice is once too often.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from heavyq.bullmq.job_hash import JobRecord
from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.ops.add import Added, add
from heavyq.bullmq.options import pack_options
from heavyq.bullmq.parent import Parent
from heavyq.config.jobs import JobSettings, job_settings, read_job_options
from heavyq.config.units import format_size
from heavyq.errors import (
    AddUnknown,
    BadValue,
    HeavyqError,
    PayloadError,
    PayloadTooLarge,
    RedisUnavailable,
    UsageError,
)
from heavyq.linux.clock import epoch_ms
from heavyq.queue.talk import Atomic, RunMany, Talk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heavyq.bullmq.op import Op
    from heavyq.queue.link import QueueLink

DEFAULT_NAME: Final = "process"
_NAMED: Final = 2  # (name, payload)
_NAMED_WITH_OPTIONS: Final = 3


@dataclass(frozen=True, slots=True)
class Made:
    """The job that an add has left in the queue: what a handle is made of.

    record: None if it was there before, for then nothing is known of it. since_ms: no earlier was it added; 0 if that
    is not known.
    """

    id: str
    record: JobRecord | None
    added: bool
    since_ms: int


@dataclass(frozen=True, slots=True)
class Draft:
    """A job that has passed every check. fields: what its hash will be. job_id: the one that the caller gave it."""

    op: Op[Added]
    name: str
    fields: Mapping[bytes, bytes]
    timestamp_ms: int
    job_id: str | None

    def made(self, answer: Added) -> Made:
        """Return what came of it."""
        if answer.existed or answer.deduplicated:
            return Made(answer.id, None, added=False, since_ms=0)
        record = JobRecord.read(answer.id, self.fields)
        return Made(answer.id, record, added=True, since_ms=min(self.timestamp_ms, epoch_ms()))


def add_one(link: QueueLink, name: object, payload: object, options: Mapping[str, Any]) -> Talk[Made]:
    """Add a job. Raises what `Queue.add` says: at once what is wrong with it, in the talk what Redis says."""
    where = f"add to queue {link.name!r}"
    made = draft(link, link.key(), name, payload, read_job_options(options, where=where), where)
    return _first(_send(link, [made]))


def add_many(link: QueueLink, jobs: Iterable[Any], options: Mapping[str, Any]) -> Talk[list[Made]]:
    """Add jobs in one round trip, in order. Raises what `Queue.add_bulk` says, as `add_one`."""
    where = f"add_bulk to queue {link.name!r}"
    shared = read_job_options(options, where=where)
    if "job_id" in shared:
        raise BadValue(f"{where}: one job_id cannot be that of several jobs: write (name, payload, {{'job_id': ...}})")
    if not isinstance(jobs, Iterable):
        raise BadValue(f"{where}: jobs is a list of payloads or (name, payload), and not {jobs!r}")
    key = link.key()
    drafts = []
    for n, job in enumerate(jobs):
        name, payload, own = _parts(job)
        here = f"{where}, job {n}"
        if not isinstance(own, Mapping):
            raise BadValue(f"{here}: its options are a dict, and not {own!r}")
        try:
            drafts.append(draft(link, key, name, payload, shared | read_job_options(own, where=here), here))
        except PayloadError as error:
            raise PayloadError(f"{here}: {error}") from None
    return _send(link, drafts)


def name_and_payload(what: tuple[Any, ...]) -> tuple[Any, Any]:
    """Return the two of `add(payload)` and `add(name, payload)`."""
    match what:
        case (payload,):
            return DEFAULT_NAME, payload
        case (name, payload):
            return name, payload
    options = len(what) > _NAMED and isinstance(what[_NAMED], Mapping)
    hint = "; options go by name: add(name, payload, delay=...)" if options else ""
    raise TypeError(f"add takes a payload, or a name and a payload, and not {len(what)} values{hint}")


def draft(
    link: QueueLink,
    key: QueueKey,
    name: object,
    payload: object,
    options: Mapping[str, Any],
    where: str,
    *,
    job_id: str | None = None,
    parent: Parent | None = None,
    waits_for_children: bool = False,
    in_flow: bool = False,
) -> Draft:
    """Check a job and draft it. options: from `read_job_options`. where: for messages: `add to queue 'videos'`.

    job_id: if the options name none; it is not stored among them. parent, waits_for_children, in_flow: of a job of a
    flow, see `ops.add`; else the option `parent` counts.
    """
    if not isinstance(name, str):
        raise BadValue(f"{where}: the job's name is text, and not {name!r}")
    data = link.types(name).payload.encode(payload)
    settings = job_settings(link.profile, link.declaration.options.job, options)
    check_size(link, data, where, settings.size_limit)
    if parent is None:
        parent = _parent_of(settings, where)
    timestamp_ms = epoch_ms() if settings.timestamp_ms is None else settings.timestamp_ms
    opts = packed(settings, parent)
    try:
        op = add(
            key,
            name=name,
            data=data,
            opts=opts,
            timestamp_ms=timestamp_ms,
            delay_ms=settings.delay_ms,
            priority=settings.priority,
            lifo=settings.lifo,
            job_id=settings.job_id or job_id,
            parent=parent,
            dedup=settings.dedup,
            waits_for_children=waits_for_children,
            in_flow=in_flow,
        )
    except UsageError as error:
        raise BadValue(f"{where}: {error}") from None
    fields = {
        b"name": name.encode("utf-8", "backslashreplace"),
        b"data": data,
        b"opts": opts,
        b"timestamp": str(timestamp_ms).encode(),
        b"delay": str(settings.delay_ms).encode(),
        b"priority": str(settings.priority).encode(),
    }
    if parent is not None:
        fields[b"parent"] = parent.to_field()
    if settings.dedup is not None:
        fields[b"deid"] = settings.dedup.id.encode()
    return Draft(op, name, fields, timestamp_ms, settings.job_id)


def check_size(link: QueueLink, data: bytes, where: str, size_limit: int | None = None) -> None:
    """Raise PayloadTooLarge if a payload is over the queue's limit, or the job's own."""
    for limit, option in ((size_limit, "size_limit"), (link.max_payload, "max_payload")):
        if limit is not None and len(data) > limit:
            raise PayloadTooLarge(
                f"{where}: the payload has {len(data)} bytes as JSON, and {option} is {format_size(limit)}: "
                "store it, pass its id, and fetch it in the processor"
            )


def packed(settings: JobSettings, parent: Parent | None = None) -> bytes:
    """Return the options as they are stored."""
    return pack_options(
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
        dedup=settings.dedup,
        parent=parent,
        on_failure=settings.on_failure,
        telemetry=settings.telemetry,
        omit_context=settings.omit_context,
        timeout_ms=settings.timeout_ms,
        progress_timeout_ms=settings.progress_timeout_ms,
        memory_limit_bytes=settings.memory_limit,
    )


def ask(request: RunMany | Atomic, drafts: Sequence[Draft], where: str) -> Talk[list[Any]]:
    """Send an add; its answers. Raises AddUnknown if none came, unless it is certain that nothing happened."""
    try:
        answers: list[Any] = yield request
    except RedisUnavailable as error:
        if error.nothing_happened:
            raise
        raise AddUnknown(_unknown(drafts, where, error)) from error
    return answers


def _send(link: QueueLink, drafts: list[Draft]) -> Talk[list[Made]]:
    if not drafts:
        return []
    answers = yield from ask(RunMany([draft.op for draft in drafts]), drafts, f"queue {link.name!r}")
    refused = [answer for answer in answers if isinstance(answer, HeavyqError)]
    if refused:
        if len(drafts) > 1:
            done = len(drafts) - len(refused)
            refused[0].add_note(f"add_bulk to queue {link.name!r}: {done} of {len(drafts)} jobs were added")
        raise refused[0]
    return [draft.made(answer) for draft, answer in zip(drafts, answers, strict=True)]


def _first(talk: Talk[list[Made]]) -> Talk[Made]:
    (made,) = yield from talk
    return made


def _parts(job: Any) -> tuple[object, object, Mapping[str, Any]]:
    """A job of a bulk is (name, payload), (name, payload, options), or a payload alone."""
    if isinstance(job, tuple) and len(job) == _NAMED:
        return job[0], job[1], {}
    if isinstance(job, tuple) and len(job) == _NAMED_WITH_OPTIONS:
        return job[0], job[1], job[2]
    return DEFAULT_NAME, job, {}


def _parent_of(settings: JobSettings, where: str) -> Parent | None:
    """Return the reference to the job that an add names as parent: the running one, or a handle."""
    if settings.parent is None:
        return None
    queue = getattr(settings.parent, "queue_key", None)
    if not isinstance(queue, QueueKey):
        raise BadValue(
            f"{where}: parent: {settings.parent!r} is no job: give the running one, or the handle that an add returned"
        )
    return Parent(queue, settings.parent.id, settings.on_failure)


def _unknown(drafts: Sequence[Draft], where: str, error: RedisUnavailable) -> str:
    what = "the job may be" if len(drafts) == 1 else f"any of the {len(drafts)} jobs may be"
    todo = (
        "repeat the add: with its job_id it is one job"
        if all(draft.job_id is not None for draft in drafts)
        else "pass a job_id to make an add safe to repeat"
    )
    return f"no answer to the add: {what} in {where} or not ({error}); {todo}"
