"""A queue's job schedulers as a program sees them, and the talks that make, read and remove them.

Owns how a schedule is written in Python. When a job is due, and what a worker does about the next one, is decided in
`bullmq.schedule` and its scripts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Generic

from typing_extensions import TypeVar

from heavyq.bullmq import ops
from heavyq.bullmq.schedule import Repeat
from heavyq.config.arguments import text, whole
from heavyq.config.jobs import job_settings, read_job_options
from heavyq.errors import BadValue, PayloadError
from heavyq.linux.clock import epoch_ms
from heavyq.queue.adding import check_size, packed
from heavyq.queue.snapshot import milliseconds, moment
from heavyq.queue.talk import run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heavyq.bullmq.ops.schedule import Scheduled
    from heavyq.bullmq.ops.schedulers import Scheduler as WireScheduler
    from heavyq.config.units import Duration
    from heavyq.queue.link import QueueLink
    from heavyq.queue.talk import Talk

P = TypeVar("P", default=dict[str, Any])

_PAGE: Final = 1000
_NOT_HERE: Final = ("job_id", "timestamp", "delay", "parent", "deduplication")  # a scheduler gives these to its jobs


@dataclass(frozen=True, slots=True)
class Scheduler(Generic[P]):
    """A job scheduler, as last read.

    every: seconds between its jobs; cron, tz: or a pattern and its time zone. limit: how many jobs it makes in all.
    start, end: none before, none after. next_run: when its next job is due; job_id: that job's. iteration_count: how
    many it has made, None for a repeatable job of BullMQ 5, which does not count. data: the payload of its jobs in its
    type, None if they have none.
    """

    id: str
    name: str
    every: float | None
    cron: str | None
    tz: str | None
    limit: int | None
    start: datetime | None
    end: datetime | None
    next_run: datetime
    iteration_count: int | None
    data: P | None
    job_id: str


def repeat(
    *,
    cron: str | None,
    every: Duration | None,
    tz: str | None,
    limit: int | None,
    start: datetime | None,
    end: datetime | None,
    offset: Duration | None,
    immediately: bool,
    where: str,
) -> Repeat:
    """Return a schedule as the wire has it. where: for messages. Raises BadValue."""
    if (cron is None) == (every is None):
        raise BadValue(f'{where}: give cron="0 3 * * *" or every="10m", one of the two')
    text(cron, f"{where}: cron", optional=True)
    text(tz, f"{where}: tz", optional=True)
    whole(limit, f"{where}: limit", 1, optional=True)
    if every is not None and tz is not None:
        raise BadValue(f"{where}: a time zone is for cron=, and every= has none")
    return Repeat(
        every_ms=None if every is None else milliseconds(every, f"{where}: every"),
        pattern=cron,
        tz=tz,
        limit=limit,
        start_ms=_moment_ms(start, f"{where}: start"),
        end_ms=_moment_ms(end, f"{where}: end"),
        offset_ms=None if offset is None else milliseconds(offset, f"{where}: offset"),
        immediately=immediately,
    )


def upsert(
    link: QueueLink,
    scheduler_id: str,
    when: Repeat,
    name: str | None,
    data: object,
    options: Mapping[str, Any],
    where: str,
) -> Talk[Scheduled]:
    """Make a scheduler, or change the one of that id."""
    text(scheduler_id, f"{where}: the scheduler's id")
    text(name, f"{where}: the name of its jobs", optional=True)
    read = read_job_options(options, where=where)
    for option in _NOT_HERE:
        if option in read:
            raise BadValue(f"{where}: {option} is not for a scheduler, which makes many jobs")
    # Defaults of the queue that a scheduler gives to its jobs itself, or that do not go with one.
    settings = replace(job_settings(link.profile, link.declaration.options.job, read), delay_ms=0, dedup=None)
    codec = link.types(name or scheduler_id).payload
    if data is None:
        raw = None
        try:
            codec.decode(b"{}")
        except PayloadError as error:
            raise PayloadError(f"{where}: its jobs need data=...: {error}") from None
    else:
        raw = codec.encode(data)
        check_size(link, raw, where, settings.size_limit)
    return run(
        ops.schedule(
            link.key(),
            scheduler_id=scheduler_id,
            repeat=when,
            name=name,
            data=raw,
            opts=packed(settings),
            now_ms=epoch_ms(),
        )
    )


def find(link: QueueLink, scheduler_id: str) -> Talk[Scheduler[Any] | None]:
    """Read one scheduler; None if there is none of that id."""
    text(scheduler_id, "get_scheduler(): the scheduler's id")
    return _find(link, scheduler_id)


def _find(link: QueueLink, scheduler_id: str) -> Talk[Scheduler[Any] | None]:
    found = yield from run(ops.scheduler(link.key(), scheduler_id))
    return None if found is None else _seen(link, found)


def list_all(link: QueueLink, offset: int, limit: int) -> Talk[list[Scheduler[Any]]]:
    """Read schedulers, the one that is due first first."""
    whole(offset, "schedulers(): offset")
    whole(limit, "schedulers(): limit")
    return _pages(link, offset, limit)


def _pages(link: QueueLink, offset: int, limit: int) -> Talk[list[Scheduler[Any]]]:
    found: list[WireScheduler] = []
    while len(found) < limit:
        most = min(_PAGE, limit - len(found))
        page = yield from run(ops.schedulers(link.key(), offset=offset + len(found), limit=most))
        found += page
        if len(page) < most:
            break
    return [_seen(link, each) for each in found]


def remove(link: QueueLink, scheduler_id: str) -> Talk[bool]:
    """Remove a scheduler and the job it has planned; False: there is none of that id."""
    text(scheduler_id, "remove_scheduler(): the scheduler's id")
    return run(ops.unschedule(link.key(), scheduler_id))


def _seen(link: QueueLink, found: WireScheduler) -> Scheduler[Any]:
    return Scheduler(
        id=found.id,
        name=found.name,
        every=None if found.every_ms is None else found.every_ms / 1000,
        cron=found.pattern,
        tz=found.tz,
        limit=found.limit,
        start=None if found.start_ms is None else moment(found.start_ms),
        end=None if found.end_ms is None else moment(found.end_ms),
        next_run=moment(found.next_ms),
        iteration_count=found.iteration_count,
        data=None if found.data is None else link.types(found.name).payload.decode(found.data),
        job_id=found.job_id,
    )


def _moment_ms(value: datetime | None, what: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise BadValue(f"{what}: {value!r} is no moment: write a datetime with a time zone")
    return round(value.timestamp() * 1000)
