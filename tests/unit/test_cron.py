"""The cron engine against the wall clock, second by second; and what it says to those who mistype."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from heavyq.bullmq.cron import read_cron
from heavyq.bullmq.schedule import next_cron_ms
from heavyq.bullmq.wall_clock import local_clock, next_ms
from heavyq.errors import BadValue

HOUR_MS = 3_600_000
FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))


def one_field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    a_range = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
    base = st.one_of(st.just("*"), number.map(str), a_range)
    part = st.one_of(base, st.tuples(base, st.integers(1, 20)).map(lambda pair: f"{pair[0]}/{pair[1]}"))
    return st.one_of(st.just("*"), st.lists(part, min_size=1, max_size=3).map(",".join))


PATTERNS = st.tuples(*(one_field(low, high) for _, low, high in FIELDS)).map(" ".join)
MOMENTS = st.integers(1_600_000_000_000, 1_900_000_000_000)


def numbers(text: str, low: int, high: int) -> set[int]:
    """Read a field in the plainest way."""
    found = set()
    for part in text.split(","):
        base, _, step = part.partition("/")
        first, _, last = base.partition("-")
        start = low if base == "*" else int(first)
        end = int(last) if last else high if step or base == "*" else start
        found |= set(range(start, end + 1, int(step or 1)))
    return found


def names(pattern: str, at: datetime) -> bool:
    """Say whether a pattern of five fields names this minute."""
    fields = pattern.split()
    minute, hour, day, month, weekday = (
        numbers(text, low, high) for text, (_, low, high) in zip(fields, FIELDS, strict=True)
    )
    is_day, is_weekday = at.day in day, bool({at.isoweekday() % 7, at.isoweekday()} & weekday)
    both = fields[2] == "*" or fields[4] == "*"
    fits = (is_day and is_weekday) if both else (is_day or is_weekday)
    return at.minute in minute and at.hour in hour and at.month in month and fits


@given(PATTERNS, MOMENTS)
@example("0 0 29 2 *", 1_709_164_800_000)
@example("59 23 31 12 *", 1_735_689_540_000)
def test_next_is_the_first_that_the_pattern_names(pattern: str, after_ms: int) -> None:
    try:
        found_ms = next_cron_ms(pattern, "UTC", after_ms)
    except BadValue:
        assume(False)
    found = datetime.fromtimestamp(found_ms / 1000, UTC)
    assert found_ms > after_ms
    assert found_ms % 60_000 == 0
    assert names(pattern, found)
    # None of the two days before it is named; nor any day in between, at any time.
    minute = found - timedelta(minutes=1)
    for _ in range(2 * 24 * 60):
        if minute.timestamp() * 1000 <= after_ms:
            break
        assert not names(pattern, minute)
        minute -= timedelta(minutes=1)


@given(PATTERNS, MOMENTS, st.sampled_from(["Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo"]))
def test_what_comes_next_depends_on_where_one_stands_and_not_on_the_way(pattern: str, after_ms: int, tz: str) -> None:
    try:
        found_ms = next_cron_ms(pattern, tz, after_ms)
    except BadValue:
        assume(False)
    assert found_ms > after_ms
    for between in (after_ms + (found_ms - after_ms) // 2, found_ms - 1000, found_ms - 1):
        at = datetime.fromtimestamp(between / 1000, ZoneInfo(tz))
        found = datetime.fromtimestamp(found_ms / 1000, ZoneInfo(tz))
        start = datetime.fromtimestamp(after_ms / 1000, ZoneInfo(tz))
        if between >= after_ms and at.utcoffset() == found.utcoffset() == start.utcoffset():
            assert next_cron_ms(pattern, tz, between) == found_ms


@given(st.text(max_size=30))
@example("@daily\n")
@example("\x00 * * * *")
@example("٣ * * * *")
@example("99999999999999999999 * * * *")
@example("*/0 * * * *")
@example("mon3 * * * sun1")
def test_any_text_is_a_pattern_or_refused_in_one_line(text: str) -> None:
    told = ""
    try:
        next_ms(read_cron(text), local_clock("UTC"), 0)
    except BadValue as error:
        told = str(error)
    assert len(told) < 300


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("60 * * * *", '"60" is no minute: take 0-59, *, a range a-b, a list a,b or a step */n'),
        ("* * * jan-x *", '"1-x" is no month: take 1-12, jan-dec, *, a range a-b, a list a,b or a step */n'),
        ("0 0 * * 5-1", '"5-1" is no weekday: a range goes from low to high'),
        ("*/0 * * * *", '"*/0": a step is at least 1'),
        ("0 0 31 2,4 *", "no month that it names has a day 31: change the day or the month"),
        ("* * * * * * *", "five fields are needed, or six with seconds first; it has 7"),
        ("", "five fields are needed, or six with seconds first; it has 0"),
    ],
)
def test_what_is_wrong_with_a_pattern_is_told(pattern: str, told: str) -> None:
    with pytest.raises(BadValue) as caught:
        next_cron_ms(pattern, "UTC", 0)
    assert str(caught.value).endswith(told)
    assert f'cron "{pattern}"' in str(caught.value)


@pytest.mark.parametrize("tz", ["Europe/Pari", "", "../../etc/passwd", "Europe", "x" * 5000, "\x00", "tzdata.zi"])
def test_what_is_no_zone_is_told(tz: str) -> None:
    with pytest.raises(BadValue, match=r'is no time zone: take an IANA name such as "Europe/Paris" or "UTC"$'):
        next_cron_ms("* * * * *", tz, 0)


@pytest.mark.parametrize("after_ms", [-(10**20), -1, 10**20])
def test_moments_off_every_calendar(after_ms: int) -> None:
    if after_ms == -1:
        assert next_cron_ms("* * * * *", "UTC", after_ms) == 0
    else:
        with pytest.raises(BadValue, match="names no day that comes: change its day or its month"):
            next_cron_ms("* * * * *", "UTC", after_ms)


# Node's cron-parser leaves out the jobs of these days, or runs them twice; heavyq does not.
@pytest.mark.parametrize(
    ("pattern", "tz", "eve", "expected"),
    [
        ("0 0 * * *", "Africa/Cairo", "2027-04-29T12:00", "2027-04-30T01:00"),
        ("30 0 * * *", "America/Havana", "2027-03-13T12:00", "2027-03-14T01:30"),
        ("30 23 * * *", "America/Nuuk", "2027-03-27T12:00", "2027-03-28T00:30"),
        ("0 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00", "2026-10-04T02:30"),
        ("30 1 * * *", "Australia/Lord_Howe", "2027-04-03T23:00", "2027-04-04T01:30"),
        ("0 3 * * *", "Australia/Lord_Howe", "2027-04-03T23:00", "2027-04-04T03:00"),
    ],
)
def test_no_days_job_is_left_out_when_the_clocks_change(pattern: str, tz: str, eve: str, expected: str) -> None:
    start = datetime.fromisoformat(eve).replace(tzinfo=ZoneInfo(tz))
    found = datetime.fromtimestamp(next_cron_ms(pattern, tz, int(start.timestamp() * 1000)) / 1000, ZoneInfo(tz))
    assert found.replace(tzinfo=None, fold=0) == datetime.fromisoformat(expected)
    following = datetime.fromtimestamp(next_cron_ms(pattern, tz, int(found.timestamp() * 1000)) / 1000, ZoneInfo(tz))
    assert 22 * HOUR_MS < (following.timestamp() - found.timestamp()) * 1000 < 26 * HOUR_MS


def test_daily_job_runs_once_a_day_all_the_year() -> None:
    for tz in ("Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "America/Havana"):
        for pattern in ("30 2 * * *", "0 0 * * *", "15 1 * * *"):
            moment = int(datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp() * 1000)
            end = moment + 366 * 24 * HOUR_MS
            runs = 0
            while (moment := next_cron_ms(pattern, tz, moment)) <= end:
                runs += 1
            assert runs == 366, (tz, pattern)
