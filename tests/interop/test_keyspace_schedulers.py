"""The oracle for job schedulers: the same steps by BullMQ and by heavyq's operations leave the same keyspace.

A worker's step is a lease and its duty (`duty_of`), as heavyq's worker takes it; BullMQ's does both in one call.
What differs on purpose has tests of its own at the end.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.lease import LeasedJob
from heavyq.bullmq.schedule import Repeat, duty_of
from tests.interop.node import NodeError
from tests.interop.twins import Held, packed

if TYPE_CHECKING:
    from collections.abc import Callable

    from heavyq.bullmq.op import Op
    from tests.interop.twins import Twins
    from tests.support.ops import Rig

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
_REPEAT = {
    "every": "every_ms",
    "pattern": "pattern",
    "tz": "tz",
    "limit": "limit",
    "startDate": "start_ms",
    "endDate": "end_ms",
    "offset": "offset_ms",
}


class Clockwork:
    """Steps of schedulers on both sides of a pair of queues."""

    def __init__(self, twins: Twins) -> None:
        self.twins = twins
        self._tokens = 0

    @property
    def now(self) -> int:
        return self.twins.ours.now

    def upsert(self, scheduler_id: str = "s", template: dict[str, Any] | None = None, **repeat: Any) -> str:
        template = template or {}
        theirs: str = self.twins.bull("upsertScheduler", id=scheduler_id, repeat=repeat, template=template)
        ours = self.twins.ours.run(schedule_op(self.twins.ours, scheduler_id, template, repeat))
        self.twins.compare(f"upsert {scheduler_id} {repeat} {template}", ours.job_id, theirs)
        return theirs

    def upsert_by_node(self, scheduler_id: str = "s", template: dict[str, Any] | None = None, **repeat: Any) -> None:
        self.twins.both("upsertScheduler", id=scheduler_id, repeat=repeat, template=template or {})

    def remove(self, scheduler_id: str = "s") -> bool:
        theirs: bool = self.twins.bull("removeScheduler", id=scheduler_id)
        ours = self.twins.ours.run(ops.unschedule(self.twins.ours.q, scheduler_id))
        self.twins.compare(f"remove {scheduler_id}", ours, theirs)
        return theirs

    def run_next(self) -> Held:
        """Take the next job and plan the one after it; there must be one."""
        held = self.try_run_next()
        assert held is not None, "no job to fetch"
        return held

    def try_run_next(self) -> Held | None:
        self._tokens += 1
        token = f"hq:w9:{self._tokens}"
        theirs = self.twins.bull("fetch", token=token)
        job = self.twins.ours.try_lease(token=token, worker_name="wk")
        leased = job if isinstance(job, LeasedJob) else None
        if leased and (op := duty(self.twins.ours, leased)):
            self.twins.ours.run(op)
        if theirs:  # BullMQ 5 notes the next job's id in this one; nobody reads it
            self.twins.theirs.raw.hdel(self.twins.theirs.key(theirs["id"]), "nrjid")
        self.twins.compare("run next", leased and leased.lease.job_id, theirs and theirs["id"])
        return Held(leased.lease.job_id, token, leased) if leased else None

    def next_ms(self, scheduler_id: str = "s") -> int:
        return int(self.twins.ours.zset("repeat")[scheduler_id])

    def go_to(self, moment: str) -> None:
        """Let the clocks go on to a moment (UTC)."""
        ms = int(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp() * 1000)
        assert ms > self.now
        self.twins.later(ms - self.now)


def schedule_op(rig: Rig, scheduler_id: str, template: dict[str, Any], repeat: dict[str, Any]) -> Op[ops.Scheduled]:
    return ops.schedule(
        rig.q,
        scheduler_id=scheduler_id,
        repeat=Repeat(**{_REPEAT[name]: value for name, value in repeat.items()}),
        name=template.get("name"),
        data=json.dumps(template["data"]).encode() if "data" in template else None,
        opts=packed(template.get("opts", {})),
        now_ms=rig.now,
    )


def duty(rig: Rig, job: LeasedJob) -> Op[str | None] | None:
    return duty_of(job.fields, job.lease.job_id, rig.now, rig.q)


@pytest.fixture
def clockwork(twins: Twins) -> Clockwork:
    return Clockwork(twins)


@pytest.fixture
def only_5(twins: Twins) -> None:
    if twins.bull.node.generation != "5":
        pytest.skip("BullMQ 5 alone makes these")


# -- a period


def test_period_from_run_to_run(clockwork: Clockwork, twins: Twins) -> None:
    # conformance: C-146
    clockwork.upsert(every=MINUTE_MS)
    first = clockwork.now
    for run in range(4):
        held = clockwork.run_next()
        assert held.id == f"repeat:s:{first + run * MINUTE_MS}"
        twins.complete(held)
        twins.later(MINUTE_MS)
    assert twins.ours.hash("repeat:s")["ic"] == "5"


def test_missed_periods_make_one_late_run_and_the_grid_stays(clockwork: Clockwork, twins: Twins) -> None:
    # conformance: C-150
    clockwork.upsert(every=MINUTE_MS)
    first = clockwork.now
    clockwork.run_next()
    twins.later(10 * MINUTE_MS + 17)
    clockwork.run_next()
    assert clockwork.next_ms() == first + 11 * MINUTE_MS
    assert clockwork.try_run_next() is None
    twins.later(2 * MINUTE_MS - 17)  # the next run after it is due at this very moment
    clockwork.run_next()
    assert clockwork.next_ms() == clockwork.now


def test_offset(clockwork: Clockwork, twins: Twins) -> None:
    clockwork.upsert(every=MINUTE_MS, offset=5000)
    assert clockwork.next_ms() % MINUTE_MS == 5000
    clockwork.upsert(every=MINUTE_MS, offset=7000)  # a planned job keeps its moment
    clockwork.upsert(every=90_000, offset=7000)
    clockwork.upsert(every=30_000)  # the offset stays
    twins.later(5 * MINUTE_MS)
    clockwork.run_next()
    assert clockwork.next_ms() % 30_000 == 7000


def test_offset_of_nothing_and_one_before_now(clockwork: Clockwork) -> None:
    clockwork.upsert("zero", every=MINUTE_MS, offset=0)
    clockwork.upsert("near", every=MINUTE_MS, offset=clockwork.now % MINUTE_MS)
    clockwork.upsert("past", every=MINUTE_MS, offset=clockwork.now % MINUTE_MS - 1)


def test_start_of_a_period(clockwork: Clockwork, twins: Twins) -> None:
    start = clockwork.now + 150_000
    clockwork.upsert(every=MINUTE_MS, startDate=start)
    twins.later(151_000)
    clockwork.run_next()
    assert clockwork.next_ms() == start + MINUTE_MS
    clockwork.upsert("past", every=MINUTE_MS, startDate=clockwork.now - 150_000)
    clockwork.upsert("both", every=MINUTE_MS, offset=1000, startDate=clockwork.now + 300_000)
    clockwork.upsert("both", every=MINUTE_MS, startDate=clockwork.now + 900_000)  # planned already: it stays


def test_limit(clockwork: Clockwork, twins: Twins) -> None:
    # conformance: C-151
    clockwork.upsert(every=MINUTE_MS, limit=3)
    runs = 0
    while held := clockwork.try_run_next():
        twins.complete(held)
        twins.later(MINUTE_MS)
        runs += 1
    assert runs == 3
    clockwork.upsert(every=MINUTE_MS, limit=1)  # counted anew
    clockwork.run_next()
    twins.later(MINUTE_MS)
    assert clockwork.try_run_next() is None


def test_end_has_passed(clockwork: Clockwork, twins: Twins) -> None:
    # conformance: C-152
    clockwork.upsert(every=MINUTE_MS, endDate=clockwork.now + 90_000)
    clockwork.run_next()
    twins.later(95_000)
    clockwork.run_next()  # the one that was planned; it comes late
    twins.later(HOUR_MS)
    assert clockwork.try_run_next() is None
    clockwork.upsert("c", pattern="*/10 * * * *", endDate=clockwork.now + 25 * MINUTE_MS)
    runs = 0
    for _ in range(6):
        twins.later(10 * MINUTE_MS)
        runs += clockwork.try_run_next() is not None
    assert runs == 2


# -- a pattern


@pytest.mark.parametrize(
    ("pattern", "tz"),
    [
        ("*/15 * * * * *", None),
        ("10-50/20 */7 * * * *", "UTC"),
        ("0 9-17/2 * * mon-FRI", "America/New_York"),
        ("30 0 1,15,L jan,mar-apr *", "Asia/Kolkata"),
        ("0 0 13 * 5", "Europe/Paris"),
        ("0 12 * * 5L", "Europe/Paris"),
    ],
)
def test_pattern_from_run_to_run(clockwork: Clockwork, twins: Twins, pattern: str, tz: str | None) -> None:
    # conformance: C-147
    clockwork.upsert_by_node(pattern=pattern, **({"tz": tz} if tz else {}))
    for _ in range(4):
        twins.later(clockwork.next_ms() - clockwork.now + 3)
        twins.complete(clockwork.run_next())


@pytest.mark.parametrize(
    ("pattern", "tz", "eve"),
    [
        ("30 2 * * *", "Europe/Paris", "2027-03-26T12:00"),
        ("*/20 2 * * *", "Europe/Paris", "2027-03-27T12:00"),
        ("30 2 * * *", "Europe/Paris", "2027-10-29T12:00"),
        ("0 * * * *", "America/New_York", "2027-03-14T05:30"),
        ("0 * * * *", "America/New_York", "2027-11-07T03:30"),
        ("30 1 * * *", "America/New_York", "2027-11-05T12:00"),
    ],
)
def test_pattern_when_the_clocks_change(clockwork: Clockwork, twins: Twins, pattern: str, tz: str, eve: str) -> None:
    # conformance: C-147
    clockwork.go_to(eve)
    clockwork.upsert(pattern=pattern, tz=tz)
    for _ in range(5):
        twins.later(clockwork.next_ms() - clockwork.now)
        twins.complete(clockwork.run_next())


def test_pattern_missed(clockwork: Clockwork, twins: Twins) -> None:
    # conformance: C-150
    clockwork.upsert(pattern="0 * * * *")
    twins.later(10 * HOUR_MS)
    clockwork.run_next()
    assert 0 < clockwork.next_ms() - clockwork.now <= HOUR_MS
    assert clockwork.try_run_next() is None


def test_pattern_with_start_end_and_limit(clockwork: Clockwork, twins: Twins) -> None:
    start = (clockwork.now // HOUR_MS + 5) * HOUR_MS
    clockwork.upsert(pattern="0 * * * *", startDate=start)  # one that starts at a moment of its own
    assert clockwork.next_ms() == start + HOUR_MS
    clockwork.upsert(pattern="0 * * * *", startDate=start, endDate=start + 100 * HOUR_MS, limit=2)
    for _ in range(2):
        twins.later(clockwork.next_ms() - clockwork.now)
        clockwork.run_next()
    twins.later(HOUR_MS)
    assert clockwork.try_run_next() is None


# -- the template


def test_template_options_are_those_of_each_job(clockwork: Clockwork, twins: Twins) -> None:
    # conformance: C-155
    opts = {
        "attempts": 3,
        "backoff": {"type": "exponential", "delay": 500, "jitter": 0.5},
        "priority": 4,
        "keepLogs": 5,
        "stackTraceLimit": 1,
        "removeOnComplete": 2,
        "removeOnFail": True,
    }
    template = {"name": 'né "\\', "data": {"a": [], "b": "é/☃"}, "opts": opts}
    clockwork.upsert(template=template, every=MINUTE_MS)
    for _ in range(4):
        twins.complete(clockwork.run_next(), {"ok": 1})
        twins.later(MINUTE_MS)


def test_template_without_priority_may_run_next(clockwork: Clockwork, twins: Twins) -> None:
    twins.add()
    clockwork.upsert(template={"opts": {"lifo": True}}, every=MINUTE_MS)
    assert clockwork.run_next().id.startswith("repeat:")


@pytest.mark.parametrize("data", [{}, [], 0, "", "x", False, {"a": None}])
def test_template_data_of_any_json(clockwork: Clockwork, twins: Twins, data: object) -> None:
    clockwork.upsert(template={"data": data}, every=MINUTE_MS)
    clockwork.run_next()
    twins.later(MINUTE_MS)
    clockwork.run_next()


@pytest.mark.parametrize("scheduler_id", ["a:b", 'é"/\\x', " ", "1"])
def test_ids_of_any_text(clockwork: Clockwork, twins: Twins, scheduler_id: str) -> None:
    clockwork.upsert(scheduler_id, every=MINUTE_MS)
    clockwork.run_next()
    twins.later(MINUTE_MS)
    clockwork.run_next()
    clockwork.remove(scheduler_id)


# -- changed


def test_changed_while_its_job_waits(clockwork: Clockwork, twins: Twins) -> None:
    # conformance: C-149
    clockwork.upsert(every=MINUTE_MS)
    twins.later(70_000)
    clockwork.upsert(every=MINUTE_MS)  # in `wait`: a job that is late keeps its moment
    twins.later(1)
    clockwork.upsert(every=MINUTE_MS, template={"opts": {"priority": 3}})
    twins.later(1)
    clockwork.upsert(every=MINUTE_MS, template={"data": {"b": 1}, "name": "other"})  # in `prioritized`
    clockwork.upsert(every=45_000)
    clockwork.upsert(pattern="*/15 * * * * *", tz="Europe/Paris")  # in `delayed`
    clockwork.upsert(pattern="*/15 * * * * *", tz="Europe/Paris")
    clockwork.upsert(pattern="0 * * * *")
    clockwork.upsert(every=MINUTE_MS)
    assert len(jobs_of(twins.ours)) == 1


def test_changed_while_its_job_runs(clockwork: Clockwork, twins: Twins) -> None:
    # conformance: C-149
    clockwork.upsert(every=MINUTE_MS)
    held = clockwork.run_next()
    twins.later(5)
    clockwork.upsert(every=MINUTE_MS, template={"opts": {"attempts": 2}})
    clockwork.upsert(every=50_000)
    clockwork.upsert(every=MINUTE_MS)
    twins.complete(held)
    assert twins.ours.hash("repeat:s")["ic"] == "2"


def test_planned_job_is_gone(clockwork: Clockwork, twins: Twins) -> None:
    clockwork.upsert(every=MINUTE_MS)
    for side in (twins.ours, twins.theirs):
        side.raw.delete(side.key(f"repeat:s:{clockwork.now}"), side.key("wait"))
    clockwork.upsert(every=MINUTE_MS)


def test_one_side_changes_what_the_other_made(clockwork: Clockwork, twins: Twins) -> None:
    # conformance: C-149
    clockwork.upsert_by_node(every=MINUTE_MS, template={"data": {"a": 1}, "opts": {"attempts": 3}})
    clockwork.run_next()
    clockwork.upsert(every=MINUTE_MS, template={"data": {"a": 2}})
    clockwork.upsert_by_node(every=MINUTE_MS, template={"data": {"a": 3}})
    assert twins.ours.hash("repeat:s")["ic"] == "2"
    assert len(jobs_of(twins.ours)) == 2  # the one that runs, and one planned


def test_node_goes_on_with_what_heavyq_made(clockwork: Clockwork, twins: Twins) -> None:
    template = {"name": "n", "data": {"a": 1}, "opts": {"attempts": 3, "priority": 2}}
    clockwork.upsert(every=MINUTE_MS, offset=1000, limit=3, template=template)
    clockwork.upsert("c", pattern="0 * * * *", tz="Europe/Paris", template=template)
    for _ in range(3):
        twins.later(HOUR_MS)
        twins.both("fetch", token="t1")


# -- removed


def test_removed_while_its_job_is_delayed_waits_and_runs(clockwork: Clockwork, twins: Twins) -> None:
    # conformance: C-153
    clockwork.upsert(every=MINUTE_MS, offset=1)
    assert clockwork.remove()
    assert not clockwork.remove()
    clockwork.upsert(every=MINUTE_MS)
    clockwork.remove()  # the job that waits is left to run
    clockwork.upsert("other", every=MINUTE_MS)
    clockwork.run_next()
    assert twins.ours.zset("repeat").keys() == {"other"}
    held = clockwork.run_next()
    clockwork.remove("other")
    twins.complete(held)
    twins.later(HOUR_MS)
    assert clockwork.try_run_next() is None


def test_removed_between_the_lease_and_the_duty(clockwork: Clockwork, twins: Twins) -> None:
    # conformance: C-153
    clockwork.upsert_by_node(every=MINUTE_MS)
    job = twins.ours.lease_job()
    twins.bull.node.at(twins.ours.q)("removeScheduler", id="s")
    before = twins.ours.dump()
    op = duty(twins.ours, job)
    assert op is not None
    assert twins.ours.run(op) is None
    assert twins.ours.dump() == before


# -- more than one run of a job


def test_retried_job_plans_nothing_more(clockwork: Clockwork, twins: Twins) -> None:
    # conformance: C-157
    clockwork.upsert(every=MINUTE_MS, template={"opts": {"attempts": 3, "backoff": {"type": "fixed", "delay": 50}}})
    twins.fail(clockwork.run_next())
    for _ in range(2):
        twins.later(50)
        twins.fail(clockwork.run_next())
    assert twins.ours.hash("repeat:s")["ic"] == "2"
    assert len(twins.ours.zset("delayed")) == 1


def test_stalled_job_is_not_given_up(clockwork: Clockwork, twins: Twins) -> None:
    # conformance: C-090
    clockwork.upsert(every=MINUTE_MS)
    for _ in range(3):
        held = clockwork.run_next()
        twins.sweep(max_stalled_count=0)
        twins.expire_lock(held)
        twins.sweep(max_stalled_count=0)
    assert twins.ours.field(held.id, "defa") is None
    assert twins.ours.field(held.id, "stc") == "3"


def test_planned_jobs_cannot_be_removed_by_node(clockwork: Clockwork, twins: Twins) -> None:
    clockwork.upsert(every=MINUTE_MS)
    with pytest.raises(NodeError, match="scheduler"):
        twins.bull.node.at(twins.ours.q)("remove", id=f"repeat:s:{clockwork.now}")


# -- BullMQ 5's repeatable jobs


@pytest.mark.usefixtures("only_5")
@pytest.mark.parametrize("repeat", [{"every": MINUTE_MS}, {"pattern": "0 * * * *", "tz": "Europe/Paris", "limit": 3}])
def test_repeatable_job_keeps_its_data(clockwork: Clockwork, twins: Twins, repeat: dict[str, Any]) -> None:
    # conformance: C-156
    opts = {"attempts": 2, "priority": 2}
    twins.both("addRepeatable", name="old", data={"d": 1}, repeat=repeat, opts=opts)
    for _ in range(3):
        twins.later(HOUR_MS)
        held = clockwork.run_next()
        assert json.loads(held.job.fields[b"data"]) == {"d": 1}
        twins.complete(held)
    ids = list(twins.ours.zset("repeat"))
    assert all(twins.ours.hash(f"repeat:{each}")["data"] == '{"d":1}' for each in ids)


# -- what differs on purpose


def test_waiting_job_of_a_paused_queue_is_replaced(clockwork: Clockwork, twins: Twins) -> None:
    """BullMQ 6 looks in the wrong list and leaves a second job (D3)."""
    ours = twins.ours
    ours.run(schedule_op(ours, "s", {}, {"every": MINUTE_MS}))
    twins.bull.node.at(ours.q)("pause")
    ours.now += 5
    for _ in range(2):
        ours.run(schedule_op(ours, "s", {}, {"every": MINUTE_MS}))
    assert ours.list("wait") + ours.list("paused") == [f"repeat:s:{ours.now - 5}"]
    assert ours.zset("delayed") == {}


def test_moment_of_a_job_that_runs_is_not_taken_again(twins: Twins) -> None:
    """BullMQ would overwrite the running job's hash (D5)."""
    ours = twins.ours
    first = ours.run(schedule_op(ours, "s", {}, {"pattern": "0 * * * *"}))
    twins.bull.node.at(ours.q)("promote", id=first.job_id)
    job = ours.lease_job()
    op = duty(ours, job)
    assert op is not None
    ours.run(op)
    running = ours.hash(first.job_id)
    again = ours.run(schedule_op(ours, "s", {}, {"pattern": "0 * * * *"}))
    assert again.job_id == f"repeat:s:{int(first.job_id.rpartition(':')[2]) + HOUR_MS}"
    assert ours.hash(first.job_id) == running
    assert list(ours.zset("delayed")) == [again.job_id]


