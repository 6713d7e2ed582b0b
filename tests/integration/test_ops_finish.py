"""complete and fail: what is written, what stays, what is told."""

from __future__ import annotations

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.options import Keep
from tests.support.ops import FAILURE, NOW_MS, USAGE, Rig

both = pytest.mark.parametrize(("verb", "finished"), [("complete", "completed"), ("fail", "failed")])


@pytest.fixture
def rig(client, raw, q) -> Rig:
    return Rig(client, raw, q)


def finish_many(rig: Rig, verb: str, count: int, **options) -> None:
    for _ in range(count):
        rig.add()
        rig.settle(verb, rig.lease(), **options)
        rig.now += 1


def test_completed_job_leaves_what_bullmq_leaves(rig):
    rig.add("a", data=b'{"x":1}')
    lease = rig.lease(worker_name="w")
    rig.run(ops.checkpoint(lease, b"{}"))
    rig.forget_events()
    rig.now += 9
    assert rig.settle("complete", lease, returnvalue='{"ö":[]}'.encode()) == "settled"
    assert rig.dump() == {
        "id": "1",
        "meta": {"opts.maxLenEvents": "10000"},
        "1": {
            "name": "a",
            "data": '{"x":1}',
            "opts": "{}",
            "timestamp": str(NOW_MS),
            "delay": "0",
            "priority": "0",
            "processedOn": str(NOW_MS),
            "pb": "w",
            "ats": "1",
            "atm": "1",
            "returnvalue": '{"ö":[]}',
            "finishedOn": str(NOW_MS + 9),
            "hq:settled": lease.token,
            "hq:usage": USAGE.decode(),
        },
        "completed": {"1": NOW_MS + 9},
        "marker": {"0": 0.0},
        "hq:counter": str(lease.fence),
        "events": [
            {"event": "completed", "jobId": "1", "returnvalue": '{"ö":[]}', "prev": "active"},
            {"event": "drained"},
        ],
    }


def test_failed_job_leaves_what_bullmq_leaves(rig):
    rig.add("a")
    lease = rig.lease()
    rig.run(ops.checkpoint(lease, b'{"frame":3}'))
    rig.raw.hset(rig.key("1"), "defa", "x")
    rig.forget_events()
    rig.now += 9
    assert rig.settle("fail", lease, failed_reason="bööm", stacktrace=b'["E: b"]', attempts=1) == "settled"
    found = rig.hash("1")
    assert (
        found.items()
        >= {
            "atm": "1",
            "failedReason": "bööm",
            "stacktrace": '["E: b"]',
            "finishedOn": str(NOW_MS + 9),
            "hq:failure": FAILURE.decode(),
            "hq:usage": USAGE.decode(),
            "hq:checkpoint": '{"frame":3}',
        }.items()
    )
    assert "defa" not in found
    assert rig.zset("failed") == {"1": NOW_MS + 9}
    assert rig.events() == [
        {"event": "failed", "jobId": "1", "failedReason": "bööm", "prev": "active"},
        {"event": "retries-exhausted", "jobId": "1", "attemptsMade": "1"},
        {"event": "drained"},
    ]


@pytest.mark.parametrize(("made", "attempts", "told"), [(0, 0, True), (0, 2, False), (1, 2, True), (2, 2, True)])
def test_retries_exhausted_is_told_only_when_they_are(rig, made, attempts, told):
    rig.add()
    rig.raw.hset(rig.key("1"), "atm", made)
    rig.settle("fail", rig.lease(), attempts=attempts)
    exhausted = [event for event in rig.events() if event["event"] == "retries-exhausted"]
    expected = [{"event": "retries-exhausted", "jobId": "1", "attemptsMade": str(made + 1)}]
    assert exhausted == (expected if told else [])


@both
def test_strikes_go_with_the_end_of_the_job(rig, verb, finished):
    rig.add()
    rig.settle("delay", rig.lease(), delay_ms=0, strikes=2)
    lease = rig.lease()
    assert rig.settle(verb, lease) == "settled"
    assert rig.zset(finished) == {"1": NOW_MS}
    assert rig.field("1", "hq:strikes") is None


@both
def test_replayed_end_leaves_the_strikes_that_a_retry_by_hand_earned(rig, verb, finished):
    rig.add()
    lease = rig.lease()
    rig.settle(verb, lease)
    rig.raw.hset(rig.key("1"), "hq:strikes", 1)
    before = rig.dump()
    assert rig.settle(verb, lease) == "settled"
    assert rig.dump() == before


