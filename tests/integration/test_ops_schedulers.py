"""schedule, unschedule, next_iteration and the readers: what they write, and what they make of other people's data."""

from __future__ import annotations

import json
from typing import Any

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.schedule import Repeat, duty_of
from heavyq.errors import UsageError, WrongState
from tests.support.ops import Rig, read_json

MINUTE_MS = 60_000


@pytest.fixture
def rig(client, raw, q) -> Rig:
    return Rig(client, raw, q)


def schedule(rig: Rig, scheduler_id: str = "s", **options: Any) -> ops.Scheduled:
    given = {name: options.pop(name) for name in ("name", "data", "opts") if name in options}
    op = ops.schedule(rig.q, scheduler_id=scheduler_id, repeat=Repeat(**options), now_ms=rig.now, **given)
    return rig.run(op)


def run_next(rig: Rig) -> str | None:
    """Lease the next job and do the duty; return the id of the job that was planned."""
    job = rig.lease_job()
    op = duty_of(job.fields, job.lease.job_id, rig.now, rig.q)
    return rig.run(op) if op else None


def test_scheduler_and_its_first_job(rig):
    made = schedule(rig, every_ms=MINUTE_MS, limit=3, name="n", data=b'{"a":[]}', opts=b'{"attempts":2,"priority":3}')
    assert (made.job_id, made.delay_ms) == (f"repeat:s:{rig.now}", 0)
    assert rig.zset("repeat") == {"s": rig.now}
    assert rig.hash("repeat:s") == {
        "name": "n",
        "every": "60000",
        "limit": "3",
        "offset": str(rig.now % MINUTE_MS),
        "data": '{"a":[]}',
        "opts": '{"attempts":2,"priority":3}',
        "ic": "1",
    }
    job = rig.hash(made.job_id)
    assert (job["rjk"], job["name"], job["data"], job["priority"]) == ("s", "n", '{"a":[]}', "3")
    assert read_json(job["opts"]) == {
        "attempts": 2,
        "priority": 3,
        "repeat": {"count": 1, "every": MINUTE_MS, "limit": 3},
        "repeatJobKey": "s",
        "jobId": made.job_id,
        "timestamp": rig.now,
        "delay": 0,
    }
    assert list(rig.zset("prioritized")) == [made.job_id]
    assert [event["event"] for event in rig.events()] == ["added", "waiting"]


def test_pattern_plans_from_run_to_run(rig):
    made = schedule(rig, pattern="0 * * * *", tz="Asia/Kolkata")
    due_ms = rig.now + made.delay_ms
    assert rig.zset("delayed") == {made.job_id: due_ms * 4096}
    assert read_json(rig.field(made.job_id, "opts"))["prevMillis"] == due_ms
    rig.now = due_ms
    assert run_next(rig) == f"repeat:s:{due_ms + 60 * MINUTE_MS}"
    assert rig.hash("repeat:s")["ic"] == "2"


def test_nothing_is_written_when_every_moment_is_taken(rig):
    schedule(rig, every_ms=10)
    for slot in range(1, 40):
        rig.raw.hset(rig.key(f"repeat:s:{rig.now + slot * 10}"), "name", "x")
    rig.lease()
    before = rig.dump()
    with pytest.raises(WrongState) as caught:
        schedule(rig, every_ms=10)
    assert caught.value.state == "scheduled"
    assert rig.dump() == before


def test_duty_finds_every_moment_taken(rig):
    schedule(rig, every_ms=10)
    for slot in range(1, 40):
        rig.raw.hset(rig.key(f"repeat:s:{rig.now + slot * 10}"), "name", "x")
    assert run_next(rig) is None
    assert rig.events()[-1] == {"event": "duplicated", "jobId": f"repeat:s:{rig.now + 10}"}


def test_duty_done_twice_plans_once(rig):
    # conformance: C-157
    schedule(rig, every_ms=MINUTE_MS)
    job = rig.lease_job()
    op = duty_of(job.fields, job.lease.job_id, rig.now, rig.q)
    assert rig.run(op) == f"repeat:s:{rig.now + MINUTE_MS}"
    before = rig.dump()
    assert rig.run(op) is None
    assert rig.dump() == before


