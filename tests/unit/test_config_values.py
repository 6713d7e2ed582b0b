"""Values that options take: Keep, Rate, Dedup, fixed() and exponential(); what is refused, and in which words."""

from __future__ import annotations

import pytest

from heavyq.bullmq import options as wire
from heavyq.bullmq.dedup import Dedup as WireDedup
from heavyq.config import OPTIONS, Dedup, Keep, Rate, exponential, fixed
from heavyq.config.values import custom, dedup_on_wire, keep_on_wire
from heavyq.errors import BadValue

# ---- Keep


@pytest.mark.parametrize(
    ("value", "count", "age_s"),
    [
        (True, 0, None),
        (False, -1, None),
        (0, 0, None),
        (7, 7, None),
        (Keep(count=5, age="1d"), 5, 86_400),
        (Keep(age=1.2), -1, 2),
    ],
)
def test_retention_on_the_wire(value, count, age_s):
    assert keep_on_wire(value) == wire.Keep(count=count, age_s=age_s, limit=1000)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"count": -1},
        {"count": True},
        {"count": "5"},
        {"age": "long"},
        {"age": 86_400},
        {"count": 1, "limit": 0},
        {"count": 1, "limit": "3"},
    ],
)
def test_keep_that_means_nothing_is_refused(wrong):
    with pytest.raises(BadValue, match="Keep"):
        Keep(**wrong)


# ---- fixed, exponential


def test_backoffs_are_milliseconds_on_the_wire():
    assert fixed("60s", jitter=0.5) == wire.Backoff("fixed", 60_000, 0.5)
    assert exponential(0.25) == wire.Backoff("exponential", 250, 0.0)
    assert custom("my-type", delay="2s") == wire.Backoff("my-type", 2_000, 0.0)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: fixed(60_000),
        lambda: exponential("1s", jitter=2),
        lambda: fixed("1s", jitter="x"),
        lambda: fixed("x"),
        lambda: custom(5),
        lambda: custom(""),
    ],
)
def test_bad_backoff_is_refused(wrong):
    with pytest.raises(BadValue, match=r"fixed|exponential|custom"):
        wrong()


# ---- Rate


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10/1s", Rate(10, per="1s")),
        ("100/m", Rate(100, per=60)),
        (" 3 / 250ms ", Rate(3, per=0.25)),
        ("5 per 1h30m", Rate(5, per="90m")),
        ("1/2", Rate(1, per=2)),
    ],
)
def test_a_rate_is_written_as_text_outside_of_python(text, rate):
    found = Rate.parse(text)
    assert (found.count, found.per_ms) == (rate.count, rate.per_ms)
    assert OPTIONS["limiter"].read(text, label="--set q.limiter", text=True) == (rate.count, rate.per_ms)


def test_a_rate_is_shown_as_it_is_read():
    assert str(Rate(10, per="90s")) == "10/1m30s"
    assert OPTIONS["limiter"].show([10, 500]) == "10/500ms"
    assert OPTIONS["limiter"].show(None) == "off"


@pytest.mark.parametrize("text", ["10", "s", "10/", "/1s", "10/x", "-1/s", "1.5/s", "10/10000", ""])
def test_a_text_that_is_no_rate_is_refused_in_one_line(text):
    with pytest.raises(BadValue) as caught:
        OPTIONS["limiter"].read(text, label="HEAVYQ_LIMITER", text=True)
    assert str(caught.value).startswith("HEAVYQ_LIMITER: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("count", "per"), [(0, "1s"), (True, "1s"), (2.5, "1s"), (1, 0), (1, "0.2ms"), (1, 60_000), (1, "a"), (1, "2000d")]
)
def test_a_rate_that_means_nothing_is_refused(count, per):
    with pytest.raises(BadValue, match="Rate"):
        Rate(count, per=per)


def test_rates_that_mean_the_same_are_equal():
    assert Rate(5, per="2s") == Rate(5, per=2.0)
    assert len({Rate(5, per="2s"), Rate(5, per=2.0), Rate(5, per="3s"), Rate(4, per="2s")}) == 3


# ---- Dedup


def test_a_deduplication_on_the_wire():
    assert dedup_on_wire(Dedup("x")) == WireDedup("x", ttl_ms=None)
    every = Dedup("x", ttl="1.5s", extend=True, replace=True, keep_last_if_active=True, reschedule=True)
    assert dedup_on_wire(every) == WireDedup("x", 1500, True, True, True, True)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"id": ""}, "Dedup(''): the id is a text, and not empty"),
        ({"id": 7}, "Dedup(7): the id is a text, and not empty"),
        ({"id": "x", "ttl": 0}, "Dedup(ttl=0): 1ms to 365d"),
        ({"id": "x", "ttl": 30_000}, "Dedup(ttl=...): 30000 looks like milliseconds"),
        ({"id": "x", "extend": 1}, "Dedup(extend=1): neither true nor false"),
        ({"id": "x", "keep_last_if_active": "yes"}, "Dedup(keep_last_if_active='yes'): neither true nor false"),
    ],
)
def test_a_deduplication_that_means_nothing_is_refused_in_one_line(wrong, words):
    with pytest.raises(BadValue) as caught:
        Dedup(**wrong)
    assert str(caught.value).startswith(words)
