"""A parent's books: what its children's ends write there, and when it runs again. The parent lives in another queue."""

from __future__ import annotations

from dataclasses import replace

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.lease import LeaseRefused
from heavyq.bullmq.options import Keep
from heavyq.bullmq.parent import Parent
from heavyq.errors import NoSuchJob, NoSuchParent, RedisReplyError
from tests.support.ops import NOW_MS, Rig

RULES = ("fail", "continue", "ignore", "remove")
both = pytest.mark.parametrize(("verb", "finished"), [("complete", "completed"), ("fail", "failed")])


@pytest.fixture
def rig(client, raw, q) -> Rig:
    """The children's queue."""
    return Rig(client, raw, q)


@pytest.fixture
def home(client, raw, prefix) -> Rig:
    """The parent's queue."""
    return Rig(client, raw, QueueKey(prefix, "home"))


def family(rig: Rig, home: Rig, *children: str | None, job_id: str | None = "p", **parent) -> str:
    """Add a parent and a child for each rule in `children` (None: no rule); they are `1`, `2`, ... of `rig`."""
    parent_id = home.add("parent", job_id=job_id, waits_for_children=True, **parent)
    for rule in children:
        rig.add("child", parent=Parent(home.q, parent_id, rule))
    home.forget_events()
    home.raw.delete(home.key("marker"))
    return parent_id


def said(rig: Rig) -> list[tuple[str, ...]]:
    """The events of a queue, each as its values in order."""
    return [tuple(event.values()) for event in rig.events()]


# -- a child that ends well


def test_a_parent_runs_when_its_last_child_is_done(rig, home):
    # conformance: C-125 C-128
    family(rig, home, None, None)
    rig.settle("complete", rig.lease(), returnvalue=b'{"n":1}')
    assert home.zset("waiting-children") == {"p": NOW_MS}
    assert home.raw.smembers(home.key("p:dependencies")) == {rig.key("2").encode()}
    assert said(home) == []
    rig.settle("complete", rig.lease(), returnvalue=b"[]")
    assert home.hash("p:processed") == {rig.key("1"): '{"n":1}', rig.key("2"): "[]"}
    assert not home.exists("waiting-children")
    assert home.list("wait") == ["p"]
    assert said(home) == [("waiting", "p", "waiting-children")]
    assert home.zset("marker") == {"0": 0.0}
    assert home.run(ops.children(home.q, "p")) == ops.Children(
        {rig.key("1"): b'{"n":1}', rig.key("2"): b"[]"}, {}, (), ()
    )
    assert home.lease().job_id == "p"


def test_a_released_parent_goes_before_all_that_wait(rig, home):
    family(rig, home, None)
    home.add()
    rig.settle("complete", rig.lease())
    assert home.list("wait")[-1] == "p"


def test_a_released_parent_keeps_its_priority(rig, home):
    # conformance: C-129
    family(rig, home, None, priority=5)
    first = home.add(priority=5)
    home.raw.delete(home.key("marker"))
    rig.settle("complete", rig.lease())
    assert list(home.zset("prioritized")) == [first, "p"]
    assert said(home)[-1] == ("waiting", "p", "waiting-children")
    assert home.zset("marker") == {"0": 0.0}


def test_a_released_parent_keeps_its_delay(rig, home):
    # conformance: C-129
    family(rig, home, None, delay_ms=100, priority=5)
    rig.now += 50
    rig.settle("complete", rig.lease())
    due_ms = NOW_MS + 150
    assert home.zset("delayed") == {"p": due_ms * 4096}
    assert home.zset("marker") == {"1": due_ms}
    assert said(home) == [("delayed", "p", str(due_ms))]


@pytest.mark.parametrize("lists", [("wait",), ("paused",), ()])
def test_a_parent_of_a_paused_queue_is_released_but_wakes_nobody(rig, home, lists):
    # conformance: C-103
    family(rig, home, None)
    home.meta(paused=1)
    for name in lists:
        home.raw.lpush(home.key(name), "x")
    rig.settle("complete", rig.lease())
    assert home.list(lists[0] if lists else "wait")[-1] == "p"
    assert not home.exists("marker")
    assert home.try_lease() == LeaseRefused(0)
    home.raw.hdel(home.key("meta"), "paused")
    if lists == ("paused",):
        home.raw.rename(home.key("paused"), home.key("wait"))  # what a resume does
    assert home.lease().job_id == "p"