@both
def test_lost_end_leaves_the_strikes(rig, verb, finished):
    rig.add()
    rig.settle("delay", rig.lease(), delay_ms=0, strikes=2)
    lease = rig.lease()
    rig.raw.set(rig.key("1:lock"), "node:1")
    assert rig.settle(verb, lease) == "lost"
    assert rig.field("1", "hq:strikes") == "2"


def test_earlier_failure_stays_beside_the_result(rig):
    rig.add()
    rig.settle("retry", rig.lease())
    rig.settle("complete", rig.lease())
    assert rig.hash("1").items() >= {"atm": "2", "failedReason": "boom", "hq:failure": FAILURE.decode()}.items()


@both
@pytest.mark.parametrize("suffix", ["dependencies", "unsuccessful"])
def test_parent_with_open_children_cannot_complete_but_fail(rig, verb, finished, suffix):
    # conformance: C-138
    rig.add()
    lease = rig.lease()
    if suffix == "dependencies":
        rig.raw.sadd(rig.key("1:dependencies"), "bull:q:7")
    else:
        rig.raw.zadd(rig.key("1:unsuccessful"), {"bull:q:7": 1})
    before = rig.dump()
    if verb == "complete":
        assert rig.settle(verb, lease) == ("pending_children" if suffix == "dependencies" else "failed_children")
        assert rig.dump() == before
        rig.raw.delete(rig.key(f"1:{suffix}"))
    assert rig.settle(verb, lease) == "settled"
    assert rig.exists(finished)


def test_lost_lease_of_a_parent_is_lost_rather_than_refused(rig):
    rig.add()
    lease = rig.lease()
    rig.raw.sadd(rig.key("1:dependencies"), "bull:q:7")
    rig.raw.set(rig.key("1:lock"), "node:1")
    assert rig.settle("complete", lease) == "lost"


# -- drained


@both
@pytest.mark.parametrize("other", ["wait", "active", "prioritized", "paused"])
def test_drained_is_not_told_while_anything_waits_or_runs(rig, verb, finished, other):
    # conformance: C-049
    rig.add()
    lease = rig.lease()
    if other == "prioritized":
        rig.raw.zadd(rig.key(other), {"x": 1})
    else:
        rig.raw.lpush(rig.key(other), "x")
    rig.settle(verb, lease)
    assert not [event for event in rig.events() if event["event"] == "drained"]


@both
def test_drained_is_told_even_if_delayed_jobs_exist(rig, verb, finished):
    rig.add(delay_ms=50)
    rig.add()
    rig.settle(verb, rig.lease())
    assert rig.events()[-1] == {"event": "drained"}


# -- retention


@both
def test_keep_none_deletes_the_job_and_all_that_is_its(rig, verb, finished):
    rig.add()
    lease = rig.lease()
    rig.run(ops.log(lease, ["row"], keep=None))
    rig.raw.hset(rig.key("1:processed"), "a", "1")
    rig.raw.hset(rig.key("1:failed"), "a", "1")
    assert rig.settle(verb, lease, keep=Keep(0)) == "settled"
    assert not [name for name in rig.dump() if name == "1" or name.startswith("1:")]
    assert not rig.exists(finished)
    assert next(event for event in rig.events() if event["event"] == finished)["jobId"] == "1"
    assert rig.settle(verb, lease, keep=Keep(0)) == "gone"


@both
def test_keep_count_keeps_the_newest(rig, verb, finished):
    finish_many(rig, verb, 5, keep=Keep(2))
    assert list(rig.zset(finished)) == ["4", "5"]
    assert [rig.exists(job_id) for job_id in "12345"] == [False, False, False, True, True]


@both
def test_keep_all_keeps_all(rig, verb, finished):
    finish_many(rig, verb, 5, keep=Keep(-1))
    assert list(rig.zset(finished)) == list("12345")


@both
def test_keep_age_removes_the_oldest_first_up_to_its_limit(rig, verb, finished):
    # conformance: C-055
    finish_many(rig, verb, 5)
    rig.now = NOW_MS + 10_003  # 1, 2, 3 and 4 are 10 s old or older
    rig.add()
    rig.settle(verb, rig.lease(), keep=Keep(-1, age_s=10, limit=3))
    assert list(rig.zset(finished)) == ["4", "5", "6"]
    assert not rig.exists("1")
    rig.add()
    rig.settle(verb, rig.lease(), keep=Keep(-1, age_s=10, limit=3))
    assert list(rig.zset(finished)) == ["5", "6", "7"]


