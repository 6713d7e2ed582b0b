"""Conformance, areas A and B: where a queue lives, whose settings hold, and ids of producers of both kinds at once."""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest

import heavyq
from heavyq import Dedup, Queue
from heavyq.bullmq.keys import QueueKey
from tests.interop.node import NodeQueue
from tests.support.eventually import eventually
from tests.support.ops import Rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from heavyq.store.client import Client
    from tests.interop.node import Node

    Declare = Callable[..., Queue[Any, Any]]


@pytest.fixture
def own_place(node: Node, raw: redis.Redis) -> Iterator[Callable[[str], NodeQueue]]:
    """A queue of a fresh name below a prefix of the test's choice: `own_place("bull")`."""
    made: list[NodeQueue] = []

    def make(prefix: str) -> NodeQueue:
        made.append(node.at(QueueKey(prefix, f"q{uuid.uuid4().hex[:10]}")))
        return made[-1]

    yield make
    for queue in made:
        errors = queue("errors")
        queue("close")
        for key in raw.scan_iter(queue.q.key("*")):
            raw.delete(key)
        assert errors == []


def test_without_a_prefix_a_queue_is_where_node_looks(
    own_place: Callable[[str], NodeQueue], declare: Declare, ours: Rig
) -> None:
    # conformance: C-001
    bull = own_place("bull")
    job = declare(bull.q.name, prefix="bull").add("n", {"x": 1})  # "bull" is what an unset prefix means
    assert heavyq.Queue(bull.q.name).key() == bull.q
    assert ours.raw.exists(f"bull:{bull.q.name}:{job.id}")
    assert bull.find(job.id)["data"] == {"x": 1}
    assert bull("ids", state="waiting") == [job.id]


def test_a_prefix_that_is_a_hash_tag_works_both_ways(own_place: Callable[[str], NodeQueue], declare: Declare) -> None:
    # conformance: C-002
    bull = own_place("{b}")
    queue = declare(bull.q.name, prefix="{b}")
    mine, theirs = queue.add({"by": "heavyq"}), bull.add({"by": "node"})
    assert bull.find(mine.id)["data"] == {"by": "heavyq"}
    assert queue.handle(theirs).refresh().data == {"by": "node"}
    bull("startWorker")
    assert mine.result(timeout=10) == {"by": "heavyq"}


def test_nodes_settings_are_kept(bull: NodeQueue, hq: Queue[Any, Any], ours: Rig) -> None:
    # conformance: C-005 C-006
    bull("setStreamLimit", most=100)  # a Node queue that opens writes both
    before = ours.hash("meta")
    assert before["opts.maxLenEvents"] == "100"
    assert before["version"] == f"bullmq:{bull.node.version}"
    hq.add_bulk([("n", {}) for _ in range(1000)])
    hq.pause()
    hq.resume()
    hq.set_global_concurrency(3)
    after = ours.hash("meta")
    assert after == {**before, "concurrency": "3"}
    assert 100 <= ours.raw.xlen(ours.key("events")) < 400  # trimmed by whole nodes of the stream, of 100 each


def test_producers_of_both_kinds_at_once_get_ids_without_gap_or_double(
    bull: NodeQueue, hq: Queue[Any, Any], ours: Rig
) -> None:
    # conformance: C-007
    theirs = bull.begin("addMany", many=1000)
    mine: list[str] = []
    threads = [
        threading.Thread(target=lambda: mine.extend([hq.add({}).id for _ in range(500)])),  # list.extend is atomic
        threading.Thread(target=lambda: mine.extend([hq.add({}).id for _ in range(500)])),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    ids = [*mine, *bull.node.reply(theirs, 60)]
    assert sorted(map(int, ids)) == list(range(1, 2001))
    assert ours.text("id") == "2000"


def test_every_option_set_in_heavyq_has_nodes_name_in_node(
    bull: NodeQueue, hq: Queue[Any, Any], declare: Declare
) -> None:
    # conformance: C-026
    parent = hq.add("parent", {}, delay="1h")
    job = hq.add(
        {},
        keep_logs=7,
        size_limit=500,
        stack_trace_limit=2,
        remove_on_fail=3,
        telemetry="00-trace",
        parent=parent,
        fail_parent_on_failure=True,
    )
    opts = bull.find(job.id)["opts"]
    expected = {"keepLogs": 7, "sizeLimit": 500, "stackTraceLimit": 2, "removeOnFail": 3, "failParentOnFailure": True}
    assert opts.items() >= expected.items()
    alone = hq.add({}, deduplication=Dedup("d", ttl="5s", extend=True))
    assert bull.find(alone.id)["opts"]["deduplication"].items() >= {"id": "d", "ttl": 5000, "extend": True}.items()
    assert opts["telemetry"]["metadata"] == "00-trace"
    assert opts["parent"] == {"id": parent.id, "queue": f"{bull.q.prefix}:q"}
    flags = {
        "continue_parent_on_failure": "continueParentOnFailure",
        "ignore_dependency_on_failure": "ignoreDependencyOnFailure",
        "remove_dependency_on_failure": "removeDependencyOnFailure",
    }
    for python, node in flags.items():
        options: dict[str, Any] = {python: True}
        assert bull.find(hq.add({}, parent=parent, **options).id)["opts"][node] is True


def test_options_that_heavyq_does_not_know_survive_its_retries(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-027
    strange = {
        "attempts": 5,
        "ofTomorrow": {"deep": [1, None, "é"]},
        "telemetry": {"metadata": "t", "omitContext": True},
    }
    job_id = bull.add(**strange)
    before = bull.find(job_id)["opts"]
    for verb in ("retry", "delay", "hand_back", "fail"):
        assert ours.settle(verb, ours.lease()) == "settled"
        ours.now += 2000
    bull("retry", id=job_id)
    assert bull.find(job_id)["opts"] == before
    assert before["ofTomorrow"]["deep"][2] == "é"


def test_queues_are_found_and_a_relay_s_keys_are_none(bull: NodeQueue, client: Client, ours: Rig, q: QueueKey) -> None:
    # conformance: C-010
    from heavyq.queue.talk import ScanQueues, drive

    bull.add()
    bull("setConcurrency", limit=2)  # meta is there
    ours.raw.hset(f"{q.prefix}::relay:meta", mapping={"a": "b"})
    ours.raw.sadd(f"{q.prefix}::relay:namespaces", "one")

    def talk() -> Any:
        return (yield ScanQueues(q.prefix))

    found = [each for each in drive(client, talk()) if each.prefix == q.prefix]
    assert found == [q]


def test_a_delayed_job_of_heavyq_wakes_an_idle_node_worker_in_time(bull: NodeQueue, hq: Queue[Any, Any]) -> None:
    # conformance: C-016
    bull("startWorker", opts={"drainDelay": 30})
    warm = bull.add()
    eventually(lambda: bull.state(warm) == "completed", 10, "completed")
    late_ms = []
    for _ in range(3):
        job = hq.add({}, delay=0.3)
        job.result(timeout=10)
        seen = bull.find(job.id)
        late_ms.append(seen["processedOn"] - seen["timestamp"] - 300)
    assert min(late_ms) >= 0
    assert min(late_ms) < 100, late_ms  # the best of three: the machine may be busy, a poll would always be late
