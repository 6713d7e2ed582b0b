"""Deduplication, against what BullMQ stores: keys, times to live, events, and what becomes of a refused add."""

from __future__ import annotations

import json
from typing import Any

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.dedup import Dedup
from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.op import Op
from heavyq.bullmq.options import pack_options
from heavyq.bullmq.parent import Parent
from heavyq.errors import RedisReplyError, UsageError
from tests.support.eventually import eventually
from tests.support.ops import NOW_MS, Rig


@pytest.fixture
def rig(client, raw, q) -> Rig:
    return Rig(client, raw, q)


def add(rig: Rig, dedup: Dedup, **options: Any) -> ops.Added:
    options = {"data": b"{}", "timestamp_ms": rig.now, "opts": pack_options(dedup=dedup), **options}
    return rig.run(ops.add(rig.q, name="job", dedup=dedup, **options))


def test_second_add_is_refused_and_says_for_which_job(rig):
    # conformance: C-112
    assert add(rig, Dedup("d")) == ops.Added("1", existed=False)
    before = rig.dump()
    assert add(rig, Dedup("d"), data=b'{"n":2}') == ops.Added("1", existed=False, deduplicated=True)
    before["id"] = "2"
    before["events"].append({"event": "deduplicated", "jobId": "1", "deduplicationId": "d", "deduplicatedJobId": "2"})
    assert rig.dump() == before
    assert rig.text("de:d") == "1"
    assert rig.field("1", "deid") == "d"


@pytest.mark.parametrize("end", ["complete", "fail"])
def test_id_is_held_until_its_owner_ends(rig, end):
    # conformance: C-114
    add(rig, Dedup("d"))
    lease = rig.lease()
    assert rig.settle("retry", lease) == "settled"
    lease = rig.lease()
    assert rig.settle("delay", lease) == "settled"
    assert add(rig, Dedup("d")).deduplicated
    rig.now += 1000
    assert rig.settle(end, rig.lease()) == "settled"
    assert not rig.exists("de:d")
    assert add(rig, Dedup("d")) == ops.Added("3", existed=False)


def test_time_to_live_counts_though_the_owner_has_ended(rig):
    # conformance: C-115
    add(rig, Dedup("d", ttl_ms=50_000))
    assert 40_000 < rig.raw.pttl(rig.key("de:d")) <= 50_000
    rig.settle("complete", rig.lease())
    assert add(rig, Dedup("d")).deduplicated
    rig.raw.delete(rig.key("de:d"))  # what the server does when the time is over
    assert add(rig, Dedup("d")).id == "3"


def test_time_to_live_ends_by_itself(rig):
    # conformance: C-115
    add(rig, Dedup("d", ttl_ms=1))
    eventually(lambda: not rig.exists("de:d"), what="the time is over")
    assert not add(rig, Dedup("d")).deduplicated


@pytest.mark.parametrize(("extend", "renewed"), [(True, True), (False, False)])
def test_only_extend_starts_the_time_anew(rig, extend, renewed):
    # conformance: C-116
    add(rig, Dedup("d", ttl_ms=50_000))
    rig.raw.pexpire(rig.key("de:d"), 10_000)
    assert add(rig, Dedup("d", ttl_ms=50_000, extend=extend)).deduplicated
    assert (rig.raw.pttl(rig.key("de:d")) > 10_000) is renewed


def test_extend_without_a_time_leaves_the_time(rig):
    add(rig, Dedup("d", ttl_ms=50_000))
    assert add(rig, Dedup("d", extend=True)).deduplicated
    assert rig.raw.pttl(rig.key("de:d")) > 0


@pytest.mark.parametrize("end", ["complete", "fail"])
def test_an_id_that_another_job_holds_by_now_is_left_alone(rig, end):
    add(rig, Dedup("d"))
    lease = rig.lease()
    rig.raw.set(rig.key("de:d"), "other")
    assert rig.settle(end, lease) == "settled"
    assert rig.text("de:d") == "other"


