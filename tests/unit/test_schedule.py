"""A scheduler's schedule: what is refused, and what a worker owes a scheduler, whatever stands in its job."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heavyq.bullmq import ops
from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.op import Op
from heavyq.bullmq.schedule import Repeat, duty_of, pattern_moments
from heavyq.errors import BadValue, Unreadable, WrongState

Q = QueueKey("bull", "q")
NOW_MS = 1_795_492_829_667
EVERY = {"count": 4, "every": 60_000}


def hash_of(repeat: Any = None, **opts: Any) -> dict[bytes, bytes]:
    return {b"rjk": b"s", b"opts": json.dumps({**opts, "repeat": EVERY if repeat is None else repeat}).encode()}


def duty(fields: dict[bytes, bytes]) -> Op[str | None] | None:
    return duty_of(fields, "repeat:s:1", NOW_MS, Q)


def opts_in(op: Op[Any] | None) -> dict[str, Any]:
    assert op is not None
    assert isinstance(op.args[4], bytes)
    found: dict[str, Any] = json.loads(op.args[4])
    return found


def schedule(**repeat: Any) -> Op[ops.Scheduled]:
    return ops.schedule(Q, scheduler_id="s", repeat=Repeat(**repeat), now_ms=NOW_MS)


# -- the duty


def test_next_jobs_options_are_this_ones() -> None:
    old = {"attempts": 3, "custom": [], "jobId": "x", "delay": 7, "timestamp": 1, "prevMillis": 2, "repeatJobKey": "y"}
    op = duty(hash_of(**old))
    assert op is not None
    assert opts_in(op) == {
        "attempts": 3,
        "custom": [],
        "repeat": {"count": 5, "every": 60_000},
        "repeatJobKey": "s",
        "timestamp": NOW_MS,
    }
    assert op.replayable


def test_other_jobs_have_no_duty() -> None:
    assert duty({b"opts": b'{"repeat":{"every":5}}', b"name": b"x"}) is None


@pytest.mark.parametrize(
    "repeat",
    [
        {**EVERY, "limit": 4},
        {**EVERY, "limit": "4"},
        {**EVERY, "endDate": NOW_MS - 1},
        {**EVERY, "endDate": "2026-11-24T04:00:29.666Z"},
        {"count": 1, "pattern": "0 0 1 1 *", "endDate": NOW_MS + 1000},
    ],
)
def test_over(repeat: dict[str, Any]) -> None:
    assert duty(hash_of(repeat)) is None


@pytest.mark.parametrize("repeat", [{**EVERY, "limit": 5}, {**EVERY, "endDate": NOW_MS}, {"every": "60000"}])
def test_not_over(repeat: dict[str, Any]) -> None:
    assert duty(hash_of(repeat)) is not None


def test_next_moment_comes_after_the_planned_one_that_ran_early() -> None:
    early = duty(hash_of({"pattern": "0 * * * *", "tz": "UTC"}, prevMillis=1_795_500_000_000))
    assert early is not None
    assert early.args[10] == 1_795_503_600_000


@pytest.mark.parametrize(
    ("opts", "told"),
    [
        (b"", "opts cannot be read: no JSON"),
        (b"{", "opts cannot be read: no JSON"),
        (b"\xff", "opts cannot be read: no JSON"),
        (b"[]", "opts cannot be read: a JSON object is expected"),
        (b'{"a":NaN,"repeat":{"every":5}}', "opts cannot be read: no JSON"),
        (b'{"a":1e999,"repeat":{"every":5}}', "opts cannot be read: no JSON"),
        (b"{}", "opts.repeat cannot be read: a scheduler's job must say how it repeats"),
        (b'{"repeat":{}}', "opts.repeat cannot be read: neither a period"),
        (b'{"repeat":{"every":0}}', "opts.repeat cannot be read: neither a period"),
        (b'{"repeat":{"every":"often","strategy":"own"}}', "opts.repeat cannot be read: neither a period"),
        (b'{"repeat":{"pattern":"every 5 minutes or so"}}', "opts.repeat.pattern cannot be read: cron"),
        (b'{"repeat":{"pattern":"* * * * *","startDate":9e15}}', "opts.repeat.pattern cannot be read: cron"),
        (b'{"repeat":{"pattern":"* * * * *","tz":"Moon/Sea"}}', 'opts.repeat.pattern cannot be read: "Moon/Sea" is no'),
    ],
)
def test_what_cannot_be_followed_is_told(opts: bytes, told: str) -> None:
    with pytest.raises(Unreadable) as caught:
        duty({b"rjk": b"s", b"opts": opts})
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8) | st.just("* * * * *"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
REPEATS = st.dictionaries(
    st.sampled_from(["count", "every", "pattern", "tz", "limit", "startDate", "endDate", "offset", "x"]), JSON
)
OPTS = st.dictionaries(st.sampled_from(["attempts", "priority", "lifo", "de", "prevMillis", "jobId", "x"]), JSON)


@given(OPTS, REPEATS | JSON, st.binary(max_size=9), st.text(max_size=9))
def test_any_hash_gives_a_duty_or_none_or_unreadable(
    opts: dict[str, Any], repeat: Any, rjk: bytes, job_id: str
) -> None:
    fields = {b"rjk": rjk, b"opts": json.dumps({**opts, "repeat": repeat}).encode()}
    try:
        op = duty_of(fields, job_id, NOW_MS, Q)
    except Unreadable:
        return
    if op is not None:
        assert all(isinstance(arg, str | bytes | int) for arg in op.args)
        assert opts_in(op)["repeat"]["count"] <= 2**53 + 1


@given(st.binary(max_size=40))
def test_any_bytes_for_options(raw: bytes) -> None:
    with pytest.raises(Unreadable):
        duty({b"rjk": b"s", b"opts": raw})


@pytest.mark.parametrize("opts", [b"[" * 100_000, b'{"a":' * 100_000, b'{"repeat":{"every":' + b"9" * 5000 + b"}}"])
def test_options_too_deep_or_too_long(opts: bytes) -> None:
    with pytest.raises(Unreadable):
        duty({b"rjk": b"s", b"opts": opts})


# -- what is refused


@pytest.mark.parametrize(
    ("repeat", "told"),
    [
        ({}, "a scheduler takes either every or cron"),
        ({"every_ms": 1, "pattern": "* * * * *"}, "a scheduler takes either every or cron"),
        ({"every_ms": 0}, "a period is at least 1 ms"),
        ({"every_ms": -5}, "a period is at least 1 ms"),
        ({"every_ms": 2**53}, "a period is at least 1 ms and at most"),
        ({"every_ms": 5, "limit": 0}, "limit 0: a scheduler makes at least 1 job"),
        ({"every_ms": 5, "tz": "UTC"}, "tz goes with cron, not with every"),
        ({"every_ms": 5, "offset_ms": 5}, "it lies inside the period, from 0 on below 5"),
        ({"every_ms": 5, "offset_ms": -1}, "it lies inside the period, from 0 on below 5"),
        ({"every_ms": 5, "end_ms": NOW_MS}, "end must come after now and after its start"),
        ({"every_ms": 5, "start_ms": NOW_MS + 9, "end_ms": NOW_MS + 8}, "end must come after now and after its start"),
        ({"every_ms": 5, "start_ms": 2**53}, "BullMQ holds no later moment"),
        ({"every_ms": 5, "start_ms": NOW_MS, "immediately": True}, "either immediately or start"),
        ({"pattern": "* * * * *", "offset_ms": 5}, "offset goes with every, not with cron"),
        ({"pattern": "5 4"}, "five fields are needed, or six with seconds first; it has 2"),
        ({"pattern": "60 * * * *"}, '"60" is no minute'),
        ({"pattern": "@fortnightly"}, "the names are @secondly, @minutely, @hourly, @daily"),
        ({"pattern": "* * * * *", "tz": "Moon/Sea"}, '"Moon/Sea" is no time zone'),
        ({"pattern": "0 0 1 1 *", "end_ms": NOW_MS + 1000}, 'cron "0 0 1 1 *" names no moment before its end'),
        ({"pattern": "0 0 1 1 *", "start_ms": 2**41 - 2}, "names no moment before September 2039"),
    ],
)
def test_schedules_that_make_no_sense(repeat: dict[str, Any], told: str) -> None:
    with pytest.raises(BadValue, match=r"^[^\n]+$") as caught:
        schedule(**repeat)
    assert told in str(caught.value)


@pytest.mark.parametrize("scheduler_id", ["", "s:1", "a:b:1795492829667"])
def test_ids_that_make_no_sense(scheduler_id: str) -> None:
    with pytest.raises(BadValue, match="scheduler"):
        ops.schedule(Q, scheduler_id=scheduler_id, repeat=Repeat(every_ms=5), now_ms=NOW_MS)


@pytest.mark.parametrize("name", ["de", "delay", "jobId", "parent", "repeat", "timestamp"])
def test_options_that_a_scheduler_sets_itself(name: str) -> None:
    opts = json.dumps({name: {"id": "x"}}).encode()
    with pytest.raises(BadValue, match=f'the option "{name}" cannot be set for a scheduler'):
        ops.schedule(Q, scheduler_id="s", repeat=Repeat(every_ms=5), opts=opts, now_ms=NOW_MS)


def test_moments_all_taken() -> None:
    with pytest.raises(WrongState, match="its next moments all have a job already"):
        schedule(every_ms=5).read(b"taken")


def test_several_moments_of_a_pattern_are_tried() -> None:
    moments = pattern_moments("0 * * * *", "UTC", NOW_MS, None)
    assert [moment - moments[0] for moment in moments] == [0, 3_600_000, 7_200_000, 10_800_000]
    assert pattern_moments("0 * * * *", "UTC", NOW_MS, moments[1]) == moments[:2]


# -- what it costs


def test_cron_and_zones_are_loaded_when_the_first_pattern_is_read() -> None:
    code = (
        "import sys, heavyq\n"
        "from heavyq.bullmq import ops\n"
        "from heavyq.bullmq.keys import QueueKey\n"
        "from heavyq.bullmq.schedule import Repeat\n"
        "q = QueueKey('bull', 'q')\n"
        "engine = {'heavyq.bullmq.cron', 'heavyq.bullmq.wall_clock', 'zoneinfo', 'tzdata'}\n"
        "ops.schedule(q, scheduler_id='s', repeat=Repeat(every_ms=5), now_ms=1)\n"
        "assert not engine & set(sys.modules), engine & set(sys.modules)\n"
        "ops.schedule(q, scheduler_id='s', repeat=Repeat(pattern='* * * * *', tz='UTC'), now_ms=1)\n"
        "assert 'heavyq.bullmq.cron' in sys.modules\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