def test_a_parent_at_the_global_concurrency_wakes_nobody(rig, home):
    family(rig, home, None)
    home.meta(concurrency=1)
    home.raw.lpush(home.key("active"), "x")
    rig.settle("complete", rig.lease())
    assert home.list("wait") == ["p"]
    assert not home.exists("marker")


def test_parent_and_child_may_share_a_queue(rig):
    parent_id = rig.add("parent", job_id="p", waits_for_children=True)
    rig.add(parent=Parent(rig.q, parent_id))
    lease = rig.lease()
    rig.forget_events()
    rig.settle("complete", lease)
    assert [event[0] for event in said(rig)] == ["waiting", "completed"]
    assert rig.list("wait") == ["p"]


@pytest.mark.parametrize("job_id", ["repeat:nightly:1795492829667", "a:b:c", "p"])
def test_an_id_with_colons_is_found_in_its_queue(rig, home, job_id):
    home.add()  # the queue is known by its `meta`
    home.raw.hset(home.key(job_id), mapping={"name": "parent"})
    home.raw.zadd(home.key("waiting-children"), {job_id: 1})
    rig.add(parent=Parent(home.q, job_id))
    rig.settle("complete", rig.lease())
    assert home.list("wait")[-1] == job_id
    assert said(home)[-1] == ("waiting", job_id, "waiting-children")


@both
def test_a_child_that_is_deleted_at_its_end_leaves_its_parent(rig, home, verb, finished):
    # conformance: C-139 C-140
    family(rig, home, None)
    rig.settle(verb, rig.lease(), keep=Keep(0))
    assert not rig.exists("1")
    assert home.hash("p:processed") == ({rig.key("1"): '{"ok":true}'} if verb == "complete" else {})
    assert home.list("wait") == ["p"]
    assert not home.exists("p:dependencies")
    assert said(home) == [("waiting", "p", "waiting-children")]


def test_a_replayed_end_writes_no_book_twice(rig, home):
    family(rig, home, None, "ignore")
    first, second = rig.lease(), rig.lease()
    rig.settle("complete", first)
    rig.settle("fail", second)
    home.lease()
    before, books = rig.dump(), home.dump()
    assert rig.settle("complete", first) == "settled"
    assert rig.settle("fail", second) == "settled"
    assert (rig.dump(), home.dump()) == (before, books)


@pytest.mark.parametrize("verb", ["retry", "delay", "hand_back"])
def test_a_child_that_is_run_again_writes_nothing(rig, home, verb):
    family(rig, home, "fail")
    before = home.dump()
    rig.settle(verb, rig.lease())
    assert home.dump() == before


# -- a child that fails for good


def test_a_failed_child_without_a_rule_is_waited_for(rig, home):
    # conformance: C-135
    family(rig, home, None)
    before = home.dump()
    rig.settle("fail", rig.lease())
    assert home.dump() == before


def test_a_failed_child_fails_its_parent_before_it_runs(rig, home):
    # conformance: C-130
    family(rig, home, "fail", None)
    rig.now += 5
    rig.settle("fail", rig.lease())
    assert home.zset("p:unsuccessful") == {rig.key("1"): NOW_MS + 5}
    assert home.field("p", "defa") == f"child {rig.key('1')} failed"
    assert home.list("wait") == ["p"]
    assert said(home) == [("waiting", "p", "waiting-children")]
    assert home.raw.smembers(home.key("p:dependencies")) == {rig.key("2").encode()}
    found = home.run(ops.children(home.q, "p"))
    assert (found.pending, found.failed) == ((rig.key("2"),), (rig.key("1"),))


def test_a_failure_goes_up_level_by_level(rig, home):
    # conformance: C-131
    home.add("top", job_id="top", waits_for_children=True)
    rig.add("middle", job_id="middle", waits_for_children=True, parent=Parent(home.q, "top", "fail"))
    rig.add("leaf", parent=Parent(rig.q, "middle", "fail"))
    rig.settle("fail", rig.lease())
    middle = rig.lease_job()
    assert middle.fields[b"defa"].decode() == f"child {rig.key('2')} failed"
    assert home.zset("waiting-children")
    rig.settle("fail", middle.lease, failed_reason=middle.fields[b"defa"].decode())
    assert rig.field("middle", "defa") is None
    assert home.lease_job().fields[b"defa"].decode() == f"child {rig.key('middle')} failed"