def test_delayed_owner_is_replaced_with_all_its_keys(rig):
    # conformance: C-117
    dedup = Dedup("d", replace=True)
    add(rig, dedup, delay_ms=5000)
    for suffix in ("1:logs", "1:processed", "1:dependencies"):
        rig.raw.set(rig.key(suffix), "x")
    rig.forget_events()
    assert add(rig, dedup, delay_ms=7000, data=b"2") == ops.Added("2", existed=False)
    assert rig.events() == [
        {"event": "removed", "jobId": "1", "prev": "delayed"},
        {"event": "deduplicated", "jobId": "2", "deduplicationId": "d", "deduplicatedJobId": "1"},
        {"event": "added", "jobId": "2", "name": "job"},
        {"event": "delayed", "jobId": "2", "delay": str(NOW_MS + 7000)},
    ]
    assert not [suffix for suffix in rig.dump() if suffix.startswith("1")]
    assert rig.zset("delayed").keys() == {"2"}
    assert rig.zset("marker") == {"1": NOW_MS + 7000}
    assert rig.text("de:d") == "2"


@pytest.mark.parametrize("where", ["wait", "prioritized", "active", "completed"])
def test_owner_elsewhere_is_not_replaced(rig, where):
    # conformance: C-118
    dedup = Dedup("d", ttl_ms=50_000, replace=True)
    add(rig, dedup, priority=int(where == "prioritized"))
    if where in ("active", "completed"):
        lease = rig.lease()
        if where == "completed":
            rig.settle("complete", lease)
    before = rig.dump()
    assert add(rig, dedup, delay_ms=1) == ops.Added("1", existed=False, deduplicated=True)
    assert rig.dump() == {**before, "id": "2"}


@pytest.mark.parametrize(
    ("again", "least", "most"),
    [
        (Dedup("d", 50_000, replace=True), 0, 20_000),
        (Dedup("d", 50_000, replace=True, extend=True), 40_000, 50_000),
        (Dedup("d", replace=True), -1, -1),
        (Dedup("d", 50_000, replace=True, keep_last_if_active=True), -1, -1),
    ],
)
def test_what_is_left_of_the_time_when_an_owner_is_replaced(rig, again, least, most):
    # conformance: C-119
    add(rig, Dedup("d", 50_000), delay_ms=5000)
    rig.raw.pexpire(rig.key("de:d"), 20_000)
    assert add(rig, again, delay_ms=5000).id == "2"
    assert least <= rig.raw.pttl(rig.key("de:d")) <= most


def test_replaced_owner_leaves_its_parent(rig, client, raw, prefix):
    """It may have become a child after its add. BullMQ forgets to, and the parent waits for ever."""
    par = Rig(client, raw, QueueKey(prefix, "par"))
    par.add(job_id="P", waits_for_children=True)
    dedup = Dedup("d", replace=True)
    add(rig, dedup, job_id="A", delay_ms=50)
    rig.add(job_id="A", parent=Parent(par.q, "P"))
    assert par.dump()["P:dependencies"] == {rig.key("A")}
    assert add(rig, dedup, delay_ms=50).id == "3"
    assert par.list("wait") == ["P"]
    assert not par.exists("P:dependencies")


KEEPING = Dedup("d", keep_last_if_active=True)


def test_last_add_is_kept_while_the_owner_runs(rig):
    # conformance: C-120
    add(rig, KEEPING)
    assert add(rig, KEEPING).deduplicated
    assert not rig.exists("dn:d")  # it waits: nothing is kept
    lease = rig.lease()
    rig.forget_events()
    assert add(rig, KEEPING, data=b'{"n":3}', priority=2).deduplicated
    opts = pack_options(dedup=KEEPING, priority=4)
    assert add(rig, KEEPING, data=b'{"n":4}', priority=4, opts=opts).deduplicated
    assert rig.hash("dn:d") == {"name": "job", "data": '{"n":4}', "opts": opts.decode(), "jid": "4"}
    assert [event["event"] for event in rig.events()] == ["deduplicated", "deduplicated"]
    rig.now += 70
    assert rig.settle("complete", lease) == "settled"
    assert rig.hash("4") == {
        "name": "job",
        "data": '{"n":4}',
        "opts": opts.decode(),
        "timestamp": str(rig.now),
        "delay": "0",
        "priority": "4",
        "deid": "d",
    }
    assert rig.zset("prioritized").keys() == {"4"}
    assert rig.text("de:d") == "4"
    assert rig.text("id") == "5"
    assert not rig.exists("dn:d")
    rig.settle("complete", rig.lease())
    assert not rig.exists("de:d")