def test_no_job_is_planned_after_the_end(clockwork: Clockwork, twins: Twins) -> None:
    """BullMQ plans one more, for it looks at the clock and not at the next moment."""
    clockwork.upsert(every=MINUTE_MS, endDate=clockwork.now + 30_000)
    job = twins.ours.lease_job()
    op = duty(twins.ours, job)
    assert op is not None
    assert twins.ours.run(op) is None
    assert twins.ours.zset("delayed") == {}


def test_taken_moment_does_not_stop_the_scheduler(clockwork: Clockwork, twins: Twins) -> None:
    """In BullMQ a job that has the next moment's id already ends the scheduler."""
    clockwork.upsert(every=MINUTE_MS)
    ours = twins.ours
    ours.raw.hset(ours.key(f"repeat:s:{ours.now + MINUTE_MS}"), mapping={"name": "left over", "data": "{}"})
    op = duty(ours, ours.lease_job())
    assert op is not None
    assert ours.run(op) == f"repeat:s:{ours.now + 2 * MINUTE_MS}"
    assert ours.field(f"repeat:s:{ours.now + MINUTE_MS}", "name") == "left over"


def test_immediately(twins: Twins, more_nodes: Callable[..., Any]) -> None:
    """BullMQ takes this moment from a clock that tests cannot stop; heavyq's twin step is compared by its meaning."""
    ours = twins.ours
    made = ours.run(
        ops.schedule(ours.q, scheduler_id="s", repeat=Repeat(pattern="0 0 * * *", immediately=True), now_ms=ours.now)
    )
    assert (made.job_id, made.delay_ms) == (f"repeat:s:{ours.now}", 0)
    twins.bull.node.call("clock", now=None)
    job_id = twins.bull("upsertScheduler", id="s", repeat={"pattern": "0 0 * * *", "immediately": True}, template={})
    assert ours.hash("repeat:s") == twins.theirs.hash("repeat:s")
    mine, theirs = ours.hash(made.job_id), twins.theirs.hash(job_id)
    assert json.loads(mine["opts"]).keys() == json.loads(theirs["opts"]).keys()
    assert json.loads(mine["opts"])["repeat"] == json.loads(theirs["opts"])["repeat"]
    op = duty(ours, ours.lease_job())
    assert op is not None
    assert ours.run(op) != made.job_id


def jobs_of(rig: Rig, scheduler_id: str = "s") -> list[str]:
    return [key for key in rig.dump() if key.startswith(f"repeat:{scheduler_id}:") and not key.endswith(":lock")]
