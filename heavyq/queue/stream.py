"""A queue's events as they come: `Event`, and the two iterators of `Queue.events()`.

Owns what an event looks like to a user, where reading begins, and when it ends. Tolerant: anybody may write to the
stream, so an entry that cannot be read is passed over, and an event that nobody knows is delivered as it is. Reads
only: a short outage of Redis is sat out.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from heavyq.bullmq.events import decode
from heavyq.config.units import Duration, parse_duration
from heavyq.errors import BadValue, RedisUnavailable
from heavyq.linux.clock import monotonic_s
from heavyq.queue.talk import LastEvent, Pause, ReadEvents, Talk

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey
    from heavyq.queue.link import QueueLink

OUTAGE_S: Final = 15.0
_PAUSE_S: Final = 0.1
_BLOCK_S: Final = 5.0
_BATCH: Final = 100  # each may carry a whole result
_ID: Final = re.compile(r"\d{1,20}(-\d{1,20})?")
_NUMBER_MAX: Final = 2**64 - 1

_log = logging.getLogger("heavyq")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a queue.

    name: BullMQ's: waiting, active, progress, completed, failed, stalled, ..., or what somebody emitted. job_id: None
    if it is about the queue (drained, paused). at: when, by the server's clock. data: the event's further fields under
    BullMQ's names, decoded: a result and a progress as JSON says, `delay` (the moment at which a delayed job is due, in
    epoch ms) and other numbers as numbers, anything else as text. id: its place in the stream, for
    `events(since=event)`.
    """

    name: str
    job_id: str | None
    at: datetime
    data: dict[str, Any] = field(default_factory=dict)
    id: str = ""


Since = str | datetime | Event | None


def events(link: QueueLink, since: Since, timeout: Duration | None) -> Iterator[Event]:
    """Return a queue's events, one after the other. What `Queue.events` says; reading begins with this call."""
    reader = _Reader(link.key(), since, timeout)
    link.drive(reader.begin())
    return _each(link, reader)


def aevents(link: QueueLink, since: Since, timeout: Duration | None) -> AsyncIterator[Event]:
    """Return a queue's events, one after the other. As `events`, but reading begins with the first of them."""
    return _aeach(link, _Reader(link.key(), since, timeout))


def _each(link: QueueLink, reader: _Reader) -> Iterator[Event]:
    while batch := link.drive(reader.batch()):
        yield from batch


async def _aeach(link: QueueLink, reader: _Reader) -> AsyncIterator[Event]:
    await link.adrive(reader.begin())
    while batch := await link.adrive(reader.batch()):
        for event in batch:
            yield event


class _Reader:
    """A place in a stream, and how to go on from there."""

    def __init__(self, q: QueueKey, since: Since, timeout: Duration | None) -> None:
        self._q = q
        self._position = None if since is None or since == "$" else _place(since)
        self._timeout_s = None if timeout is None else _seconds(timeout)
        self._told = False

    def begin(self) -> Talk[None]:
        """Find the end of the stream, if reading begins there."""
        if self._position is None:
            self._position = yield from _sit_out(LastEvent(self._q), None)

    def batch(self) -> Talk[list[Event]]:
        """Return the next events; none if none came in time."""
        end_s = None if self._timeout_s is None else monotonic_s() + self._timeout_s
        while True:
            left_s = _BLOCK_S if end_s is None else min(_BLOCK_S, max(0.0, end_s - monotonic_s()))
            ask = ReadEvents(self._q, self._position or "0-0", ceil(left_s * 1000), _BATCH)
            entries = yield from _sit_out(ask, end_s)
            if found := [event for entry in entries if (event := self._read(*entry)) is not None]:
                return found
            if not entries and end_s is not None and monotonic_s() >= end_s:
                return []

    def _read(self, event_id: str, fields: dict[str, bytes]) -> Event | None:
        self._position = event_id
        try:
            name, job_id, data = decode(fields)
        except ValueError as error:
            if not self._told:
                _log.warning("queue %s: an event (%s) is passed over: %s", self._q.name, event_id, error)
            self._told = True
            return None
        return Event(name, job_id, _moment(event_id), data, event_id)


def _sit_out(request: LastEvent | ReadEvents, end_s: float | None) -> Talk[Any]:
    """Ask, and again while Redis is away, up to the end and OUTAGE_S at most."""
    gone_since_s: float | None = None
    while True:
        try:
            return (yield request)
        except RedisUnavailable:
            now_s = monotonic_s()
            gone_since_s = gone_since_s or now_s
            if now_s - gone_since_s > OUTAGE_S or (end_s is not None and now_s >= end_s):
                raise
        yield Pause(_PAUSE_S)


def _place(since: object) -> str:
    """Return the id after which reading begins."""
    if isinstance(since, Event):
        since = since.id
    if isinstance(since, datetime) and since.tzinfo is not None:
        ms = round(since.timestamp() * 1000)
        return f"{ms - 1}-{_NUMBER_MAX}" if ms > 0 else "0-0"
    if isinstance(since, str) and _ID.fullmatch(since):
        return since
    raise BadValue(
        f"events(since={since!r}): an event, its id, an aware datetime, or None for what comes from now on is expected"
    )


def _seconds(timeout: Duration) -> float:
    try:
        return parse_duration(timeout, bare_ok=True)
    except BadValue as error:
        raise BadValue(f"events(): timeout: {error}") from None


def _moment(event_id: str) -> datetime:
    try:
        return datetime.fromtimestamp(int(event_id.partition("-")[0]) / 1000, tz=UTC)
    except (ValueError, OverflowError, OSError):  # somebody gave it an id of their own
        return datetime.max.replace(tzinfo=UTC)
