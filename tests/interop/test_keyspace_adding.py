"""The oracle for what a producer says: options, ids, numbers, places. What BullMQ refuses, heavyq refuses too."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import TypeAdapter

import heavyq
from heavyq import PayloadError, PayloadTooLarge, Queue
from heavyq.bullmq import ops
from heavyq.bullmq.dedup import Dedup
from heavyq.bullmq.keys import QueueKey, why_not_an_id
from heavyq.bullmq.options import Backoff, pack_options
from heavyq.bullmq.parent import FLAGS, OnFailure, Parent
from heavyq.errors import UsageError
from tests.interop.node import NodeError
from tests.support.eventually import eventually
from tests.support.ops import FAILURE, USAGE, Rig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.interop.node import NodeQueue
    from tests.interop.trees import Trees
    from tests.support.valkey import Valkey

_API_FLAGS = {
    "fail": "failParentOnFailure",
    "continue": "continueParentOnFailure",
    "ignore": "ignoreDependencyOnFailure",
    "remove": "removeDependencyOnFailure",
}


@pytest.fixture
def jobs(q: QueueKey, valkey: Valkey) -> Iterator[Queue[Any, Any]]:
    """The test's queue as a heavyq program sees it."""
    yield Queue(q.name, prefix=q.prefix, connection=valkey.url, payload=TypeAdapter(Any), result=TypeAdapter(Any))
    heavyq.close()


# -- what is stored


@pytest.mark.parametrize(
    "options",
    [
        {"telemetry": {"metadata": '{"traceparent":"00-é"}', "omitContext": True}},
        {"keepLogs": 3, "sizeLimit": 1000, "attempts": 4},
        {"timestamp": 1, "priority": 2_097_151},
        {"timestamp": 1, "jobId": "ü 1"},
        {"delay": 5, "priority": 3, "lifo": True},
        {"failParentOnFailure": True},
        {"removeDependencyOnFailure": True, "delay": 7},
        {"deduplication": {"id": "x", "ttl": 90_000, "extend": True, "replace": True}},
        {"deduplication": {"id": "x", "ttl": 90_000, "keepLastIfActive": True}},
    ],
)
def test_options_of_a_producer(trees: Trees, options: dict[str, Any]) -> None:
    # conformance: C-012 C-025
    trees["chi"].add({"n": 1}, name="é", **options)
    trees["chi"].add({"n": 1}, **options)


def test_counting_of_ids_that_are_not_used(trees: Trees) -> None:
    # conformance: C-019
    chi = trees["chi"]
    chi.add(jobId="a")
    chi.add(jobId="a", priority=3)
    chi.add(deduplication={"id": "d"})
    chi.add(deduplication={"id": "d"})
    assert chi.add() == "5"