def test_a_parent_that_waits_for_a_moment_is_failed_at_once(rig, home):
    family(rig, home, "fail", priority=3)
    home.raw.zrem(home.key("waiting-children"), "p")
    home.raw.zadd(home.key("delayed"), {"p": (NOW_MS + 1000) * 4096})
    home.raw.hset(home.key("p"), "delay", 1000)
    rig.settle("fail", rig.lease())
    assert not home.exists("delayed")
    assert list(home.zset("prioritized")) == ["p"]
    assert home.hash("p").items() >= {"delay": "0", "defa": f"child {rig.key('1')} failed"}.items()
    assert said(home) == [("waiting", "p", "waiting-children")]


def test_a_parent_in_work_is_only_marked(rig, home):
    parent = home.add("parent")
    lease = home.lease()
    rig.add(parent=Parent(home.q, parent, "fail"))
    home.forget_events()
    rig.settle("fail", rig.lease())
    assert home.field("1", "defa") == f"child {rig.key('1')} failed"
    assert home.list("active") == ["1"]
    assert said(home) == []
    assert home.settle("complete", lease) == "failed_children"
    assert home.settle("wait_children", lease) == "failed_children"
    assert home.settle("fail", lease) == "settled"
    assert home.field("1", "defa") is None


def test_a_parent_that_has_failed_is_not_marked(rig, home):
    family(rig, home, "fail")
    home.raw.zrem(home.key("waiting-children"), "p")
    home.raw.zadd(home.key("failed"), {"p": 1})
    rig.settle("fail", rig.lease())
    assert home.field("p", "defa") is None
    assert home.exists("p:unsuccessful")


def test_an_ignored_failure_is_kept_with_its_reason(rig, home):
    # conformance: C-132
    family(rig, home, "ignore", None)
    first, second = rig.lease(), rig.lease()
    rig.settle("fail", first, failed_reason="no rööm")
    assert home.zset("waiting-children")
    rig.settle("complete", second)
    assert home.hash("p:failed") == {rig.key("1"): "no rööm"}
    assert home.list("wait") == ["p"]
    assert home.run(ops.children(home.q, "p")).ignored == {rig.key("1"): "no rööm"}
    assert home.settle("complete", home.lease()) == "settled"


def test_a_removed_failure_leaves_no_trace(rig, home):
    # conformance: C-133
    family(rig, home, "remove")
    rig.settle("fail", rig.lease())
    assert home.list("wait") == ["p"]
    assert not [name for name in home.dump() if name.startswith("p:")]


def test_a_parent_that_is_to_continue_runs_with_children_pending(rig, home):
    # conformance: C-134
    family(rig, home, "continue", None, "continue")
    rig.settle("fail", rig.lease())
    assert home.list("wait") == ["p"]
    assert home.hash("p:failed") == {rig.key("1"): "boom"}
    lease = home.lease()
    assert home.settle("complete", lease) == "pending_children"
    second, third = rig.lease(), rig.lease()
    rig.settle("fail", third)  # it is in work: its books only
    assert home.list("wait") == []
    rig.settle("complete", second)
    assert home.settle("complete", lease) == "settled"


@pytest.mark.parametrize(
    ("parent", "rule"),
    [
        ('{"id":"p","fpof":true,"idof":true}', "unsuccessful"),
        ('{"id":"p","cpof":true,"idof":true}', "failed"),
        ('{"id":"p","fpof":false,"idof":true}', "failed"),
        ('{"id":"p","fpof":0}', None),
        ('{"id":"p","fpof":null}', None),
        ('{"id":"p"}', None),
        ("[]", None),
        ("7", None),
        ("no json", None),
        ("", None),
    ],
)
def test_the_rule_is_read_from_the_childs_parent_field(rig, home, parent, rule):
    family(rig, home, None)
    rig.raw.hset(rig.key("1"), "parent", parent)
    assert rig.settle("fail", rig.lease()) == "settled"
    assert rig.zset("failed") == {"1": NOW_MS}
    assert [name for name in home.dump() if name in ("p:failed", "p:unsuccessful")] == ([f"p:{rule}"] if rule else [])
    assert home.exists("waiting-children") == (rule is None)


