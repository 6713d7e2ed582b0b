"""Parents and children at their add, against what BullMQ stores; the end of a flow's insert."""

from __future__ import annotations

import json
from typing import Any

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.options import pack_options
from heavyq.bullmq.parent import Parent
from heavyq.errors import HasAnotherParent, NoSuchParent, UsageError
from tests.support.ops import NOW_MS, Rig


@pytest.fixture
def par(client, raw, prefix) -> Rig:
    return Rig(client, raw, QueueKey(prefix, "par"))


@pytest.fixture
def chi(client, raw, prefix) -> Rig:
    return Rig(client, raw, QueueKey(prefix, "chi"))


def add(rig: Rig, **options: Any) -> ops.Added:
    options = {"name": "job", "data": b"{}", "opts": b"{}", "timestamp_ms": rig.now, **options}
    return rig.run(ops.add(rig.q, **options))


def close(rig: Rig, job_id: str) -> bool:
    return rig.run(ops.close_flow(Parent(rig.q, job_id), now_ms=rig.now))


def completed(rig: Rig, job_id: str, value: bytes = b'{"v":1}') -> None:
    rig.add(job_id=job_id)
    assert rig.settle("complete", rig.lease(), returnvalue=value) == "settled"


def test_tree_leaves_what_bullmq_leaves(par, chi):
    # conformance: C-127
    parent = Parent(par.q, "P", on_failure="fail")
    opts = pack_options(parent=parent, job_id="C")
    add(par, job_id="P", waits_for_children=True, priority=3, delay_ms=50)
    add(chi, job_id="C", parent=parent, opts=opts, in_flow=True)
    assert close(par, "P") is False
    assert par.dump() == {
        "id": "1",
        "meta": {"opts.maxLenEvents": "10000"},
        "P": {
            "name": "job",
            "data": "{}",
            "opts": "{}",
            "timestamp": str(NOW_MS),
            "delay": "50",
            "priority": "3",
        },
        "P:dependencies": {chi.key("C")},
        "waiting-children": {"P": float(NOW_MS)},
        "events": [{"event": "added", "jobId": "P", "name": "job"}, {"event": "waiting-children", "jobId": "P"}],
    }
    child = chi.hash("C")
    assert child["parentKey"] == par.key("P")
    assert json.loads(child["parent"]) == {"id": "P", "queueKey": str(par.q), "fpof": True}
    assert json.loads(child["opts"]) == {
        "attempts": 0,
        "jobId": "C",
        "parent": {"id": "P", "queue": str(par.q)},
        "fpof": True,
    }
    assert chi.list("wait") == ["C"]


@pytest.mark.parametrize("job_id", [None, "C"])
def test_missing_parent_adds_nothing(par, chi, job_id):
    # conformance: C-030
    chi.add()
    before = chi.dump()
    with pytest.raises(NoSuchParent, match="par:P"):
        add(chi, parent=Parent(par.q, "P"), job_id=job_id)
    assert chi.dump() == before
    assert par.dump() == {}


def test_key_that_is_no_job_is_no_parent(par, chi):
    par.add()
    with pytest.raises(NoSuchParent):
        add(chi, parent=Parent(par.q, "wait"))
    assert chi.dump() == {}


def test_job_that_is_there_becomes_a_child(par, chi):
    par.add(job_id="P")
    chi.add(job_id="C", data=b'{"n":1}')
    before = chi.hash("C")
    added = add(chi, job_id="C", parent=Parent(par.q, "P", "remove"), data=b'{"n":2}')
    assert added == ops.Added("C", existed=True)
    field = json.dumps({"id": "P", "queueKey": str(par.q), "rdof": True}, separators=(",", ":"))
    assert chi.hash("C") == {**before, "parentKey": par.key("P"), "parent": field}
    assert par.dump()["P:dependencies"] == {chi.key("C")}
    assert chi.events()[-1] == {"event": "duplicated", "jobId": "C"}
    before = chi.hash("C")
    assert add(chi, job_id="C") == ops.Added("C", existed=True)  # no parent named: it stays
    assert chi.hash("C") == before
    assert add(chi, job_id="C", parent=Parent(par.q, "P")) == ops.Added("C", existed=True)  # the same one: as said now
    assert json.loads(chi.field("C", "parent")) == {"id": "P", "queueKey": str(par.q)}


@pytest.mark.parametrize("is_completed", [False, True])
def test_child_of_another_is_not_taken(par, chi, is_completed):
    # conformance: C-142
    par.add(job_id="P")
    par.add(job_id="Q")
    chi.add(job_id="C", parent=Parent(par.q, "P"))
    if is_completed:
        chi.settle("complete", chi.lease())
    before = {**chi.dump(), "id": "2"}
    books = par.dump()
    with pytest.raises(HasAnotherParent, match="par:Q"):
        add(chi, job_id="C", parent=Parent(par.q, "Q"))
    assert chi.dump() == before
    assert par.dump() == books


def test_flow_with_a_child_of_another_waits(par, chi):
    # conformance: C-142
    par.add(job_id="P")
    chi.add(job_id="C", parent=Parent(par.q, "P"))
    add(par, job_id="R", waits_for_children=True)
    assert add(chi, job_id="C", parent=Parent(par.q, "R"), in_flow=True) == ops.Added("C", existed=True)
    assert chi.field("C", "parentKey") == par.key("P")
    assert close(par, "R") is False
    assert par.zset("waiting-children").keys() == {"R"}
    assert "flowAttachmentFailed" not in par.hash("R")
    assert close(par, "R") is True, "the mark is for one insert"