def test_more_jobs_of_one_moment_than_it_has_places(trees: Trees) -> None:
    # conformance: C-029
    chi, delay = trees["chi"], {"delay": 700}
    jobs = [{"name": "n", "data": {}, "opts": delay}] * 4100
    chi.bull("addBulk", jobs=jobs)
    added = chi.ours.client.run_many([trees.add_op(chi.ours, "n", {}, delay) for _ in jobs])
    assert [each.id for each in added] == [str(number) for number in range(1, 4101)]
    chi.check()
    scores = chi.ours.zset("delayed").values()
    assert {score // 4096 for score in scores} == {chi.ours.now + 700}


# -- what is refused


@pytest.mark.parametrize(
    "options",
    [
        {"priority": 2_097_152},
        {"jobId": "0"},
        {"jobId": "12"},
        {"jobId": "-3"},
        {"jobId": "0:1"},
        {"jobId": "a:b"},
        {"jobId": "a:b:c:d"},
        {"deduplication": {"id": ""}},
        {"deduplication": {"id": "d"}, "parent": {"id": "P", "queue": "par"}},
    ],
)
def test_both_refuse(trees: Trees, options: dict[str, Any]) -> None:
    # conformance: C-008 C-018
    chi = trees["chi"]
    with pytest.raises(NodeError):
        chi.bull.add(**trees.for_node(options))
    with pytest.raises(UsageError):
        chi.ours.run(add_op(trees, **options))
    for member in trees.pairs.values():
        assert member.ours.dump() == member.theirs.dump() == {}


@pytest.mark.parametrize("options", [{"priority": -1}, {"delay": -1}, {"jobId": "wait"}, {"jobId": "meta"}])
def test_heavyq_refuses_more(trees: Trees, options: dict[str, Any]) -> None:
    """BullMQ takes these, and what it then stores breaks its order or the queue itself."""
    # conformance: C-008 C-018
    with pytest.raises(UsageError):
        trees["chi"].ours.run(add_op(trees, **options))
    assert trees["chi"].ours.dump() == {}


@pytest.mark.parametrize("job_id", ["a", "01", "1.5", "1e3", "+1", " 1", "ü", "waiting", "dn", "-0"])
def test_both_take(trees: Trees, job_id: str) -> None:
    assert why_not_an_id(job_id) is None
    trees["chi"].add(jobId=job_id)
    trees["chi"].fetch()


def test_a_payload_over_its_limit_is_refused_by_its_bytes(bull: NodeQueue, jobs: Queue[Any, Any], ours: Rig) -> None:
    # conformance: C-024
    data = {"x": "é" * 10}  # 28 bytes of JSON, and 18 characters
    assert bull.add(data, sizeLimit=28) == "1"
    assert jobs.add("n", data, size_limit=28).id == "2"
    with pytest.raises(NodeError, match="exceeds the limit"):
        bull.add(data, sizeLimit=27)
    with pytest.raises(PayloadTooLarge):
        jobs.add("n", data, size_limit=27)
    assert ours.text("id") == "2"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_numbers_that_json_does_not_have_are_never_stored(jobs: Queue[Any, Any], ours: Rig, value: Any) -> None:
    # conformance: C-023
    try:
        job = jobs.add("n", value)
    except PayloadError:
        assert not ours.exists("id")
    else:
        assert json.loads(ours.field(job.id, "data") or "") in (None, [None])


# -- both on one queue


def test_node_reads_the_options_under_its_own_names(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-026
    parent_id = ours.add(job_id="P")
    packed = pack_options(
        attempts=3,
        backoff=Backoff("exponential", 1000, 0.5),
        keep_logs=7,
        stack_trace_limit=2,
        size_limit=1000,
        dedup=Dedup("d", ttl_ms=5000, extend=True, replace=True, keep_last_if_active=True, reschedule=True),
        telemetry='{"traceparent":"00"}',
        omit_context=True,
        timeout_ms=60_000,
        progress_timeout_ms=5_000,
        memory_limit_bytes=2**31,
    )
    opts = bull.find(ours.add(opts=packed))["opts"]
    assert opts["keepLogs"] == 7
    assert opts["stackTraceLimit"] == 2
    assert opts["sizeLimit"] == 1000
    assert opts["backoff"] == {"type": "exponential", "delay": 1000, "jitter": 0.5}
    rules = dict.fromkeys(("extend", "replace", "keepLastIfActive", "reschedule"), True)
    assert opts["deduplication"] == {"id": "d", "ttl": 5000, **rules}
    assert opts["telemetry"] == {"metadata": '{"traceparent":"00"}', "omitContext": True}
    assert opts["hq"] == {"timeout": 60_000, "progressTimeout": 5_000, "memoryLimit": 2**31}
    words: tuple[OnFailure, ...] = tuple(FLAGS)
    for word in words:
        parent = Parent(ours.q, parent_id, word)
        seen = bull("whole", id=ours.add(parent=parent, opts=pack_options(parent=parent)))
        assert seen["opts"][_API_FLAGS[word]] is True
        assert seen["opts"]["parent"] == {"id": "P", "queue": str(ours.q)}
        assert seen["parent"] == {"id": "P", "queueKey": str(ours.q), FLAGS[word]: True}
        assert seen["parentKey"] == ours.key("P")


def test_options_that_heavyq_does_not_know_survive_a_retry(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-027
    own = {"hq": {"timeout": 60_000, "newer": [1]}, "mine": {"a": [1, {"b": None}]}, "x": "é/"}
    job_id = bull.add(attempts=3, **own)
    before = ours.field(job_id, "opts")
    trace = {"failed_reason": "no", "stacktrace": b"[]", "failure": FAILURE, "usage": USAGE}
    lease = ours.lease(now_ms=ours.now)
    assert ours.run(ops.retry(lease, now_ms=ours.now, lifo=False, **trace)) == "settled"
    assert ours.field(job_id, "opts") == before
    opts = bull.find(job_id)["opts"]
    assert (opts["mine"]["a"][0], opts["x"], opts["hq"]["newer"]) == (1, "é/", [1])


def test_a_node_worker_runs_what_heavyq_put_first(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-014
    now = {"timestamp_ms": ours.now}
    ids = [ours.add(**now), bull.add(), ours.add(lifo=True, **now), ours.add(priority=1, **now)]
    assert ours.list("wait") == [ids[1], ids[0], ids[2]]
    bull("startWorker")
    eventually(lambda: len(bull.started()) == len(ids), what="all have started")
    assert bull.started() == [ids[2], ids[0], ids[1], ids[3]]


# -- helpers


def add_op(trees: Trees, **opts: Any) -> Any:
    dedup = opts.get("deduplication")
    if dedup is not None and not dedup["id"]:  # what is read from the wire has an id
        return ops.add(trees["chi"].ours.q, name="n", data=b"{}", opts=b"{}", timestamp_ms=1, dedup=Dedup(""))
    return trees.add_op(trees["chi"].ours, "job", {}, opts)