def test_a_parent_that_only_the_json_names_is_told(rig, home):
    family(rig, home, None)
    rig.raw.hdel(rig.key("1"), "parentKey")
    rig.settle("complete", rig.lease())
    assert home.list("wait") == ["p"]


# -- what is wrong with the parent costs the child nothing


def spoil_key(field: str, value: str):
    return lambda rig, home: rig.raw.hset(rig.key("1"), field, value)


def make_a_list(suffix: str):
    def spoil(_rig, home):
        home.raw.delete(home.key(suffix))
        home.raw.lpush(home.key(suffix), "x")

    return spoil


SPOILERS = {
    "gone": lambda _rig, home: home.raw.delete(home.key("p")),
    "gone with its books": lambda _rig, home: home.raw.delete(home.key("p"), home.key("p:dependencies")),
    "no key": spoil_key("parentKey", "p"),
    "half a key": spoil_key("parentKey", "bull:p"),
    "no id": spoil_key("parentKey", "bull:q:"),
    "only colons": spoil_key("parentKey", ":::"),
    "no hash": make_a_list("p"),
    "no set of dependencies": make_a_list("p:dependencies"),
    "no hash of values": make_a_list("p:processed"),
    "no hash of failures": make_a_list("p:failed"),
    "no zset of failures": make_a_list("p:unsuccessful"),
    "no zset of parents": make_a_list("waiting-children"),
    "no stream": make_a_list("events"),
    "no meta": make_a_list("meta"),
    "no zset of markers": make_a_list("marker"),
}


def test_a_parent_that_cannot_be_placed_stays_where_it_waits(rig, home):
    family(rig, home, None)
    make_a_list("meta")(rig, home)
    rig.settle("complete", rig.lease())
    assert home.zset("waiting-children") == {"p": NOW_MS}
    assert home.exists("p:processed")


@both
@pytest.mark.parametrize(("rule", "keep"), [(None, Keep(0)), *((rule, Keep()) for rule in (None, *RULES))])
@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=[name.replace(" ", "-") for name in SPOILERS])
def test_a_broken_parent_never_costs_the_child_its_outcome(rig, home, verb, finished, rule, keep, spoil):
    family(rig, home, rule)
    lease = rig.lease()
    spoil(rig, home)
    rig.raw.delete(rig.key("marker"))
    assert rig.settle(verb, lease, keep=keep) == "settled"
    assert not rig.exists("active")
    assert not rig.exists("1:lock")
    assert rig.zset(finished) == ({"1": NOW_MS} if keep.count else {})
    ends = ["failed", "retries-exhausted", "drained"] if verb == "fail" else ["completed", "drained"]
    assert [event[0] for event in said(rig)][-len(ends) :] == ends
    rig.add()
    assert rig.lease().job_id == "2"


def test_an_outcome_is_never_written_before_its_arguments_are_checked(rig, home):
    family(rig, home, None)
    op = rig.settle_op("complete", rig.lease())
    before, books = rig.dump(), home.dump()
    for n in (5, 7, 9, 10):  # now, keep's count and limit, minutes of metrics
        with pytest.raises(RedisReplyError, match="number"):
            rig.run(replace(op, args=(*op.args[:n], "x", *op.args[n + 1 :])))
    assert (rig.dump(), home.dump()) == (before, books)


# -- retention


def test_retention_lets_the_parent_of_what_it_deletes_run(rig, home):
    family(rig, home, None)
    rig.settle("fail", rig.lease())
    rig.add()
    rig.settle("fail", rig.lease(), keep=Keep(1))
    assert list(rig.zset("failed")) == ["2"]
    assert home.list("wait") == ["p"]
    assert said(home) == [("waiting", "p", "waiting-children")]


