"""The moments that a cron pattern names, as Node's cron-parser finds them: BullMQ's workers and ours must agree.

Owns the grammar, the choice of days, and what a change of the clocks does. Pure: a moment in, a moment out. Where
the two versions of cron-parser that BullMQ 5 and 6 carry disagree, the newer is followed, but for its faults.

    second  0-59, only in patterns of six fields     * any   ? any     a-b range     a,b list
    minute  0-59                                     */n a/n a-b/n     every n-th from the first on
    hour    0-23
    day     1-31, L: the month's last                day and weekday both given: a day that is either
    month   1-12, jan-dec
    weekday 0-7 (0 and 7 are Sunday), sun-sat        5L: the month's last Friday    5#2: its second
"""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from heavyq.errors import BadValue

if TYPE_CHECKING:
    from collections.abc import Callable

    LocalClock = Callable[[int], datetime]  # epoch seconds to the wall clock of a zone, without the zone

FIELDS_MIN: Final = 5
_FIELDS_MAX: Final = 6
_YEARS_AHEAD: Final = timedelta(days=366 * 40)  # the rarest day is in a February with five Mondays
_MOMENT_MAX_S: Final = 200_000_000_000  # the year 8307: calendars end at 9999
_SECONDS: Final = timedelta(seconds=1)
_HOURS: Final = timedelta(hours=1)
_HOURS_ALL: Final = frozenset(range(24))
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_WHOLE: Final = {
    "@secondly": "* * * * * *",
    "@minutely": "* * * * *",
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@weekdays": "0 0 * * 1-5",
    "@weekends": "0 0 * * 0,6",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_PART: Final = re.compile(r"(?:([*?])|(\d{1,4})(?:-(\d{1,4}))?)(?:/(\d{1,4}))?")
_WEEKDAY_LAST: Final = re.compile(r"([0-7])L")
_WEEKDAY_NTH: Final = re.compile(r"([0-7])#([1-5])")
_OFFSET: Final = re.compile(r"utc(?:([+-])(\d{1,2})(?::(\d\d))?)?", re.IGNORECASE)


class _Range(NamedTuple):
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    first: int = 0  # the number of the first name


_SECOND: Final = _Range("second", 0, 59)
_MINUTE: Final = _Range("minute", 0, 59)
_HOUR: Final = _Range("hour", 0, 23)
_DAY: Final = _Range("day of the month", 1, 31)
_MONTH: Final = _Range("month", 1, 12, _MONTHS, 1)
_WEEKDAY: Final = _Range("weekday", 0, 7, _DAYS)


@dataclass(frozen=True, slots=True)
class Cron:
    """A pattern, read.

    seconds, minutes: in order. days, weekdays: None: any. last_day: the month's last too. last_weekdays: the last
    of each of these in its month too. nth: the n-th of that weekday in its month. Weekdays: 0 is Sunday.
    """

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: frozenset[int]
    days: frozenset[int] | None
    last_day: bool
    months: frozenset[int]
    weekdays: frozenset[int] | None
    last_weekdays: frozenset[int]
    nth: tuple[int, int] | None

    def names_day(self, day: date) -> bool:
        """Say whether the pattern names this day, at whatever time."""
        if day.month not in self.months:
            return False
        if self.days is None:
            return self.weekdays is None or self._names_weekday(day)
        return self._names_day_of_month(day) or (self.weekdays is not None and self._names_weekday(day))

    def _names_day_of_month(self, day: date) -> bool:
        return day.day in (self.days or ()) or (self.last_day and day.day == _days_in(day))

    def _names_weekday(self, day: date) -> bool:
        weekday = day.isoweekday() % 7
        if weekday in (self.weekdays or ()):
            return True
        if weekday in self.last_weekdays:
            return day.day > _days_in(day) - 7
        return self.nth == (weekday, (day.day - 1) // 7 + 1)


def _days_in(day: date) -> int:
    return monthrange(day.year, day.month)[1]


# -- reading a pattern


@lru_cache(maxsize=256)
def read_cron(pattern: str) -> Cron:
    """Read a pattern. Fewer than five fields are the last ones, as in Node: those before are `*`. Raises BadValue."""
    whole = pattern.strip(" \t")
    fields = _WHOLE.get(whole, whole).split()
    if not 1 <= len(fields) <= _FIELDS_MAX:
        raise BadValue(f'cron "{_cut(pattern)}" has {len(fields)} fields: five are needed, or six with seconds first')
    stars = ["*"] * (FIELDS_MIN - len(fields))
    second, minute, hour, day, month, weekday = ["0", *stars, *fields][-_FIELDS_MAX:]
    try:
        return _read_fields(second, minute, hour, day, month, weekday)
    except ValueError as error:
        raise BadValue(f'cron "{_cut(pattern)}": {error}') from None


def _read_fields(second: str, minute: str, hour: str, day: str, month: str, weekday: str) -> Cron:
    days, last_day = _read_days(day)
    weekdays, last_weekdays, nth = _read_weekdays(weekday)
    cron = Cron(
        seconds=tuple(sorted(_numbers(_SECOND, second))),
        minutes=tuple(sorted(_numbers(_MINUTE, minute))),
        hours=_numbers(_HOUR, hour),
        days=days,
        last_day=last_day,
        months=_numbers(_MONTH, month),
        weekdays=weekdays,
        last_weekdays=last_weekdays,
        nth=nth,
    )
    longest = max(31 if month in (1, 3, 5, 7, 8, 10, 12) else 30 if month != 2 else 29 for month in cron.months)  # noqa: PLR2004
    if days and not last_day and weekdays is None and min(days) > longest:
        raise ValueError(f"no month that it names has a day {min(days)}: change the day or the month")
    return cron


def _read_days(text: str) -> tuple[frozenset[int] | None, bool]:
    if text in ("*", "?"):
        return None, False
    parts = text.split(",")
    plain = [part for part in parts if part != "L"]
    return (_numbers(_DAY, ",".join(plain)) if plain else frozenset()), len(plain) < len(parts)


def _read_weekdays(text: str) -> tuple[frozenset[int] | None, frozenset[int], tuple[int, int] | None]:
    if text in ("*", "?"):
        return None, frozenset(), None
    text = _without_names(_WEEKDAY, text)
    if found := _WEEKDAY_NTH.fullmatch(text):
        return frozenset(), frozenset(), (int(found[1]) % 7, int(found[2]))
    parts = text.split(",")
    last = [found for part in parts if (found := _WEEKDAY_LAST.fullmatch(part))]
    plain = [part for part in parts if not _WEEKDAY_LAST.fullmatch(part)]
    numbers = _numbers(_WEEKDAY, ",".join(plain)) if plain else frozenset()
    return frozenset(number % 7 for number in numbers), frozenset(int(found[1]) % 7 for found in last), None


def _numbers(field: _Range, text: str) -> frozenset[int]:
    parts = _without_names(field, text).split(",")
    return frozenset(number for part in parts for number in _numbers_of(field, part))


def _without_names(field: _Range, text: str) -> str:
    for number, name in enumerate(field.names, field.first):
        text = re.sub(rf"(?<![a-z]){name}(?![a-z])", str(number), text, flags=re.IGNORECASE)
        text = re.sub(rf"(?<![a-z]){name}L(?![a-z])", f"{number}L", text, flags=re.IGNORECASE)
    return text


def _numbers_of(field: _Range, part: str) -> range:
    found = _PART.fullmatch(part)
    if not found:
        raise ValueError(f'"{_cut(part)}" is no {field.name}: {_expected(field)}')
    star, first, last, step = found.groups()
    low = field.low if star else int(first)
    high = int(last) if last else field.high if star or step else low
    if not field.low <= low <= high <= field.high:
        why = "a range goes from low to high" if low > high else _expected(field)
        raise ValueError(f'"{_cut(part)}" is no {field.name}: {why}')
    if step and int(step) == 0:
        raise ValueError(f'"{_cut(part)}": a step is at least 1')
    return range(low, high + 1, int(step or 1))


def _expected(field: _Range) -> str:
    names = f", {field.names[0]}-{field.names[-1]}" if field.names else ""
    return f"take {field.low}-{field.high}{names}, *, a range a-b, a list a,b or a step */n"


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - a line's share


# -- the zone


@lru_cache(maxsize=64)
def local_clock(tz: str | None) -> LocalClock:
    """Return the wall clock of a zone; None: this machine's. Raises BadValue."""
    if tz is None:
        return datetime.fromtimestamp
    from zoneinfo import ZoneInfo

    if found := _OFFSET.fullmatch(tz):
        minutes = int(found[2] or 0) * 60 + int(found[3] or 0)
        shift = timedelta(minutes=-minutes if found[1] == "-" else minutes)
        return lambda second: datetime(1970, 1, 1) + timedelta(seconds=second) + shift  # noqa: DTZ001
    try:
        zone = ZoneInfo(tz)
    except (KeyError, ValueError, OSError):
        message = f'"{_cut(tz)}" is no time zone: take an IANA name such as "Europe/Paris" or "UTC"'
        raise BadValue(message) from None
    return lambda second: datetime.fromtimestamp(second, zone).replace(tzinfo=None, fold=0)


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
        """Return how long the clock goes on as it does: to the end of the hour, or to where it is changed."""
        rest_s = min(3600 - at.minute * 60 - at.second for at in self.shows())
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
        # To the noon before the day, and on hour by hour: so a change of the clock that night is seen.
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
    if walk.at < walk.shown and cron.hours != _HOURS_ALL:
        return None
    found = [ahead_s for at in walk.shows() if (ahead_s := _ahead_of(cron, at, stretch_s)) is not None]
    return min(found, default=None)


def _ahead_of(cron: Cron, at: datetime, stretch_s: int) -> int | None:
    if at.hour not in cron.hours or not cron.names_day(at.date()):
        return None
    start_s = at.minute * 60 + at.second
    for minute in cron.minutes:
        for second in cron.seconds:
            if start_s <= minute * 60 + second < start_s + stretch_s:
                return minute * 60 + second - start_s
    return None


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
