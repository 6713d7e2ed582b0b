"""Durations and sizes: what is read, what is refused and with which words."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heavyq.config.units import format_duration, format_size, parse_duration, parse_size
from heavyq.errors import BadValue, ConfigError


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (1.5, 1.5),
        (9_999, 9_999.0),
        ("90", 90.0),
        ("0.5", 0.5),
        ("90s", 90.0),
        (" 5m ", 300.0),
        ("2h", 7200.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("250ms", 0.25),
        ("1.5h", 5400.0),
        ("2d", 172_800.0),
        ("1w", 604_800.0),
        ("20000s", 20_000.0),
        (timedelta(minutes=5), 300.0),
        (timedelta(days=1), 86_400.0),
    ],
)
def test_duration_is_read(value, seconds):
    assert parse_duration(value) == seconds


@pytest.mark.parametrize(
    "value", ["", "fast", "5x", "5m later", "-5s", "1,5s", "m5", "1e3", None, True, [], b"5s", math.nan, math.inf, -1]
)
def test_what_is_no_duration_is_refused_with_an_example(value):
    with pytest.raises(BadValue, match="is no duration"):
        parse_duration(value)


def test_negative_timedelta_is_refused():
    with pytest.raises(BadValue, match="not negative"):
        parse_duration(timedelta(seconds=-1))


@pytest.mark.parametrize("value", [10_000, 30_000, 30_000.0, "30000", 3_600_000])
def test_bare_number_that_looks_like_milliseconds_is_refused(value):
    with pytest.raises(BadValue, match="looks like milliseconds"):
        parse_duration(value)


def test_refused_milliseconds_come_with_what_to_write():
    with pytest.raises(BadValue) as caught:
        parse_duration(3_600_000)
    assert 'write "1h" (or "3600000s" if you mean seconds)' in str(caught.value)


def test_large_bare_number_is_taken_where_numbers_are_computed():
    assert parse_duration(86_400, bare_ok=True) == 86_400


def test_bad_value_is_a_value_error_and_a_config_error():
    with pytest.raises(ValueError, match="is no duration") as caught:
        parse_duration("soon")
    assert isinstance(caught.value, ConfigError)
    assert caught.value.exit_code == 3


@given(st.integers(min_value=0, max_value=10**12))
def test_shown_duration_is_read_back(milliseconds):
    assert math.isclose(parse_duration(format_duration(milliseconds / 1000)), milliseconds / 1000, abs_tol=1e-6)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.25, "250ms"), (8, "8s"), (90, "1m30s"), (3600, "1h"), (90061.5, "1d1h1m1s500ms")],
)
def test_duration_is_shown_shortly(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (0, 0),
        (1000, 1000),
        ("1000", 1000),
        ("1Ki", 1024),
        ("1KiB", 1024),
        ("2Gi", 2 * 1024**3),
        ("1.5Gi", 3 * 512 * 1024**2),
        ("1k", 1000),
        ("1K", 1000),
        ("1KB", 1000),
        ("512 Mi", 512 * 1024**2),
        ("2M", 2_000_000),
        ("2G", 2_000_000_000),
        ("3T", 3 * 10**12),
        ("100B", 100),
    ],
)
def test_size_is_read(value, size):
    assert parse_size(value) == size


@pytest.mark.parametrize("value", ["", "big", "2g", "100m", "1e9", "-1", -1, 1.5, True, None, "Gi", "2GiBB"])
def test_what_is_no_size_is_refused_with_an_example(value):
    with pytest.raises(BadValue, match="is no size"):
        parse_size(value)


@given(st.integers(min_value=0, max_value=2**50))
def test_shown_size_is_read_back(size):
    assert parse_size(format_size(size)) == size