def test_retention_keeps_the_value_that_the_parent_has(rig, home):
    family(rig, home, None, None)
    rig.settle("complete", rig.lease(), returnvalue=b"1")
    rig.settle("complete", rig.lease(), returnvalue=b"2", keep=Keep(1))
    assert list(rig.zset("completed")) == ["2"]
    assert home.hash("p:processed") == {rig.key("1"): "1", rig.key("2"): "2"}


# -- wait_children


def test_an_active_parent_waits_for_the_children_it_has_added(rig, home):
    # conformance: C-136
    home.add()
    lease = home.lease()
    rig.add(parent=Parent(home.q, "1"))
    home.forget_events()
    home.now += 3
    assert home.settle("wait_children", lease) == "settled"
    assert home.zset("waiting-children") == {"1": NOW_MS + 3}
    assert said(home) == [("waiting-children", "1", "active")]
    assert not home.exists("active")
    assert not home.exists("1:lock")
    assert home.field("1", "hq:fence") is None
    rig.settle("complete", rig.lease())
    again = home.lease_job()
    assert again.fields[b"ats"] == b"2"
    assert b"atm" not in again.fields
    home.settle("complete", again.lease)
    assert home.hash("1").items() >= {"ats": "2", "atm": "1"}.items()


@pytest.mark.parametrize("priority", [0, 4])
def test_with_nothing_to_wait_for_the_job_runs_next(home, priority):
    # conformance: C-137
    home.add(priority=priority)
    lease = home.lease()
    home.add(priority=priority)
    assert home.settle("wait_children", lease) == "settled"
    assert not home.exists("waiting-children")
    again = home.lease_job()
    assert again.lease.job_id == "1"
    assert b"atm" not in again.fields


def test_a_place_that_waiting_frees_wakes_a_worker(rig, home):
    home.meta(concurrency=1)
    home.add()
    home.add()
    lease = home.lease()
    rig.add(parent=Parent(home.q, "1"))
    home.raw.delete(home.key("marker"))
    home.settle("wait_children", lease)
    assert home.zset("marker") == {"0": 0.0}


# -- detach


def test_a_detached_child_is_waited_for_no_longer(rig, home):
    family(rig, home, "fail", None, delay_ms=100)
    assert rig.run(ops.detach(rig.q, "1", now_ms=NOW_MS)) is True
    assert rig.field("1", "parentKey") is None
    assert rig.field("1", "parent") is None
    assert home.zset("waiting-children")
    assert rig.run(ops.detach(rig.q, "1", now_ms=NOW_MS)) is False
    assert rig.run(ops.detach(rig.q, "2", now_ms=NOW_MS + 7)) is True
    assert home.zset("delayed") == {"p": (NOW_MS + 107) * 4096}


def test_a_done_child_is_not_detached(rig, home):
    family(rig, home, None, None)
    rig.settle("complete", rig.lease())
    before = rig.dump()
    assert rig.run(ops.detach(rig.q, "1", now_ms=NOW_MS)) is False
    assert rig.dump() == before


def test_what_cannot_be_detached_is_named(rig, home):
    family(rig, home, None)
    with pytest.raises(NoSuchJob, match="nobody"):
        rig.run(ops.detach(rig.q, "nobody", now_ms=NOW_MS))
    home.raw.delete(home.key("p"))
    with pytest.raises(NoSuchParent):
        rig.run(ops.detach(rig.q, "1", now_ms=NOW_MS))
    rig.add()
    assert rig.run(ops.detach(rig.q, "2", now_ms=NOW_MS)) is False


# -- children


def test_children_of_nobody_are_none(home):
    assert home.run(ops.children(home.q, "nobody")) == ops.Children({}, {}, (), ())


def test_values_of_children_are_not_parsed(home):
    home.raw.hset(home.key("p:processed"), b"\xff", b"no json \xff")
    home.raw.hset(home.key("p:failed"), "k", b"\xff")
    found = home.run(ops.children(home.q, "p"))
    assert found.processed == {"\udcff": b"no json \xff"}
    assert found.ignored == {"k": "\ufffd"}


def test_a_large_family_is_read_whole(rig, home):
    home.raw.sadd(home.key("p:dependencies"), *[f"bull:q:{n}" for n in range(3000)])
    assert len(home.run(ops.children(home.q, "p")).pending) == 3000
