"""What a finish counts. The rule of the list itself is proved against BullMQ (tests/interop)."""

from __future__ import annotations

import pytest

from tests.support.ops import NOW_MS, Rig

both = pytest.mark.parametrize(("verb", "finished"), [("complete", "completed"), ("fail", "failed")])


@pytest.fixture
def rig(client, raw, q) -> Rig:
    return Rig(client, raw, q)


def finish(rig: Rig, verb: str, **options) -> None:
    rig.add()
    assert rig.settle(verb, rig.lease(), **options) == "settled"


@both
def test_nothing_is_counted_unless_asked(rig, verb, finished):
    finish(rig, verb)
    finish(rig, verb, metrics_points=0)
    assert not [name for name in rig.dump() if name.startswith("metrics")]


@both
def test_a_finish_is_counted(rig, verb, finished):
    # conformance: C-059
    finish(rig, verb, metrics_points=3)
    assert rig.hash(f"metrics:{finished}") == {"count": "1", "prevTS": str(NOW_MS), "prevCount": "0"}
    rig.now += 120_000
    finish(rig, verb, metrics_points=3)
    assert rig.hash(f"metrics:{finished}") == {"count": "2", "prevTS": str(rig.now), "prevCount": "1"}
    assert rig.list(f"metrics:{finished}:data") == ["0", "1"]


@both
def test_a_long_silence_is_as_long_as_the_list(rig, verb, finished):
    finish(rig, verb, metrics_points=20_160)
    rig.now += 365 * 86_400_000
    finish(rig, verb, metrics_points=20_160)
    data = rig.list(f"metrics:{finished}:data")
    assert (len(data), data[-1], set(data[:-1])) == (20_160, "1", {"0"})


@both
def test_no_more_minutes_are_kept_than_asked(rig, verb, finished):
    for _ in range(5):
        finish(rig, verb, metrics_points=2)
        rig.now += 60_000
    assert rig.list(f"metrics:{finished}:data") == ["1", "1"]
    finish(rig, verb, metrics_points=1)
    assert rig.list(f"metrics:{finished}:data") == ["1"]


@both
def test_a_replay_is_not_counted_twice(rig, verb, finished):
    rig.add()
    lease = rig.lease()
    for _ in range(2):
        assert rig.settle(verb, lease, metrics_points=5) == "settled"
    assert rig.hash(f"metrics:{finished}")["count"] == "1"


@both
@pytest.mark.parametrize("spoilt", [{"count": "x"}, {"prevTS": "x"}, {"prevCount": "x"}, {"prevTS": "9" * 400}])
def test_numbers_that_are_none_cost_no_outcome(rig, verb, finished, spoilt):
    rig.raw.hset(rig.key(f"metrics:{finished}"), mapping={"prevTS": 1, **spoilt})
    finish(rig, verb, metrics_points=5)
    rig.raw.delete(rig.key(f"metrics:{finished}"))
    rig.raw.lpush(rig.key(f"metrics:{finished}"), "x")
    finish(rig, verb, metrics_points=5)
    assert list(rig.zset(finished)) == ["1", "2"]
    assert rig.events()[-1] == {"event": "drained"}