def test_last_add_that_is_kept_takes_nothing_over_from_the_one_before(rig):
    add(rig, KEEPING)
    rig.lease()
    rig.raw.hset(rig.key("dn:d"), mapping={"pk": "bull:par:P", "pdk": "bull:par:P:dependencies", "rjk": "s"})
    add(rig, KEEPING)
    assert rig.hash("dn:d").keys() == {"name", "data", "opts", "jid"}


def test_delayed_owner_that_is_replaced_takes_along_what_was_kept(rig):
    add(rig, KEEPING)
    lease = rig.lease()
    add(rig, KEEPING)
    assert rig.settle("delay", lease) == "settled"
    assert add(rig, Dedup("d", replace=True)).id == "3"
    assert not rig.exists("dn:d")


def test_keeping_ends_a_time_to_live_that_another_add_gave(rig):
    add(rig, Dedup("d", ttl_ms=50_000))
    rig.lease()
    assert add(rig, KEEPING).deduplicated
    assert rig.raw.pttl(rig.key("de:d")) == -1


def keep_back(rig: Rig, **record: str) -> None:
    """An owner that runs and then ends, with a record as anybody may have written it."""
    add(rig, KEEPING)
    lease = rig.lease()
    rig.raw.hset(rig.key("dn:d"), mapping={"name": "job", "data": "{}", "opts": "{}", **record})
    rig.now += 5
    assert rig.settle("complete", lease) == "settled"
    assert not rig.exists("dn:d")


def test_kept_job_becomes_a_child(rig, client, raw, prefix):
    par = Rig(client, raw, QueueKey(prefix, "par"))
    par.add(job_id="P", waits_for_children=True)
    parent = Parent(par.q, "P", "ignore")
    of_parent = {"pk": parent.key, "pd": parent.to_field().decode(), "pdk": f"{parent.key}:dependencies"}
    keep_back(rig, jid="mine", **of_parent)
    assert rig.field("mine", "parentKey") == parent.key
    assert json.loads(rig.field("mine", "parent")) == {"id": "P", "queueKey": str(par.q), "idof": True}
    assert par.dump()["P:dependencies"] == {rig.key("mine")}
    rig.settle("complete", rig.lease())
    assert par.list("wait") == ["P"]
    assert par.hash("P:processed").keys() == {rig.key("mine")}


def test_kept_job_of_a_parent_that_is_gone_runs_alone(rig):
    keep_back(rig, jid="mine", pk=rig.key("P"), pdk=rig.key("P:dependencies"), pd="{}")
    assert not rig.exists("P:dependencies")
    assert rig.lease().job_id == "mine"


def test_kept_job_without_an_id_gets_the_next_number(rig):
    keep_back(rig)
    assert rig.lease().job_id == "2"


def test_kept_job_whose_id_is_taken_is_left_to_the_job_that_has_it(rig):
    rig.add(job_id="mine", delay_ms=5)
    before = rig.hash("mine")
    keep_back(rig, jid="mine", data='{"other":1}')
    assert rig.hash("mine") == before
    assert {"event": "duplicated", "jobId": "mine"} in rig.events()
    assert not rig.exists("de:d")


