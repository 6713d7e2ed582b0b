"""A hash-tagged prefix on a cluster: no script of heavyq's leaves its slot.

The one node here has that slot and no other: it refuses every command and every script that touches a key elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from heavyq import Dedup, Flow, fixed
from heavyq.bullmq.keys import QueueKey
from heavyq.errors import RedisError
from heavyq.store.client import Client
from tests.interop.node import Node
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from heavyq import Queue
    from tests.support.valkey import Valkey
    from tests.support.worker import Worker

    StartWorker = Callable[..., Worker]
    Declare = Callable[..., Queue[Any, Any]]

PREFIX = "{b}"
READ = {"children": True}


@pytest.fixture
def cluster(own_valkey: Callable[..., Valkey]) -> Valkey:
    server = own_valkey(config={"cluster-enabled": "yes", "cluster-require-full-coverage": "no"})
    with server.redis() as raw:
        raw.execute_command("CLUSTER", "ADDSLOTS", raw.execute_command("CLUSTER", "KEYSLOT", PREFIX))
        eventually(lambda: b"cluster_state:ok" in raw.execute_command("CLUSTER", "INFO"), 10, "the cluster is up")
    return server


@pytest.fixture
def cluster_node(node: Node, cluster: Valkey, tmp_path: Path) -> Iterator[Node]:
    """BullMQ on that server, of the generation under test."""
    with Node(node.generation, cluster.url, tmp_path / "node.log") as process:
        yield process


@pytest.fixture
def client(cluster: Valkey) -> Iterator[Client]:
    connected = Client(cluster.url)
    yield connected
    connected.close()


def test_the_server_refuses_scripts_that_leave_their_slot(cluster: Valkey, declare: Declare) -> None:
    """Without the tag the first add fails: what the other tests here do not meet would be seen."""
    with pytest.raises(RedisError, match=r"(?i)slot|non local key"):
        declare(prefix="bull", connection=cluster.url).add({})


def test_heavyq_alone_on_a_cluster(cluster: Valkey, declare: Declare, live_worker: StartWorker) -> None:
    # conformance: C-180
    q, kids = (declare(name, prefix=PREFIX, connection=cluster.url) for name in ("q", "kids"))
    jobs = [
        q.add({"returns": 1}),
        q.add({"returns": 2}, delay=0.3, priority=2),
        q.add({"returns": 3}, priority=1),
        q.add({"returns": 4}, deduplication=Dedup("d", ttl="5s")),
        q.add({"returns": 5, "once": "boom"}, attempts=2, backoff=fixed("100ms")),
        q.add({"returns": 6, "once": "snooze"}),
        q.add({"returns": 7}, remove_on_complete=True),
    ]
    kept = [q.add({"n": n}, deduplication=Dedup("k", keep_last_if_active=True)) for n in range(2)]
    assert kept[0].id == kept[1].id
    flow = Flow(q, READ, children=[Flow(kids, {"returns": n}) for n in range(3)]).add()
    grown = q.add({"once": "children", "children": True})
    broken = Flow(q, READ, children=[Flow(kids, {"raise": "no"}, ignore_dependency_on_failure=True)]).add()
    q.upsert_scheduler("tick", every=0.3, data={"returns": "tock"}, remove_on_complete=False)
    worker = live_worker("-c", "3", url=cluster.url, prefix=PREFIX)
    assert [job.result(timeout=15) for job in jobs] == [1, 2, 3, 4, 5, 6, 7]
    assert sorted(flow.job.result(timeout=15)["children"].values()) == [0, 1, 2]
    assert sorted(grown.result(timeout=15)["children"].values()) == [0, 1]
    assert list(broken.job.result(timeout=15)["failed"].values()) == ["no"]
    eventually(lambda: sum(job.id.startswith("repeat:") for job in q.jobs("completed")) >= 2, 15, "two ticks")
    worker.stop()
    assert "slot" not in worker.log.lower(), worker.log


def test_the_operator_s_hand_on_a_cluster(cluster: Valkey, declare: Declare, live_worker: StartWorker) -> None:
    # conformance: C-180
    q, kids = (declare(name, prefix=PREFIX, connection=cluster.url) for name in ("q", "kids"))
    later = [q.add({"n": n}, delay="1h") for n in range(3)]
    q.pause()
    waiting = [q.add({"n": n}) for n in range(3)]
    flow = Flow(q, READ, children=[Flow(kids, {"n": 1})]).add()
    later[0].promote()
    later[1].change_delay("2h")
    waiting[0].change_priority(2)
    waiting[1].update_data({"changed": True})
    waiting[2].remove()
    q.promote_jobs()
    assert q.counts()["delayed"] == 0
    q.resume()
    q.set_global_concurrency(2)
    flow.children[0].job.remove()
    assert flow.job.state() == "waiting"  # released: its only child is gone
    worker = live_worker("--queue", "q", url=cluster.url, prefix=PREFIX)
    eventually(lambda: q.counts()["completed"] == 6, 15, "what was left has run")
    broken = q.add({"raise": "no"})
    eventually(lambda: broken.state() == "failed", 15, "failed")
    worker.stop()
    broken.retry()
    assert broken.state() == "waiting"
    assert q.drain() == 1
    assert len(q.clean("completed")) == 6
    q.obliterate(force=True)
    assert set(q.counts().values()) == {0}


def test_both_kinds_share_a_cluster(
    cluster: Valkey, cluster_node: Node, declare: Declare, live_worker: StartWorker
) -> None:
    # conformance: C-002 C-180
    bull = cluster_node.at(QueueKey(PREFIX, "q"))
    q = declare(prefix=PREFIX, connection=cluster.url)
    theirs = [bull.add({"n": n}) for n in range(20)]
    mine = [q.add({"n": n}) for n in range(20)]
    child = {"name": "kid", "queueName": "kids", "data": {"returns": "up"}}
    root = bull("addFlow", flow={"name": "root", "queueName": "q", "data": READ, "children": [child]})["id"]
    live_worker(url=cluster.url, prefix=PREFIX)
    bull("startLive")
    assert [job.result(timeout=15) for job in mine] == [{"n": n} for n in range(20)]
    eventually(lambda: all(bull.state(job_id) == "completed" for job_id in theirs), 15, "all are completed")
    eventually(lambda: bull.state(root) == "completed", 15, "the flow is run")
    assert list(bull.find(root)["returnvalue"]["children"].values()) == ["up"]
    assert bull("errors") == []
