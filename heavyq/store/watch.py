"""Waiting for events of one queue in an event loop: many wait, one of them reads.

Owns who reads. There is no task of its own, so nothing is left over when the last one has gone: whoever finds nobody
reading reads for all, and when it leaves (told, out of time, or cancelled) the next goes on where it stopped. Driven
by `aclient`; knows no job but by the id in an event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from heavyq.bullmq.events import job_of
from heavyq.store.trip import EVENTS_AT_ONCE, Event, is_later

if TYPE_CHECKING:
    from heavyq.store.trip import Until

Read = Callable[[str, int, int], Awaitable[list[Event]]]  # after, block in ms, count


@dataclass(eq=False, slots=True)
class _Waiter:
    """One that waits. stirred: set when there is something for it to look at."""

    job_id: str
    until: Until
    fields: dict[str, bytes] | None = None
    error: Exception | None = None
    stirred: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def told(self) -> bool:
        return self.fields is not None or self.error is not None


class Watch:
    """The events of one queue, for all who wait for some in one event loop."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._position = ""  # what was read last; of no meaning while nobody waits
        self._waiters: dict[_Waiter, None] = {}
        self._is_read = False

    async def wait(self, job_id: str, after: str, timeout_s: float, until: Until) -> dict[str, bytes] | None:
        """Wait for an event about a job that comes after an id; return its fields, None if none came in time."""
        waiter = _Waiter(job_id, until)
        missed = self._waiters and is_later(self._position, after)
        if not self._waiters:
            self._position = after
        self._waiters[waiter] = None
        try:
            if missed:
                await self._catch_up(waiter, after)
            await self._wait(waiter, asyncio.get_running_loop().time() + timeout_s)
        finally:
            del self._waiters[waiter]
            self._appoint()
        if waiter.error is not None:
            raise waiter.error
        return waiter.fields

    async def _wait(self, waiter: _Waiter, deadline_s: float) -> None:
        clock = asyncio.get_running_loop().time
        while not waiter.told and (left_s := deadline_s - clock()) > 0:
            if self._is_read:
                waiter.stirred.clear()
                await _within(waiter.stirred.wait(), left_s)
                continue
            self._is_read = True
            try:
                await self._read_on(max(1, int(left_s * 1000)))
            finally:
                self._is_read = False

    async def _read_on(self, block_ms: int) -> None:
        """Read the next events for all who wait. An error is everybody's."""
        try:
            events = await self._read(self._position, block_ms, EVENTS_AT_ONCE)
        except Exception as error:  # noqa: BLE001 - it is raised by each of them
            for waiter in self._waiters:
                waiter.error = error
                waiter.stirred.set()
            return
        for event_id, fields in events:
            self._position = event_id
            job_id = job_of(fields)
            for waiter in self._waiters:
                if waiter.job_id == job_id:
                    _tell(waiter, fields)

    def _appoint(self) -> None:
        """Have somebody read on."""
        for waiter in () if self._is_read else self._waiters:
            if not waiter.told:
                waiter.stirred.set()
                return

    async def _catch_up(self, waiter: _Waiter, after: str) -> None:
        """Read for one waiter what was read for the others before it came."""
        until = self._position
        while not waiter.told and is_later(until, after):
            events = await self._read(after, 0, EVENTS_AT_ONCE)
            for event_id, fields in events:
                after = event_id
                if job_of(fields) == waiter.job_id:
                    _tell(waiter, fields)
            if len(events) < EVENTS_AT_ONCE:
                return


def _tell(waiter: _Waiter, fields: dict[str, bytes]) -> None:
    if not waiter.told and waiter.until(fields):
        waiter.fields = fields
        waiter.stirred.set()


async def _within(awaited: Awaitable[object], seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await awaited
    except TimeoutError:
        return
