"""What an operator does to a queue, as talks: both faces hold them.

Owns the repetition where a script does its work in parts, so that no call keeps the server from others for long.
Nothing here is one transaction: jobs that come meanwhile may or may not be met.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

from heavyq.bullmq import ops
from heavyq.bullmq.clients import workers_in
from heavyq.bullmq.ops.clean import CLEAN_MAX, CLEANABLE
from heavyq.bullmq.ops.page import PAGE_MAX
from heavyq.bullmq.ops.promote_jobs import PROMOTE_MAX
from heavyq.bullmq.ops.retry_jobs import RETRY_MAX
from heavyq.config.arguments import text, whole
from heavyq.config.values import Rate
from heavyq.core.outcome import REASONS
from heavyq.errors import BadValue, UsageError, WrongState
from heavyq.linux.clock import epoch_ms
from heavyq.queue.looking import check_state
from heavyq.queue.snapshot import milliseconds, moment
from heavyq.queue.talk import ClientList, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heavyq.bullmq.clients import ClientInfo
    from heavyq.bullmq.job_hash import JobRecord
    from heavyq.bullmq.keys import QueueKey
    from heavyq.config.units import Duration
    from heavyq.queue.talk import Talk

Ended = Literal["completed", "failed"]
_ENDED: Final = ("completed", "failed")


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for workers of every kind, BullMQ's too.

    paused: no job is started. concurrency: how many jobs run at once, on all workers together. rate: how many start in
    a time. events_kept: about how many events stay. version: of the Node BullMQ that opened the queue last. None: not
    set.
    """

    paused: bool
    concurrency: int | None
    rate: Rate | None
    events_kept: int | None
    version: str | None


@dataclass(frozen=True, slots=True)
class Metrics:
    """How many jobs have ended so.

    count: in all. data: in each minute, the newest first. points: how many minutes are kept. prev_at, prev_count: when
    the newest minute of them was booked, and what the count was then; None and 0 before the first.
    """

    count: int
    data: tuple[int, ...]
    points: int
    prev_at: datetime | None
    prev_count: int


def settings(q: QueueKey) -> Talk[Settings]:
    """Read what holds for workers of every kind."""
    meta = yield from run(ops.meta(q))
    return Settings(meta.paused, meta.concurrency, _rate(meta.rate), meta.events_kept, meta.version)


def _rate(stored: tuple[int, int] | None) -> Rate | None:
    try:
        return None if stored is None else Rate(stored[0], stored[1] / 1000)
    except BadValue:  # what others have written may make no sense
        return None


def priority_counts(q: QueueKey, priorities: Sequence[int]) -> Talk[dict[int, int]]:
    """Count the jobs that wait with each of these priorities."""
    for priority in priorities:
        whole(priority, "priority_counts(): a priority")
    return run(ops.priority_counts(q, priorities))


def is_paused(q: QueueKey) -> Talk[bool]:
    """Tell whether nothing is leased."""
    return (yield from run(ops.meta(q))).paused


def drain(q: QueueKey, *, delayed: bool) -> Talk[int]:
    """Delete every job that waits; return how many that were."""
    removed = 0
    while some := (yield from run(ops.drain(q, delayed=delayed, now_ms=epoch_ms()))):
        removed += some
    return removed


def clean(q: QueueKey, state: str, older_than: Duration, limit: int | None) -> Talk[list[str]]:
    """Delete jobs of a state that are old enough; return their ids."""
    state = check_state(state, "clean()", CLEANABLE)
    grace_ms = milliseconds(older_than, "clean(older_than=...)")
    whole(limit, "clean(): limit", optional=True)
    return _clean(q, state, grace_ms, limit)


def _clean(q: QueueKey, state: str, grace_ms: int, limit: int | None) -> Talk[list[str]]:
    removed: list[str] = []
    while limit is None or len(removed) < limit:
        left = 0 if limit is None else limit - len(removed)
        op = ops.clean(q, state=state, grace_ms=grace_ms, limit=left, now_ms=epoch_ms())
        gone = yield from run(op)
        removed += gone
        if len(gone) < min(left or CLEAN_MAX, CLEAN_MAX):
            break
    return removed


def obliterate(q: QueueKey, *, force: bool) -> Talk[None]:
    """Delete the queue and all that is in it. It is paused for that; refused, it is as it was before."""
    was_paused = yield from is_paused(q)
    yield from run(ops.pause(q))
    try:
        while (yield from run(ops.obliterate(q, force=force))):
            continue
    except WrongState:
        if not was_paused:
            yield from run(ops.resume(q))
        raise


def retry_jobs(
    q: QueueKey, state: str, limit: int | None, reason: str | None, since: Duration | datetime | None
) -> Talk[None]:
    """Put jobs that have ended back among those that wait."""
    state = check_state(state, "retry_jobs()", _ENDED)
    whole(limit, "retry_jobs(): limit", optional=True)
    if reason is not None and reason not in REASONS:
        raise BadValue(f"retry_jobs(reason={reason!r}): the reasons are: {', '.join(REASONS)}")
    ended: Ended = "failed" if state == "failed" else "completed"
    if reason is None and since is None:
        return _retry_all(q, ended, limit)
    return _retry_some(q, ended, limit, reason, _since_ms(since))


