"""Both kinds look at each other's job schedulers and see the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.options import Backoff
from heavyq.bullmq.schedule import Repeat
from tests.interop.twins import packed

if TYPE_CHECKING:
    from tests.interop.node import NodeQueue
    from tests.support.ops import Rig

MINUTE_MS = 60_000


@pytest.fixture
def stopped(bull: NodeQueue, ours: Rig) -> Any:
    """Node's clock stands where the rig's does."""
    bull.node.call("clock", now=ours.now)
    yield
    bull.node.call("clock", now=None)


def schedule(ours: Rig, scheduler_id: str, repeat: Repeat, **options: Any) -> ops.Scheduled:
    return ours.run(ops.schedule(ours.q, scheduler_id=scheduler_id, repeat=repeat, now_ms=ours.now, **options))


@pytest.mark.usefixtures("stopped")
def test_node_sees_heavyqs_schedulers(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-148
    opts = {"attempts": 3, "backoff": {"type": "fixed", "delay": 500}, "priority": 2, "keepLogs": 4}
    tick = schedule(ours, "tick", Repeat(every_ms=MINUTE_MS, limit=9), name="n", data=b'{"a":1}', opts=packed(opts))
    end_ms = ours.now + 10**9
    nightly = schedule(ours, "nightly", Repeat(pattern="0 3 * * *", tz="Europe/Paris", end_ms=end_ms))
    shown = bull("schedulers")
    assert [each["key"] for each in shown] == ["nightly", "tick"]  # the last due first, as Node has it
    assert shown[1] == {
        "key": "tick",
        "name": "n",
        "next": ours.now,
        "iterationCount": 1,
        "every": MINUTE_MS,
        "limit": 9,
        "offset": ours.now % MINUTE_MS,
        "template": {"data": {"a": 1}, "opts": opts},
    }
    next_ms = int(nightly.job_id.rpartition(":")[2])
    assert nightly.delay_ms == next_ms - ours.now
    assert shown[0] == {
        "key": "nightly",
        "name": "nightly",
        "next": next_ms,
        "iterationCount": 1,
        "pattern": "0 3 * * *",
        "tz": "Europe/Paris",
        "endDate": end_ms,
        "offset": 0,
    }
    assert bull("scheduler", id="tick") == shown[1]
    assert bull("countSchedulers") == 2
    assert bull.find(tick.job_id)["repeatJobKey"] == "tick"
    assert bull.state(nightly.job_id) == "delayed"


@pytest.mark.usefixtures("stopped")
def test_heavyq_sees_nodes_schedulers(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-148
    opts = {"attempts": 3, "backoff": 1000, "removeOnComplete": 5}
    every = {"every": MINUTE_MS, "startDate": ours.now + 5000, "limit": 4}
    bull("upsertScheduler", id="tick", repeat=every, template={"name": "n", "data": [1], "opts": opts})
    bull("upsertScheduler", id="é:1x", repeat={"pattern": "0 3 * * *", "tz": "Asia/Kolkata"}, template={})
    tick, daily = ours.run(ops.schedulers(ours.q, offset=0, limit=10))
    assert ours.run(ops.scheduler(ours.q, "tick")) == tick
    assert ours.run(ops.scheduler(ours.q, "none")) is None
    assert (tick.id, tick.name, tick.every_ms, tick.pattern, tick.limit) == ("tick", "n", MINUTE_MS, None, 4)
    assert (tick.start_ms, tick.end_ms, tick.next_ms) == (ours.now + 5000, None, ours.now + 5000)
    assert (tick.iteration_count, tick.data, tick.opts.attempts) == (1, b"[1]", 3)
    assert tick.opts.backoff == Backoff("fixed", 1000)
    assert tick.job_id == bull("upsertScheduler", id="tick", repeat=every, template={})
    assert (daily.id, daily.name, daily.every_ms, daily.pattern) == ("é:1x", "é:1x", None, "0 3 * * *")
    assert (daily.tz, daily.data, daily.offset_ms) == ("Asia/Kolkata", None, 0)
    assert daily.opts.attempts == 0


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize("asc", [True, False])
def test_pages_agree(bull: NodeQueue, ours: Rig, asc: bool) -> None:
    for number in range(5):
        start_ms = ours.now + (number * 7 % 5) * 1000 + 1
        schedule(ours, f"s{number}", Repeat(every_ms=MINUTE_MS, start_ms=start_ms))
    for offset, limit in ((0, 5), (1, 2), (4, 9), (9, 3)):
        page = ours.run(ops.schedulers(ours.q, offset=offset, limit=limit, newest_first=not asc))
        theirs = bull("schedulers", start=offset, end=offset + limit - 1, asc=asc)
        assert [each.id for each in page] == [each["key"] for each in theirs]


@pytest.mark.usefixtures("stopped")
def test_repeatable_jobs_of_bullmq_5_are_shown(bull: NodeQueue, ours: Rig) -> None:
    if bull.node.generation != "5":
        pytest.skip("BullMQ 5 alone makes these")
    bull("addRepeatable", name="old", data={"d": 1}, repeat={"every": MINUTE_MS})
    [old] = ours.run(ops.schedulers(ours.q, offset=0, limit=10))
    assert (old.name, old.every_ms, old.iteration_count, old.data) == ("old", MINUTE_MS, None, None)
    assert ours.exists(old.job_id)
    assert ours.run(ops.unschedule(ours.q, old.id))
    assert not ours.exists(old.job_id)
