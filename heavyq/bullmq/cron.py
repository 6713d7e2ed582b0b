"""A cron pattern: its grammar and the days it names, as Node's cron-parser reads it.

BullMQ's workers and ours must agree on it. Where the two versions of cron-parser that BullMQ 5 and 6 carry
disagree, the newer is followed, but for its faults. Never looks at a clock: `wall_clock` does.

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
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from heavyq.errors import BadValue

if TYPE_CHECKING:
    from datetime import date

_FIELDS_MIN: Final = 5
_FIELDS_MAX: Final = 6
_LEAP_YEAR: Final = 2000
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
_PART: Final = re.compile(r"(?:([*?])|([0-9]{1,4})(?:-([0-9]{1,4}))?)(?:/([0-9]{1,4}))?")
_WEEKDAY_LAST: Final = re.compile(r"([0-7])L")
_WEEKDAY_NTH: Final = re.compile(r"([0-7])#([1-5])")


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
    if pattern.startswith("@") and pattern not in _WHOLE:
        raise BadValue(f'cron "{_cut(pattern)}": the names are {", ".join(_WHOLE)}')
    fields = _WHOLE.get(pattern, pattern).split()
    if not 1 <= len(fields) <= _FIELDS_MAX:
        raise BadValue(_wrong_count(pattern, len(fields)))
    stars = ["*"] * (_FIELDS_MIN - len(fields))
    second, minute, hour, day, month, weekday = ["0", *stars, *fields][-_FIELDS_MAX:]
    try:
        return _read_fields(second, minute, hour, day, month, weekday)
    except ValueError as error:
        raise BadValue(f'cron "{_cut(pattern)}": {error}') from None


def check_count(pattern: str) -> None:
    """Refuse what Node reads too, and nobody means: a pattern of fewer than five fields. Raises BadValue."""
    count = len(pattern.split())
    if not pattern.startswith("@") and count < _FIELDS_MIN:
        raise BadValue(_wrong_count(pattern, count))


def _wrong_count(pattern: str, count: int) -> str:
    return f'cron "{_cut(pattern)}": five fields are needed, or six with seconds first; it has {count}'


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
    longest = max(monthrange(_LEAP_YEAR, month)[1] for month in cron.months)
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
        text = re.sub(rf"(?<![a-z0-9]){name}(?=L?(?![a-z0-9]))", str(number), text, flags=re.IGNORECASE | re.ASCII)
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