@both
def test_age_and_count_work_together(rig, verb, finished):
    finish_many(rig, verb, 6)
    rig.now = NOW_MS + 10_001
    rig.add()
    rig.settle(verb, rig.lease(), keep=Keep(3, age_s=10))
    assert list(rig.zset(finished)) == ["5", "6", "7"]


@both
def test_keep_none_touches_no_other_job(rig, verb, finished):
    finish_many(rig, verb, 2)
    rig.now += 100_000
    rig.add()
    rig.settle(verb, rig.lease(), keep=Keep(0, age_s=1))
    assert list(rig.zset(finished)) == ["1", "2"]


@both
def test_limit_of_nothing_removes_nothing(rig, verb, finished):
    finish_many(rig, verb, 2)
    rig.now += 100_000
    rig.add()
    rig.settle(verb, rig.lease(), keep=Keep(-1, age_s=1, limit=0))
    rig.add()
    rig.settle(verb, rig.lease(), keep=Keep(-1, age_s=1, limit=-5))
    assert len(rig.zset(finished)) == 4


@both
@pytest.mark.parametrize("keep", [Keep(10), Keep(-1, age_s=10, limit=10_000), Keep(10, age_s=10)])
def test_at_most_1000_go_in_one_finish(rig, verb, finished, keep):
    old = {f"old{n}": NOW_MS - 1_000_000 + n for n in range(2500)}
    rig.raw.zadd(rig.key(finished), old)
    for expected in (1501, 502):
        rig.add()
        rig.settle(verb, rig.lease(), keep=keep)
        assert len(rig.zset(finished)) == expected
        assert next(iter(rig.zset(finished))) == f"old{2500 - expected + (1 if expected == 1501 else 2)}"


@both
def test_retention_takes_a_job_from_the_parent_that_still_waits_for_it(rig, verb, finished):
    finish_many(rig, verb, 4)
    for parent, child in (("p", "1"), ("one", "2")):
        rig.raw.hset(rig.key(parent), mapping={"name": "parent", "priority": 7 if parent == "p" else 0})
        rig.raw.hset(rig.key(child), "parentKey", rig.key(parent))
        rig.raw.sadd(rig.key(f"{parent}:dependencies"), rig.key(child), *([] if parent == "p" else ["bull:q:x"]))
        rig.raw.zadd(rig.key("waiting-children"), {parent: 1})
    rig.raw.hset(rig.key("3"), "parentKey", "bull:gone:p")
    rig.raw.hset(rig.key("4"), "parentKey", "broken")
    rig.add()
    rig.settle(verb, rig.lease(), keep=Keep(1))
    assert list(rig.zset(finished)) == ["5"]
    assert rig.raw.smembers(rig.key("one:dependencies")) == {b"bull:q:x"}
    assert rig.zset("waiting-children") == {"one": 1.0}
    assert list(rig.zset("prioritized")) == ["p"]


def test_fractional_count_is_rounded_down(rig):
    finish_many(rig, "complete", 4)
    rig.add()
    assert rig.settle("complete", rig.lease(), keep=Keep(2.5)) == "settled"  # type: ignore[arg-type]
    assert list(rig.zset("completed")) == ["4", "5"]


@both
def test_event_stream_is_trimmed(rig, verb, finished):
    # conformance: C-058
    rig.meta(**{"opts.maxLenEvents": 100})
    rig.raw.delete(rig.key("events"))
    for _ in range(200):
        rig.raw.xadd(rig.key("events"), {"event": "x"})
    rig.add()
    rig.settle(verb, rig.lease())
    assert rig.raw.xlen(rig.key("events")) <= 205
    for _ in range(100):
        rig.raw.xadd(rig.key("events"), {"event": "x"})
    rig.add()
    rig.settle(verb, rig.lease())
    assert rig.raw.xlen(rig.key("events")) <= 205


# -- deduplication


def owner_of(rig: Rig, *, ttl_ms: int | None = None, **kept: str):
    """A job in work that owns the deduplication id `d`, and the job that was kept back meanwhile."""
    rig.add()
    rig.raw.hset(rig.key("1"), "deid", "d")
    rig.raw.set(rig.key("de:d"), "1", px=ttl_ms)
    lease = rig.lease()
    if kept:
        rig.raw.hset(rig.key("dn:d"), mapping=kept)
    rig.forget_events()
    rig.raw.delete(rig.key("marker"))
    rig.now += 9
    return lease