def test_child_whose_parent_is_gone_is_adopted(par, chi):
    par.add(job_id="P")
    par.add(job_id="Q")
    chi.add(job_id="C", parent=Parent(par.q, "P"))
    par.raw.delete(par.key("P"))
    assert add(chi, job_id="C", parent=Parent(par.q, "Q")) == ops.Added("C", existed=True)
    assert chi.field("C", "parentKey") == par.key("Q")
    assert par.dump()["Q:dependencies"] == {chi.key("C")}


@pytest.mark.parametrize(
    ("options", "where"), [({}, "wait"), ({"priority": 2}, "prioritized"), ({"delay_ms": 500}, "delayed")]
)
def test_flow_of_completed_children_is_released_at_its_end(par, chi, options, where):
    # conformance: C-141
    completed(chi, "A", b'{"by":"A"}')
    completed(chi, "B", b"null")
    add(par, job_id="R", waits_for_children=True, **options)
    for child in ("A", "B"):
        assert add(chi, job_id=child, parent=Parent(par.q, "R"), in_flow=True).existed
        assert par.zset("waiting-children").keys() == {"R"}, "not before the whole tree is there"
    par.now += 70
    assert close(par, "R") is True
    assert par.hash("R:processed") == {chi.key("A"): '{"by":"A"}', chi.key("B"): "null"}
    assert (par.list("wait") if where == "wait" else list(par.zset(where))) == ["R"]
    if where == "delayed":
        assert par.zset("delayed") == {"R": (par.now + 500) * 4096}
    assert close(par, "R") is False
    released = "delayed" if where == "delayed" else "waiting"
    assert [event["event"] for event in par.events()] == ["added", "waiting-children", released]


def test_completed_job_releases_the_parent_that_it_joins(par, chi):
    """Outside a flow at once, unless the parent waits for others too."""
    completed(chi, "A")
    completed(chi, "B")
    add(par, job_id="P", waits_for_children=True)
    chi.add(job_id="C", parent=Parent(par.q, "P"))
    add(chi, job_id="A", parent=Parent(par.q, "P"))
    assert par.zset("waiting-children").keys() == {"P"}
    chi.settle("complete", chi.lease())
    assert par.list("wait") == ["P"]
    add(par, job_id="Q", waits_for_children=True)
    add(chi, job_id="B", parent=Parent(par.q, "Q"))
    assert par.list("wait") == ["P", "Q"]
    assert par.hash("Q:processed") == {chi.key("B"): '{"v":1}'}


def test_value_that_is_missing_is_null_to_the_parent(par, chi):
    completed(chi, "A")
    chi.raw.hdel(chi.key("A"), "returnvalue")
    add(par, job_id="P", waits_for_children=True)
    add(chi, job_id="A", parent=Parent(par.q, "P"))
    assert par.hash("P:processed") == {chi.key("A"): "null"}


def test_failed_job_that_is_there_is_waited_for(par, chi):
    chi.add(job_id="A")
    chi.settle("fail", chi.lease())
    add(par, job_id="P", waits_for_children=True)
    add(chi, job_id="A", parent=Parent(par.q, "P"), in_flow=True)
    assert close(par, "P") is False
    assert par.dump()["P:dependencies"] == {chi.key("A")}


@pytest.mark.parametrize("on_failure", ["fail", "continue", "ignore", "remove", None])
def test_failed_child_that_is_added_again_is_not_waited_for_again(par, chi, on_failure):
    """BullMQ's parent would wait for it, though it never runs again by itself."""
    parent = Parent(par.q, "P", on_failure)
    add(par, job_id="P", waits_for_children=True)
    for child in ("A", "B"):
        chi.add(job_id=child, parent=parent)
    chi.settle("fail", chi.lease())
    before = {name: value for name, value in par.dump().items() if name != "events"}
    assert add(chi, job_id="A", parent=parent).existed
    assert {name: value for name, value in par.dump().items() if name != "events"} == before


@pytest.mark.parametrize("options", [{}, {"priority": 1}, {"delay_ms": 5}, {"lifo": True}])
def test_child_waits_like_any_job(par, chi, options):
    par.add(job_id="P")
    chi.add(parent=Parent(par.q, "P"), **options)
    chi.add(**options)
    dump = chi.dump()
    assert dump["1"].keys() - dump["2"].keys() == {"parentKey", "parent"}
    assert par.dump()["P:dependencies"] == {chi.key("1")}


def test_parent_of_any_id_and_queue(client, raw, prefix, chi):
    far = Rig(client, raw, QueueKey(f"{prefix}:{{b}}", "é ☃"))
    add(far, job_id="ü 1", waits_for_children=True)
    parent = Parent(far.q, "ü 1")
    chi.add(job_id="C", parent=parent, opts=pack_options(parent=parent))
    assert far.dump()["ü 1:dependencies"] == {chi.key("C")}
    chi.settle("complete", chi.lease())
    assert far.list("wait") == ["ü 1"]


def test_parent_and_child_in_one_queue(chi):
    add(chi, job_id="P", waits_for_children=True)
    add(chi, job_id="C", parent=Parent(chi.q, "P"), in_flow=True)
    close(chi, "P")
    assert chi.lease().job_id == "C"


def test_close_of_what_is_not_there_writes_nothing(par):
    assert close(par, "P") is False
    assert par.dump() == {}


def test_close_does_nothing_to_a_parent_that_runs(par):
    par.add(job_id="P")
    par.lease()
    before = par.dump()
    assert close(par, "P") is False
    assert par.dump() == before


@pytest.mark.parametrize("parent", [("", "chi"), ("C", "chi")])
def test_parents_that_cannot_be_are_refused(chi, prefix, parent):
    job_id, queue = parent
    with pytest.raises(UsageError):
        chi.add(job_id="C", parent=Parent(QueueKey(prefix, queue), job_id))
    assert chi.dump() == {}
