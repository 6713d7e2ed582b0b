"""pause, resume, and the queue's settings."""

from __future__ import annotations

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.lease import LeasedJob, LeaseRefused
from heavyq.errors import BadValue
from tests.support.ops import Rig


@pytest.fixture
def rig(client, raw, q) -> Rig:
    return Rig(client, raw, q)


def pause(rig: Rig) -> None:
    rig.run(ops.pause(rig.q))


def resume(rig: Rig) -> None:
    rig.run(ops.resume(rig.q))


def lists(rig: Rig) -> tuple[list[str], list[str]]:
    return rig.list("wait"), rig.list("paused")


@pytest.mark.parametrize(
    ("version", "moved"),
    [(None, False), ("bullmq:6.7.0", False), ("bullmq:5.81.5", True), ("bullmq:15.0.0", False), ("odd", False)],
)
def test_pause_moves_jobs_aside_only_for_bullmq_5(rig, version, moved):
    for _ in range(3):
        rig.add()
    if version:
        rig.meta(version=version)
    pause(rig)
    assert lists(rig) == (([], ["3", "2", "1"]) if moved else (["3", "2", "1"], []))
    assert not rig.exists("marker")
    assert rig.events()[-1] == {"event": "paused"}
    assert isinstance(rig.try_lease(), LeaseRefused)
    rig.add()
    resume(rig)
    assert lists(rig) == (["4", "3", "2", "1"], [])
    assert rig.zset("marker") == {"0": 0.0}
    assert rig.events()[-1] == {"event": "resumed"}
    assert [rig.lease().job_id for _ in range(4)] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(("left", "right"), [(3, 2), (2, 3), (0, 2), (2, 0), (2500, 1200), (1200, 2500), (0, 0)])
def test_two_lists_become_one_in_order_whichever_is_longer(rig, left, right):
    waits = [f"w{n}" for n in range(left)]
    moved_aside = [f"p{n}" for n in range(right)]
    for name, ids in (("wait", waits), ("paused", moved_aside)):
        if ids:
            rig.raw.rpush(rig.key(name), *ids)
    rig.meta(version="bullmq:5.0.0")
    pause(rig)
    assert lists(rig) == ([], waits + moved_aside)
    rig.raw.rename(rig.key("paused"), rig.key("wait")) if waits + moved_aside else None
    resume(rig)
    assert lists(rig) == (waits + moved_aside, [])


def test_pausing_and_resuming_twice_changes_nothing(rig):
    rig.meta(version="bullmq:5.0.0")
    rig.add()
    rig.add(delay_ms=500)
    for act, found in ((pause, ([], ["1"])), (pause, ([], ["1"])), (resume, (["1"], [])), (resume, (["1"], []))):
        act(rig)
        assert lists(rig) == found


def test_resume_sets_the_marker_that_is_needed(rig):
    resume(rig)
    assert not rig.exists("marker")
    rig.add(delay_ms=500)
    pause(rig)
    resume(rig)
    assert rig.zset("marker") == {"1": rig.now + 500}
    rig.add(priority=3)
    pause(rig)
    resume(rig)
    assert rig.zset("marker") == {"0": 0.0}


# -- settings


def test_settings_are_read_as_they_were_set(rig):
    rig.run(ops.set_concurrency(rig.q, 3))
    rig.run(ops.set_rate_limit(rig.q, 10, 60_000))
    pause(rig)
    rig.meta(version="bullmq:6.0.0", **{"opts.maxLenEvents": "77", "x": "y"})
    assert rig.run(ops.meta(rig.q)) == ops.Meta(
        paused=True, concurrency=3, rate=(10, 60_000), events_kept=77, version="bullmq:6.0.0", others={"x": "y"}
    )
    rig.run(ops.set_concurrency(rig.q, None))
    rig.run(ops.set_rate_limit(rig.q, None))
    assert rig.run(ops.meta(rig.q)).rate is None
    assert rig.run(ops.meta(rig.q)).concurrency is None


def test_settings_that_make_no_sense_are_read_as_bullmq_reads_them(rig):
    rig.meta(concurrency="x", max="5", paused="")
    told = rig.run(ops.meta(rig.q))
    assert (told.paused, told.concurrency, told.rate) == (True, 0, None)


@pytest.mark.parametrize(
    "op",
    [
        lambda q: ops.set_concurrency(q, 0),
        lambda q: ops.set_rate_limit(q, 0, 5),
        lambda q: ops.set_rate_limit(q, 5, 0),
        lambda q: ops.rate_limit(q, 0),
    ],
)
def test_limits_that_would_stop_the_queue_are_refused(rig, op):
    with pytest.raises(BadValue):
        op(rig.q)


def test_a_raised_concurrency_wakes_a_worker(rig):
    rig.run(ops.set_concurrency(rig.q, 1))
    rig.add()
    rig.add()
    rig.lease()
    rig.raw.delete(rig.key("marker"))
    rig.run(ops.set_concurrency(rig.q, 1))
    assert not rig.exists("marker")
    rig.run(ops.set_concurrency(rig.q, 2))
    assert rig.zset("marker") == {"0": 0.0}


def test_the_rate_limit_stops_leases_and_ends(rig):
    rig.add()
    rig.run(ops.rate_limit(rig.q, 60_000))
    assert rig.run(ops.rate_limit_ttl(rig.q)) > 50_000, "without a limit: what is left of the window"
    rig.run(ops.set_rate_limit(rig.q, 5, 1000))
    refused = rig.try_lease()
    assert isinstance(refused, LeaseRefused)
    assert refused.wait_ms > 50_000
    assert rig.run(ops.rate_limit_ttl(rig.q)) > 50_000
    rig.raw.delete(rig.key("marker"))
    rig.run(ops.end_rate_limit(rig.q))
    assert rig.zset("marker") == {"0": 0.0}
    assert rig.run(ops.rate_limit_ttl(rig.q)) == 0
    assert isinstance(rig.try_lease(), LeasedJob)
    assert rig.run(ops.rate_limit_ttl(rig.q, 1)) > 0
    assert rig.run(ops.rate_limit_ttl(rig.q, 2)) == 0
