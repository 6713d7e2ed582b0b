"""The wall clock of a time zone, and when it next shows a moment that a cron pattern names.

Owns what a change of the clock does to a pattern's moments. Pure: a moment in, a moment out. As Node's cron-parser
has it, but for days of which that leaves out the job: where the clock is changed at midnight or by half an hour.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Final

from heavyq.errors import BadValue

if TYPE_CHECKING:
    from collections.abc import Callable
    from zoneinfo import ZoneInfo

    from heavyq.bullmq.cron import Cron

    LocalClock = Callable[[int], datetime]  # epoch seconds to what the clock of a zone shows

_YEARS_AHEAD: Final = timedelta(days=366 * 40)  # the rarest day is in a February with five Mondays
_MOMENT_MAX_S: Final = 200_000_000_000  # the year 8307: calendars end at 9999
_SECONDS: Final = timedelta(seconds=1)
_DAY_S: Final = 86_400
_HOURS_OF_A_DAY: Final = 24
_SHOWN: Final = 60
_OFFSET: Final = re.compile(r"utc(?:([+-])([0-9]{1,2})(?::([0-9]{2}))?)?", re.IGNORECASE | re.ASCII)


@lru_cache(maxsize=64)
def local_clock(tz: str | None) -> LocalClock:
    """Return the wall clock of a zone; None, "local" and "system": this machine's. Raises BadValue."""
    if tz is None or tz in ("local", "system"):
        return datetime.fromtimestamp
    if found := _OFFSET.fullmatch(tz):
        minutes = int(found[2] or 0) * 60 + int(found[3] or 0)
        shift = timedelta(minutes=-minutes if found[1] == "-" else minutes)
        return lambda second: datetime(1970, 1, 1) + second * _SECONDS + shift  # noqa: DTZ001 - a wall clock
    zone = _zone(tz)
    return lambda second: datetime.fromtimestamp(second, zone).replace(tzinfo=None, fold=0)


def _zone(tz: str) -> ZoneInfo:
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(tz)
    except (KeyError, ValueError, OSError):
        pass
    name = _names_in_small().get(tz.lower())
    if name is None:
        shown = tz if len(tz) <= _SHOWN else f"{tz[:_SHOWN]}..."
        raise BadValue(f'"{shown}" is no time zone: take an IANA name such as "Europe/Paris" or "UTC"')
    return ZoneInfo(name)


@cache
def _names_in_small() -> dict[str, str]:
    """Return the zones by their names in small letters: Node does not care for capitals."""
    from zoneinfo import available_timezones

    return {name.lower(): name for name in available_timezones()}


# -- finding the next moment


@dataclass(slots=True)
class _Walk:
    """A place on a zone's wall clock, and the changes of that clock passed on the way to it.

    second: epoch. at: what the clock shows. gap: it was set forward by so much, and what it left out is still to
    come until it shows gap_end. shown: it was set back, and shows again what it has shown before, up to here.
    """

    clock: LocalClock
    second: int
    at: datetime
    gap: timedelta = timedelta()
    gap_end: datetime = datetime.min  # noqa: DTZ901
    shown: datetime = datetime.min  # noqa: DTZ901 - a wall clock has no zone

    def jump(self, seconds: int) -> None:
        """Go on without a look at what lies between."""
        self.second += seconds
        self.at = self.clock(self.second)

    def stretch_s(self) -> int:
        """Return how long the clock goes on as it does: to the end of the day, or to where it is changed."""
        rest_s = min(_DAY_S - _second_of_day(at) for at in self.shows())
        for end in (self.gap_end, self.shown):
            if self.at < end:
                rest_s = min(rest_s, (end - self.at) // _SECONDS)
        if self._goes_on(rest_s):
            return rest_s
        goes_on, changed = 0, rest_s
        while changed - goes_on > 1:
            middle = (goes_on + changed) // 2
            goes_on, changed = (middle, changed) if self._goes_on(middle) else (goes_on, middle)
        return changed

    def shows(self) -> tuple[datetime, ...]:
        """Return what the clock shows, and what it left out that is made up for now."""
        return (self.at, self.at - self.gap) if self.at < self.gap_end else (self.at,)

    def pass_by(self, stretch_s: int) -> None:
        """Go to the end of the stretch."""
        before = self.at + stretch_s * _SECONDS
        self.jump(stretch_s)
        if self.at > before:
            self.gap, self.gap_end = self.at - before, self.at + (self.at - before)
        elif self.at < before:
            self.shown = before

    def _goes_on(self, ahead_s: int) -> bool:
        return self.clock(self.second + ahead_s) == self.at + ahead_s * _SECONDS


def next_ms(cron: Cron, clock: LocalClock, after_ms: int) -> int | None:
    """Return the first moment after `after_ms` that the pattern names; None if there is none for 40 years.

    A clock set forward: what is left out comes as much later, seen from before the change (2:30 at 3:30).
    A clock set back: what comes twice counts once, seen from before; a pattern of every hour counts it twice.
    """
    second = after_ms // 1000 + 1
    if not 0 <= second <= _MOMENT_MAX_S:
        return None
    walk = _Walk(clock, second, clock(second))
    last_day = walk.at.date() + _YEARS_AHEAD
    while day := _day_from(cron, walk.shows()[-1].date(), last_day):
        # To the noon before the day, and on from there: so a change of the clock that night is seen.
        noon = datetime(day.year, day.month, day.day, 12) - timedelta(days=1)  # noqa: DTZ001
        if noon > walk.at:
            walk.jump((noon - walk.at) // _SECONDS)
            continue
        stretch_s = walk.stretch_s()
        ahead_s = _ahead_s(cron, walk, stretch_s)
        if ahead_s is not None:
            return (walk.second + ahead_s) * 1000
        walk.pass_by(stretch_s)
    return None


def _ahead_s(cron: Cron, walk: _Walk, stretch_s: int) -> int | None:
    """Return how far ahead in this stretch of the clock the pattern names a second."""
    if walk.at < walk.shown and len(cron.hours) < _HOURS_OF_A_DAY:
        return None
    found = [ahead_s for at in walk.shows() if (ahead_s := _ahead_of(cron, at, stretch_s)) is not None]
    return min(found, default=None)


def _ahead_of(cron: Cron, at: datetime, stretch_s: int) -> int | None:
    if not cron.names_day(at.date()):
        return None
    start_s = _second_of_day(at)
    for hour in range(at.hour, 24):
        if hour not in cron.hours:
            continue
        for minute in cron.minutes:
            minute_s = hour * 3600 + minute * 60
            if minute_s + 60 <= start_s:
                continue
            for second in cron.seconds:
                if minute_s + second >= start_s:
                    ahead_s = minute_s + second - start_s
                    return ahead_s if ahead_s < stretch_s else None
    return None


def _second_of_day(at: datetime) -> int:
    return at.hour * 3600 + at.minute * 60 + at.second


def _day_from(cron: Cron, day: date, last: date) -> date | None:
    """Return the first day from this one on that the pattern names."""
    while day <= last:
        if day.month not in cron.months:
            day = (day.replace(day=1) + timedelta(days=31)).replace(day=1)
        elif cron.names_day(day):
            return day
        else:
            day += timedelta(days=1)
    return None