def _retry_all(q: QueueKey, state: Ended, limit: int | None) -> Talk[None]:
    until_ms = epoch_ms()  # not those that have run again meanwhile
    left = limit
    while left is None or left > 0:
        count = RETRY_MAX if left is None else min(left, RETRY_MAX)
        if not (yield from run(ops.retry_jobs(q, state=state, count=count, until_ms=until_ms))):
            return
        left = None if left is None else left - count


def _retry_some(q: QueueKey, state: Ended, limit: int | None, reason: str | None, since_ms: int) -> Talk[None]:
    """Look at the jobs that ended, the latest first, and retry those that are meant."""
    wanted: list[str] = []
    offset = 0
    while limit is None or len(wanted) < limit:
        page = yield from run(ops.page(q, state, offset=offset, limit=PAGE_MAX, newest_first=True))
        recent = [job for job in page if (job.finished_on_ms or 0) >= since_ms]
        wanted += [job.id for job in recent if reason in (None, _reason_of(job))]
        offset += PAGE_MAX
        # A page may be short for jobs that are gone; the next one tells.
        if len(recent) < len(page) or not page:
            break
    wanted = wanted[:limit]
    for at in range(0, len(wanted), RETRY_MAX):
        yield from run(ops.retry_jobs(q, state=state, ids=wanted[at : at + RETRY_MAX]))


def _reason_of(job: JobRecord) -> str:
    """Return why a job failed; a worker of BullMQ's says only that there was an exception."""
    return str((job.failure or {}).get("reason", "exception"))


def promote_jobs(q: QueueKey, limit: int | None) -> Talk[None]:
    """Let delayed jobs run as soon as they may."""
    whole(limit, "promote_jobs(): limit", optional=True)
    return _promote(q, limit)


def _promote(q: QueueKey, limit: int | None) -> Talk[None]:
    left = limit
    while left is None or left > 0:
        count = PROMOTE_MAX if left is None else min(left, PROMOTE_MAX)
        if not (yield from run(ops.promote_jobs(q, count=count))):
            return
        left = None if left is None else left - count


def workers(q: QueueKey) -> Talk[list[ClientInfo]]:
    """Read which workers are connected for the queue."""
    text: str = yield ClientList()
    return list(workers_in(text, q))


def metrics(q: QueueKey, which: Ended, start: int, stop: int) -> Talk[Metrics]:
    """Read how many jobs ended, minute by minute."""
    whole(start, "metrics(): start", None)
    whole(stop, "metrics(): stop", None)
    ended: Ended = "completed" if check_state(which, "metrics()", _ENDED) == "completed" else "failed"
    return _metrics(q, ended, start, stop)


def _metrics(q: QueueKey, which: Ended, start: int, stop: int) -> Talk[Metrics]:
    found = yield from run(ops.metrics(q, which, start, stop))
    prev_at = moment(found.prev_ms) if found.prev_ms > 0 else None
    return Metrics(found.count, found.data, found.points, prev_at, found.prev_count)


def set_concurrency(q: QueueKey, limit: int | None) -> Talk[None]:
    """Set how many of the queue's jobs run at once, on all workers together."""
    whole(limit, "set_global_concurrency(): limit", 1, optional=True)
    return run(ops.set_concurrency(q, limit))


def set_rate_limit(q: QueueKey, rate: Rate | None) -> Talk[None]:
    """Set how many of the queue's jobs start in a time, on all workers together."""
    if rate is None:
        return run(ops.set_rate_limit(q, None))
    if not isinstance(rate, Rate):
        raise BadValue(f'set_global_rate_limit({rate!r}): write Rate(10, per="1s"), or None')
    return run(ops.set_rate_limit(q, rate.count, rate.per_ms))


def rate_limit(q: QueueKey, delay: Duration) -> Talk[None]:
    """Let no job start for a while."""
    return run(ops.rate_limit(q, milliseconds(delay, "rate_limit()")))


def rate_limit_ttl(q: QueueKey, most: int | None) -> Talk[float]:
    """Return for how many seconds no job may start."""
    whole(most, "rate_limit_ttl(): most", 1, optional=True)
    return _rate_limit_ttl(q, most)


def _rate_limit_ttl(q: QueueKey, most: int | None) -> Talk[float]:
    return max(0, (yield from run(ops.rate_limit_ttl(q, most)))) / 1000


def emit(q: QueueKey, event: str, fields: Mapping[str, str]) -> Talk[str]:
    """Write an event of one's own."""
    text(event, "emit(): the event's name")
    if not isinstance(fields, Mapping):
        raise BadValue(f"emit(): fields is a dict of texts, and not {fields!r}")
    for name, value in fields.items():
        text(name, "emit(): a field's name")
        text(value, f"emit(): the field {name!r}")
    try:
        return run(ops.emit(q, event, fields))
    except UsageError as error:
        raise BadValue(f"emit(): {error}") from None


def _since_ms(since: Duration | datetime | None) -> int:
    if since is None:
        return 0
    if isinstance(since, datetime):
        if since.tzinfo is None:
            raise BadValue("retry_jobs(since=...): the moment has no time zone: write datetime.now(UTC) or the like")
        return round(since.timestamp() * 1000)
    return epoch_ms() - milliseconds(since, "retry_jobs(since=...)")
