"""The oracle for deduplication: BullMQ and heavyq refuse, replace, keep and let go alike.

Where BullMQ 5 does otherwise than 6, heavyq does as 6: the comparison is then made with 6 only, and for 5 the test
says what heavyq does to the job that BullMQ 5 left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.dedup import Dedup
from heavyq.bullmq.options import pack_options
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from tests.interop.node import NodeQueue
    from tests.interop.trees import Pair, Trees
    from tests.support.ops import Rig


@pytest.fixture
def pair(trees: Trees) -> Pair:
    return trees["chi"]


def dedup(rule_id: str = "d", **rules: Any) -> dict[str, Any]:
    return {"deduplication": {"id": rule_id, **rules}}


def test_the_second_add_is_refused_while_the_owner_is_there(pair: Pair) -> None:
    # conformance: C-112 C-114
    assert pair.add({"n": 1}, **dedup()) == "1"
    assert pair.add({"n": 2}, **dedup()) == "1"
    assert pair.add({"n": 3}, jobId="mine", priority=4, **dedup()) == "1"
    assert pair.add({"n": 4}, delay=50, **dedup("other")) == "4"
    assert pair.ours.events()[2] == {
        "event": "deduplicated",
        "jobId": "1",
        "deduplicationId": "d",
        "deduplicatedJobId": "2",
    }
    held = pair.fetch()
    assert pair.add({"n": 5}, **dedup()) == "1"
    pair.complete(held)
    assert pair.add({"n": 6}, **dedup()) == "6"


def test_the_id_is_kept_through_retries_and_free_after_the_last(pair: Pair) -> None:
    # conformance: C-114
    pair.add(attempts=2, **dedup())
    pair.fail(pair.fetch())
    assert pair.add(**dedup()) == "1"
    pair.fail(pair.fetch())
    assert pair.add(**dedup()) == "3"


def test_an_id_of_ones_own_goes_before_deduplication(pair: Pair) -> None:
    pair.add(jobId="a", **dedup())
    assert pair.add(jobId="a", **dedup("e")) == "a"
    assert not pair.ours.exists("de:e")


@pytest.mark.parametrize("deduplication_id", ["a:b", "é ☃", "*", "id", "1"])
def test_deduplication_ids_of_any_text(pair: Pair, deduplication_id: str) -> None:
    pair.add(**dedup(deduplication_id))
    pair.add(**dedup(deduplication_id))
    pair.complete(pair.fetch())


def test_a_time_to_live_outlasts_its_job(pair: Pair) -> None:
    # conformance: C-115
    pair.add(**dedup(ttl=60_000))
    pair.complete(pair.fetch())
    assert pair.add(**dedup(ttl=60_000)) == "1"
    assert pair.add(**dedup()) == "1"
    expire(pair, "de:d")
    assert pair.add(**dedup(ttl=90_000)) == "4"


def test_extend_starts_the_time_anew(pair: Pair) -> None:
    # conformance: C-116
    pair.add(**dedup(ttl=60_000, extend=True))
    set_ttl(pair, "de:d", 10_000)
    assert pair.add(**dedup(ttl=60_000, extend=True)) == "1"
    assert pair.ours.raw.pttl(pair.ours.key("de:d")) > 50_000
    assert pair.add(**dedup(extend=True)) == "1"  # no time, nothing to extend
    pair.complete(pair.fetch())
    assert pair.add(**dedup(ttl=90_000, extend=True)) == "1"


def test_replace_a_delayed_owner(pair: Pair) -> None:
    # conformance: C-117
    pair.add({"n": 1}, delay=100, **dedup(replace=True))
    pair.later(10)
    assert pair.add({"n": 2}, delay=100, **dedup(replace=True)) == "2"
    assert not pair.ours.exists("1")
    assert [event["event"] for event in pair.ours.events()] == [
        *("added", "delayed"),
        *("removed", "deduplicated", "added", "delayed"),
    ]
    assert pair.ours.text("de:d") == "2"
    assert pair.add({"n": 3}, **dedup(replace=True)) == "3"
    pair.complete(pair.fetch())


def test_replace_leaves_an_owner_alone_that_waits_or_runs(pair: Pair) -> None:
    # conformance: C-118
    pair.add(**dedup(replace=True))
    events = len(pair.ours.events())
    assert pair.add(delay=5, **dedup(replace=True)) == "1"
    assert len(pair.ours.events()) == events
    held = pair.fetch()
    events = len(pair.ours.events())
    assert pair.add(**dedup(replace=True, ttl=1000)) == "1"
    assert len(pair.ours.events()) == events
    pair.complete(held)
    assert pair.add(priority=2, **dedup(replace=True)) == "4"
    assert pair.add(**dedup(replace=True)) == "4"


@pytest.mark.parametrize("rules", [{"ttl": 60_000}, {"ttl": 60_000, "extend": True}, {}, {"keepLastIfActive": True}])
def test_what_is_left_of_the_time_when_an_owner_is_replaced(pair: Pair, rules: dict[str, Any]) -> None:
    # conformance: C-119
    pair.add(delay=100, **dedup(ttl=60_000, replace=True))
    set_ttl(pair, "de:d", 20_000)
    assert pair.add(delay=100, **dedup(replace=True, **rules)) == "2"  # the comparison sees the time
    left = pair.ours.raw.pttl(pair.ours.key("de:d"))
    if rules == {"ttl": 60_000}:
        assert 0 < left <= 20_000


@pytest.mark.parametrize(
    "kept",
    [
        {},
        {"delay": 700},
        {"priority": 3},
        {"lifo": True},
        {"jobId": "mine"},
        {"delay": 700, "priority": 3, "jobId": "mine"},
    ],
)
def test_keep_the_last_while_the_owner_runs(pair: Pair, kept: dict[str, Any]) -> None:
    # conformance: C-120 C-121
    rules = dedup(keepLastIfActive=True)
    pair.add({"n": 1}, **rules)
    assert pair.add({"n": 2}, **rules) == "1"  # it waits: refused, nothing is kept
    assert not pair.ours.exists("dn:d")
    held = pair.fetch()
    assert pair.add({"n": 3}, **rules) == "1"
    assert pair.add({"n": 4}, **kept, **rules) == "1"
    pair.add({"n": 5})
    pair.later(50)
    pair.complete(held)
    new = kept.get("jobId", "4")
    assert pair.ours.text("de:d") == new
    assert pair.ours.field(new, "data") in ('{"n": 4}', '{"n":4}')
    assert not pair.ours.exists("dn:d")
    pair.later(700)
    while held := pair.try_fetch():
        pair.complete(held)
    assert not pair.ours.exists("de:d")


def test_keep_the_last_through_retries_and_final_failure(pair: Pair) -> None:
    rules = dedup(keepLastIfActive=True)
    pair.add(attempts=2, **rules)
    held = pair.fetch()
    pair.add({"n": 2}, **rules)
    pair.fail(held)
    pair.add({"n": 3}, **rules)  # it waits again
    held = pair.fetch()
    pair.fail(held)
    pair.complete(pair.fetch())
    assert pair.try_fetch() is None


@pytest.mark.parametrize("owner", [{"ttl": 60_000}, {"ttl": 60_000, "extend": True, "keepLastIfActive": True}, {}])
@pytest.mark.parametrize("later", [{"ttl": 60_000}, {"ttl": 60_000, "extend": True}, {"replace": True}])
def test_keep_the_last_ends_a_time_to_live(pair: Pair, owner: dict[str, Any], later: dict[str, Any]) -> None:
    pair.add(**dedup(**owner))
    pair.add(**dedup(keepLastIfActive=True, **later))  # the owner waits
    held = pair.fetch()
    pair.add({"n": 2}, **dedup(keepLastIfActive=True, **later))
    pair.complete(held)
    held = pair.fetch()
    pair.complete(held)


def test_an_owner_that_is_replaced_takes_along_what_was_kept(pair: Pair) -> None:
    rules = dedup(keepLastIfActive=True, replace=True)
    pair.add(**rules)
    held = pair.fetch()
    pair.add({"n": 2}, **rules)
    pair.delay(held, 500)
    if pair.bull.node.generation == "6":
        pair.add({"n": 3}, delay=5, **rules)
        assert not pair.ours.exists("dn:d")
        return
    # BullMQ 5 leaves the record, so that an old add follows the new job: heavyq does as 6.
    assert pair.ours.run(add_op(pair, {"n": 3}, delay=5, **rules)).id == "3"
    assert not pair.ours.exists("dn:d")


@pytest.mark.parametrize("rules", [{}, {"replace": True}, {"keepLastIfActive": True}, {"ttl": 9000, "extend": True}])
def test_an_id_whose_owner_is_gone_is_free(pair: Pair, rules: dict[str, Any]) -> None:
    # conformance: C-123
    pair.add(**dedup())
    for side in (pair.ours, pair.theirs):
        side.raw.delete(side.key("1"), side.key("wait"))
        side.raw.hset(side.key("dn:d"), "name", "stale")
    if pair.bull.node.generation == "6":
        assert pair.add(**dedup(**rules)) == "2"
    else:  # BullMQ 5 refuses all adds for a job that is not there, for ever: heavyq does as 6
        assert pair.ours.run(add_op(pair, {}, **dedup(**rules))).id == "2"
    assert not pair.ours.exists("dn:d")
    assert pair.ours.text("de:d") == "2"


def test_an_id_whose_time_runs_is_not_free_though_its_owner_is_gone(pair: Pair) -> None:
    pair.add(**dedup(ttl=60_000))
    for side in (pair.ours, pair.theirs):
        side.raw.delete(side.key("1"), side.key("wait"))
    assert pair.add(**dedup(ttl=60_000)) == "1"
    assert pair.add(**dedup(ttl=60_000, replace=True)) == "1"


@pytest.mark.parametrize("again", [{"delay": 700}, {"delay": 20, "priority": 2}, {}])
def test_reschedule_moves_a_delayed_owner(pair: Pair, again: dict[str, Any]) -> None:
    # conformance: C-124
    pair.add({"n": 1}, delay=500)
    if pair.bull.node.generation == "5":  # it has no such rule
        pair.add_by_node({"n": 2}, delay=100, **dedup())
        rules = dedup(reschedule=True)
        assert pair.ours.run(add_op(pair, {"n": 3}, **again, **rules)).deduplicated
        due = pair.ours.now + again.get("delay", 0)
        assert pair.ours.zset("delayed")["2"] == due * 4096
        assert pair.bull.node.at(pair.ours.q).find("2")["data"] == {"n": 2}
        pair.bull.node.at(pair.ours.q)("close")
        return
    pair.add({"n": 2}, delay=100, **dedup(reschedule=True))
    pair.later(10)
    pair.pop_markers()
    assert pair.add({"n": 3}, **again, **dedup(reschedule=True)) == "2"
    assert pair.add({"n": 4}, delay=1, **dedup()) == "2"
    pair.later(1000)
    for _ in range(2):
        held = pair.fetch()
        pair.add({"n": 5}, delay=9, **dedup(reschedule=True))  # not delayed any more
        pair.complete(held)


@pytest.mark.parametrize("by", ["node", "heavyq"])
def test_removing_the_owner_frees_the_id_and_drops_what_was_kept(pair: Pair, by: str) -> None:
    # conformance: C-122
    rules = dedup(keepLastIfActive=True)
    pair.add(attempts=2, **rules)
    held = pair.fetch()
    pair.add({"n": 2}, **rules)
    pair.fail(held)
    if by == "node":
        pair.both("remove", id="1")
    else:
        pair.bull("remove", id="1")
        assert pair.ours.run(ops.remove(pair.ours.q, "1", now_ms=pair.ours.now))
        pair.check("remove")
    assert not pair.ours.exists("de:d")
    assert not pair.ours.exists("dn:d")


@pytest.mark.parametrize("options", [{"delay": 5}, {"priority": 1}, {"lifo": True}])
def test_deduplication_beside_where_a_job_waits(pair: Pair, options: dict[str, Any]) -> None:
    pair.add(**options, **dedup(ttl=90_000))
    pair.add(**options, **dedup(ttl=90_000))


# -- both on one queue


def test_each_is_refused_for_the_others_job(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-113
    by_heavyq = ours.add(dedup=Dedup("a"))
    assert bull.add(**dedup("a")) == by_heavyq
    by_node = bull.add(**dedup("b"))
    assert ours.add(dedup=Dedup("b")) == by_node
    assert bull("counts")["waiting"] == 2
    assert bull("holder", id="a") == by_heavyq


def test_a_node_worker_ends_what_heavyq_deduplicated(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-121
    rule = Dedup("d", keep_last_if_active=True)
    options: dict[str, Any] = {"dedup": rule, "opts": pack_options(dedup=rule)}
    owner = ours.add(data=b'{"ms":400}', **options)
    bull("startWorker")
    eventually(lambda: ours.list("active") == [owner])
    assert ours.add(data=b'{"n":1}', **options) == owner
    assert ours.add(data=b'{"n":2}', **options) == owner
    eventually(lambda: set(ours.zset("completed")) == {owner, "3"})
    assert bull.find("3")["data"] == {"n": 2}
    assert not ours.exists("2")
    assert not ours.exists("de:d")
    assert not ours.exists("dn:d")


# -- helpers


def add_op(pair: Pair, data: Any, **opts: Any) -> Any:
    """heavyq's add alone, where BullMQ 5 does otherwise."""
    return pair.trees.add_op(pair.ours, "job", data, opts)


def expire(pair: Pair, suffix: str) -> None:
    """What the server does when the time is over."""
    for side in (pair.ours, pair.theirs):
        assert side.raw.delete(side.key(suffix)) == 1


def set_ttl(pair: Pair, suffix: str, ms: int) -> None:
    for side in (pair.ours, pair.theirs):
        assert side.raw.pexpire(side.key(suffix), ms)