@both
@pytest.mark.parametrize(("owner", "ttl_ms", "stays"), [("1", None, False), ("2", None, True), ("1", 60_000, True)])
def test_deduplication_id_is_let_go(rig, verb, finished, owner, ttl_ms, stays):
    lease = owner_of(rig)
    rig.raw.set(rig.key("de:d"), owner, px=ttl_ms)
    rig.settle(verb, lease)
    assert rig.exists("de:d") == stays


@pytest.mark.parametrize("verb", ["retry", "delay", "hand_back"])
def test_deduplication_id_stays_while_the_job_goes_on(rig, verb):
    lease = owner_of(rig, name="next")
    rig.settle(verb, lease)
    assert rig.text("de:d") == "1"
    assert rig.exists("dn:d")


@both
@pytest.mark.parametrize("keep", [Keep(), Keep(0)])
def test_job_kept_back_is_added_at_the_end_of_its_owner(rig, verb, finished, keep):
    opts = '{"de":{"id":"d","keepLastIfActive":true,"ttl":3000},"jobId":"custom4","attempts":2}'
    lease = owner_of(rig, name="k4", data='{"n":4}', opts=opts, jid="custom4")
    rig.settle(verb, lease, keep=keep)
    assert rig.hash("custom4") == {
        "name": "k4",
        "data": '{"n":4}',
        "opts": opts,
        "timestamp": str(NOW_MS + 9),
        "delay": "0",
        "priority": "0",
        "deid": "d",
    }
    assert rig.list("wait") == ["custom4"]
    assert rig.text("id") == "2"
    assert rig.text("de:d") == "custom4"
    assert rig.raw.pttl(rig.key("de:d")) == -1
    assert not rig.exists("dn:d")
    assert rig.zset("marker") == {"0": 0.0}
    assert [(event["event"], event["jobId"]) for event in rig.events()[:3]] == [
        ("added", "custom4"),
        ("waiting", "custom4"),
        (finished, "1"),
    ]
    assert not [event for event in rig.events() if event["event"] == "drained"]
    assert rig.lease().job_id == "custom4"


def test_job_kept_back_without_an_id_gets_the_next_number(rig):
    rig.settle("complete", owner_of(rig, name="k", data="1", opts="{}"))
    assert rig.list("wait") == ["2"]
    assert rig.text("de:d") == "2"


@pytest.mark.parametrize(
    ("opts", "place"),
    [
        ('{"priority":2}', "prioritized"),
        ('{"delay":50,"priority":2}', "delayed"),
        ('{"lifo":true}', "wait"),
        ('{"priority":null,"delay":"x"}', "wait"),
        ("no json", "wait"),
        ("5", "wait"),
        ("null", "wait"),
        ("[]", "wait"),
    ],
)
def test_job_kept_back_goes_where_its_options_say(rig, opts, place):
    rig.settle("complete", owner_of(rig, name="k", data="1", opts=opts, jid="k"))
    assert rig.exists(place)
    assert rig.field("k", "opts") == opts
    if place == "delayed":
        assert rig.zset("delayed") == {"k": (NOW_MS + 9 + 50) * 4096}
        assert rig.hash("k").items() >= {"delay": "50", "priority": "2"}.items()


def test_job_kept_back_keeps_its_parent_and_its_scheduler(rig):
    parent = {"pk": rig.key("p"), "pd": '{"id":"p"}', "pdk": rig.key("p:dependencies"), "rjk": "s"}
    rig.raw.hset(rig.key("p"), "name", "parent")
    rig.settle("complete", owner_of(rig, name="k", data="1", opts="{}", jid="k", **parent))
    assert rig.hash("k").items() >= {"parentKey": rig.key("p"), "parent": '{"id":"p"}', "rjk": "s"}.items()
    assert rig.raw.smembers(rig.key("p:dependencies")) == {rig.key("k").encode()}


def test_job_kept_back_never_overwrites_another(rig):
    lease = owner_of(rig, name="k", data="1", opts="{}", jid="k")
    rig.add("other", job_id="k")
    rig.settle("complete", lease)
    assert rig.field("k", "name") == "other"
    assert rig.list("wait") == ["k"]
    assert not rig.exists("dn:d")
    assert [event["jobId"] for event in rig.events() if event["event"] == "duplicated"] == ["k"]


def test_job_kept_back_is_added_once(rig):
    lease = owner_of(rig, name="k", data="1", opts="{}", jid="k")
    rig.settle("complete", lease)
    before = rig.dump()
    assert rig.settle("complete", lease) == "settled"
    assert rig.dump() == before