def test_job_that_is_not_the_planned_one_plans_nothing(rig):
    made = schedule(rig, every_ms=MINUTE_MS)
    job = rig.lease_job()
    rig.raw.zadd(rig.key("repeat"), {"s": rig.now + 5})
    assert rig.run(duty_of(job.fields, made.job_id, rig.now, rig.q)) is None


@pytest.mark.parametrize(
    "hash_of_scheduler", [{}, {"name": "n"}, {"name": "n", "every": "often", "offset": "x", "ic": "1"}]
)
def test_jobs_own_period_counts_where_the_scheduler_has_none(rig, hash_of_scheduler):
    schedule(rig, every_ms=MINUTE_MS)
    rig.raw.delete(rig.key("repeat:s"))
    if hash_of_scheduler:
        rig.raw.hset(rig.key("repeat:s"), mapping=hash_of_scheduler)
    rig.now += 3 * MINUTE_MS + 1
    planned = run_next(rig)
    assert planned == f"repeat:s:{rig.now // MINUTE_MS * MINUTE_MS + MINUTE_MS}"
    assert rig.field(planned, "name") == hash_of_scheduler.get("name", "s")


def test_scheduler_without_data_goes_on_with_the_jobs(rig):
    # conformance: C-156
    made = schedule(rig, every_ms=MINUTE_MS)
    rig.raw.hset(rig.key(made.job_id), "data", '{"d":1}')
    assert rig.field(run_next(rig), "data") == '{"d":1}'
    assert rig.field("repeat:s", "data") == '{"d":1}'


def test_schedulers_data_goes_before_the_jobs(rig):
    made = schedule(rig, every_ms=MINUTE_MS, data=b'{"t":1}')
    rig.raw.hset(rig.key(made.job_id), "data", '{"d":1}')
    assert rig.field(run_next(rig), "data") == '{"t":1}'


def test_fractional_period_of_another_producer_is_made_whole(rig):
    schedule(rig, every_ms=MINUTE_MS)
    rig.raw.hset(rig.key("repeat:s"), "every", "1000.5")
    assert run_next(rig) == f"repeat:s:{rig.now + 1000}"


def test_nothing_is_planned_beyond_what_bullmq_can_hold(rig):
    schedule(rig, every_ms=MINUTE_MS)
    rig.raw.hset(rig.key("repeat:s"), "every", str(2**42))
    assert run_next(rig) is None


def test_removed(rig):
    schedule(rig, every_ms=MINUTE_MS, offset_ms=1)
    rig.forget_events()
    assert rig.run(ops.unschedule(rig.q, "s"))
    assert [key for key in rig.dump() if key.startswith("repeat")] == []
    assert [event["event"] for event in rig.events()] == ["removed"]
    assert not rig.run(ops.unschedule(rig.q, "s"))


def test_readers_of_what_anybody_wrote(rig):
    rig.raw.zadd(rig.key("repeat"), {"old:x:::": 5, "bad": 1e300, "mad": 7})
    rig.raw.hset(rig.key("repeat:bad"), mapping={"every": "x", "opts": "[", "ic": "-"})
    rig.raw.hset(rig.key("repeat:mad"), mapping={"name": b"\xff", "data": "{", "opts": json.dumps({"attempts": []})})
    mad, bad = rig.run(ops.schedulers(rig.q, offset=0, limit=10))
    assert (bad.every_ms, bad.iteration_count, bad.opts.attempts) == (None, None, 0)
    assert (mad.id, mad.data, mad.opts.attempts, mad.job_id) == ("mad", b"{", 0, "repeat:mad:7")
    assert rig.run(ops.scheduler(rig.q, "mad")) == mad
    assert rig.run(ops.scheduler(rig.q, "none")) is None
    assert rig.run(ops.schedulers(rig.q, offset=0, limit=0)) == ()
    with pytest.raises(UsageError):
        ops.schedulers(rig.q, offset=0, limit=1001)