@pytest.mark.parametrize(
    ("opts", "where"),
    [
        ("no json", "wait"),
        ("[]", "wait"),
        ('{"delay":null,"priority":"high"}', "wait"),
        ('{"delay":-5,"priority":-1}', "wait"),
        ('{"delay":1e400}', "delayed"),
        ('{"priority":1e300}', "prioritized"),
        ('{"priority":2.9}', "prioritized"),
        ('{"delay":7.5}', "delayed"),
    ],
)
def test_options_of_a_kept_job_that_make_no_sense_cost_nothing(rig, opts, where):
    keep_back(rig, jid="mine", opts=opts)
    assert rig.field("mine", "opts") == opts
    place = rig.list("wait") if where == "wait" else list(rig.zset(where))
    assert place == ["mine"]
    for field in ("delay", "priority"):
        assert rig.field("mine", field).isdecimal()
    scores = [*rig.zset("delayed").values(), *rig.zset("prioritized").values()]
    assert all(score <= 2**53 and score.is_integer() for score in scores)


@pytest.mark.parametrize("rules", [{}, {"replace": True}, {"keep_last_if_active": True}, {"ttl_ms": 9000}])
def test_id_of_an_owner_that_is_gone_is_free(rig, rules):
    # conformance: C-123
    add(rig, Dedup("d"))
    rig.raw.delete(rig.key("1"), rig.key("wait"))
    rig.raw.hset(rig.key("dn:d"), "name", "stale")
    assert add(rig, Dedup("d", **rules)) == ops.Added("2", existed=False)
    assert rig.text("de:d") == "2"
    assert not rig.exists("dn:d")


def test_reschedule_moves_a_delayed_owner_and_nothing_else_of_it(rig):
    # conformance: C-124
    dedup = Dedup("d", reschedule=True)
    add(rig, dedup, delay_ms=5000, data=b'{"n":1}')
    rig.forget_events()
    rig.now += 10
    assert add(rig, dedup, delay_ms=70, data=b'{"n":2}').deduplicated
    due = rig.now + 70
    assert rig.zset("delayed") == {"1": due * 4096}
    assert (rig.field("1", "delay"), rig.field("1", "data")) == ("70", '{"n":1}')
    assert rig.zset("marker") == {"1": due}
    assert [(event["event"], event["jobId"]) for event in rig.events()] == [("deduplicated", "1"), ("delayed", "1")]
    assert add(rig, dedup).deduplicated  # no delay: it is due at once
    assert rig.lease().job_id == "1"
    before = rig.dump()
    assert add(rig, dedup, delay_ms=70).deduplicated
    assert rig.dump().keys() == before.keys(), "an owner that runs is not moved"


def test_reschedule_makes_no_ghost_of_an_owner_without_hash(rig):
    dedup = Dedup("d", ttl_ms=50_000, reschedule=True)
    add(rig, dedup, delay_ms=5000)
    rig.raw.delete(rig.key("1"))
    assert add(rig, dedup, delay_ms=70).deduplicated
    assert not rig.exists("1")


@pytest.mark.parametrize(
    "options",
    [
        {"dedup": Dedup("")},
        {"dedup": Dedup("d", ttl_ms=0)},
        {"dedup": Dedup("d", ttl_ms=-5)},
        {"dedup": Dedup("d", ttl_ms=2**60)},
        {"dedup": Dedup("d"), "waits_for_children": True},
        {"dedup": Dedup("d"), "parent": Parent(QueueKey("bull", "par"), "P")},
    ],
)
def test_what_bullmq_does_not_take_is_refused(rig, options):
    with pytest.raises(UsageError):
        rig.add(**options)
    assert rig.dump() == {}


def test_script_checks_the_time_to_live_before_it_writes(rig):
    op = ops.add(rig.q, name="a", data=b"1", opts=b"{}", timestamp_ms=NOW_MS, dedup=Dedup("d", ttl_ms=5))
    args = [*op.args]
    args[13] = "soon"
    with pytest.raises(RedisReplyError, match="must be a number"):
        rig.run(Op(op.verb, op.keys, tuple(args), op.read, op.replayable))
    assert rig.dump() == {}
