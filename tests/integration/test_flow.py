"""Flows on a real server: what a tree leaves behind, how a parent comes to run, and that it is all or nothing."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest

import heavyq
from heavyq import AddUnknown, Model, Queue, RedisUnavailable
from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.options import Keep as WireKeep
from heavyq.errors import BadValue, HasAnotherParent, NoSuchParent, PayloadError
from heavyq.queue.ahandle import AsyncJobHandle
from heavyq.queue.flow import Flow
from heavyq.queue.handle import JobHandle
from tests.support.fresh import forget_declarations
from tests.support.ops import Rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from heavyq.store.client import Client
    from tests.support.valkey import Valkey


class Video(Model):
    video_id: str


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    forget_declarations(monkeypatch)
    yield
    heavyq.close()


@pytest.fixture
def queue(valkey: Valkey, q: QueueKey) -> Queue:
    return Queue(q.name, prefix=q.prefix, connection=valkey.url)


@pytest.fixture
def videos(valkey: Valkey, prefix: str) -> Queue[Video, Any]:
    return Queue("videos", payload=Video, prefix=prefix, connection=valkey.url)


@pytest.fixture
def rig(client: Client, raw: redis.Redis, q: QueueKey) -> Rig:
    return Rig(client, raw, q)


@pytest.fixture
def videos_rig(client: Client, raw: redis.Redis, prefix: str) -> Rig:
    return Rig(client, raw, QueueKey(prefix, "videos"))


def members(rig: Rig, suffix: str) -> set[str]:
    return {each.decode() for each in rig.raw.smembers(rig.key(suffix))}


def nothing_below(rig: Rig) -> bool:
    return not list(rig.raw.scan_iter(f"{rig.q.prefix}:*"))


def test_a_tree_is_stored_as_a_bullmq_producer_would(
    rig: Rig, videos_rig: Rig, queue: Queue, videos: Queue[Video, Any]
) -> None:
    node = Flow(
        queue,
        "complete",
        {"course": 1},
        priority=3,
        children=[
            Flow(videos, Video(video_id="v1"), fail_parent_on_failure=True, attempts=5),
            Flow(videos, "clip", Video(video_id="v2"), job_id="mine", delay="1h"),
        ],
    ).add()
    top, (one, two) = node.job, node.children
    assert (top.name, top.data, one.job.name, one.job.data, two.job.name) == (
        "complete", {"course": 1}, "process", Video(video_id="v1"), "clip",
    )  # fmt: skip
    assert [uuid.UUID(job_id).version for job_id in (top.id, one.job.id)] == [4, 4]
    assert (two.job.id, two.job.added, two.children) == ("mine", True, ())

    assert list(rig.zset("waiting-children")) == [top.id]
    assert (rig.list("wait"), rig.zset("prioritized"), rig.zset("marker")) == ([], {}, {})
    assert members(rig, f"{top.id}:dependencies") == {videos_rig.key(one.job.id), videos_rig.key("mine")}
    assert videos_rig.list("wait") == [one.job.id]
    assert list(videos_rig.zset("delayed")) == ["mine"]

    stored = videos_rig.hash(one.job.id)
    assert stored["parentKey"] == rig.key(top.id)
    assert json.loads(stored["parent"]) == {"id": top.id, "queueKey": str(rig.q), "fpof": True}
    opts = json.loads(stored["opts"])
    assert opts["parent"] == {"id": top.id, "queue": str(rig.q)}
    assert (opts["attempts"], opts["fpof"]) == (5, True)
    assert "jobId" not in opts
    assert json.loads(videos_rig.hash("mine")["opts"])["jobId"] == "mine"
    assert set(rig.hash(top.id)) == {"name", "data", "opts", "timestamp", "delay", "priority"}
    assert [event["event"] for event in rig.events()] == ["added", "waiting-children"]


def test_the_levels_are_added_from_the_top_down(rig: Rig, queue: Queue) -> None:
    def flow(n: int, *children: Flow) -> Flow:
        return Flow(queue, {"n": n}, children=children)

    node = flow(1, flow(2, flow(4), flow(5, flow(7))), flow(3, flow(6))).add()
    waiting = [json.loads(rig.hash(job_id)["data"])["n"] for job_id in reversed(rig.list("wait"))]
    assert waiting == [4, 6, 7]
    added = [json.loads(rig.hash(event["jobId"])["data"])["n"] for event in rig.events() if event["event"] == "added"]
    assert added == [1, 2, 3, 4, 5, 6, 7]

    def numbers(node: Any) -> list[Any]:
        return [node.job.data["n"], *map(numbers, node.children)]

    assert numbers(node) == [1, [2, [4], [5, [7]]], [3, [6]]]


def test_a_parent_runs_when_its_children_are_done(rig: Rig, queue: Queue) -> None:
    node = Flow(queue, {"top": True}, children=[Flow(queue, {"n": n}) for n in range(2)]).add()
    for n in range(2):
        lease = rig.lease()
        assert lease.job_id == node.children[n].job.id
        rig.settle("complete", lease, returnvalue=str(n).encode(), keep=WireKeep(count=0))
    assert rig.lease().job_id == node.job.id
    values = rig.hash(f"{node.job.id}:processed")
    assert values == {rig.key(child.job.id): str(n) for n, child in enumerate(node.children)}


def test_a_child_that_had_ended_before_releases_its_parent_after_the_whole_insert(rig: Rig, queue: Queue) -> None:
    rig.add(job_id="done")
    rig.settle("complete", rig.lease(), returnvalue=b'"before"')
    node = Flow(queue, {}, children=[Flow(queue, {}, job_id="done")]).add()
    assert (node.children[0].job.added, node.job.added) == (False, True)
    assert rig.list("wait") == [node.job.id]
    assert rig.hash(f"{node.job.id}:processed") == {rig.key("done"): '"before"'}
    both = Flow(queue, {}, children=[Flow(queue, {}, job_id="done2"), Flow(queue, {}, job_id="done2")]).add()
    assert members(rig, f"{both.job.id}:dependencies") == {rig.key("done2")}
    assert [child.job.added for child in both.children] == [True, False]


def test_a_flow_hangs_below_a_job_that_is_there(rig: Rig, queue: Queue) -> None:
    top = Flow(queue, {"top": True}, children=[Flow(queue, {})]).add().job
    node = Flow(queue, {}, parent=top, continue_parent_on_failure=True, children=[Flow(queue, {})]).add()
    assert rig.key(node.job.id) in members(rig, f"{top.id}:dependencies")
    assert json.loads(rig.hash(node.job.id)["parent"]) == {"id": top.id, "queueKey": str(rig.q), "cpof": True}


def test_below_a_job_that_is_not_there_nothing_is_added(rig: Rig, queue: Queue) -> None:
    nobody = JobHandle[Any, Any](queue._link, "nobody")
    with pytest.raises(NoSuchParent, match=r":nobody"):
        Flow(queue, {}, parent=nobody, children=[Flow(queue, {}, children=[Flow(queue, {})])]).add()
    assert set(rig.dump()) <= {"meta", "id"}


def test_a_top_that_is_there_and_is_refused_gets_no_children(rig: Rig, queue: Queue) -> None:
    one, two = (Flow(queue, {}, children=[Flow(queue, {})], job_id=name).add().job for name in ("p1", "p2"))

    def below(parent: JobHandle) -> Flow:
        return Flow(queue, {}, job_id="top", parent=parent, children=[Flow(queue, {})])

    assert below(one).add().job.added
    before = rig.dump()
    with pytest.raises(HasAnotherParent, match=f"job top is the child of {rig.key('p1')}, and stays so"):
        below(two).add()
    with pytest.raises(NoSuchParent, match=":nobody"):
        below(JobHandle(queue._link, "nobody")).add()
    assert rig.dump() == before
    assert not below(one).add().job.added  # its own parent again
    assert len(members(rig, "top:dependencies")) == 2
    rig.raw.delete(rig.key("p1"))
    assert not below(two).add().job.added  # the other one is gone
    assert json.loads(rig.hash("top")["parent"])["id"] == "p2"


def test_a_flow_may_be_added_again_and_is_another(rig: Rig, queue: Queue) -> None:
    flow = Flow(queue, {}, children=[Flow(queue, {})])
    assert flow.add().job.id != flow.add().job.id
    assert len(rig.zset("waiting-children")) == len(rig.list("wait")) == 2


def test_a_flow_without_children_is_an_add_like_another(rig: Rig, queue: Queue) -> None:
    node = Flow(queue, {"x": 1}, deduplication="once").add()
    again = Flow(queue, {"x": 2}, deduplication="once").add()
    assert (again.job.id, again.job.added, again.children) == (node.job.id, False, ())
    assert rig.list("wait") == [node.job.id]


def test_what_is_wrong_at_the_bottom_adds_nothing_at_the_top(rig: Rig, queue: Queue, videos: Queue[Video, Any]) -> None:
    deep: Any = Flow(videos, {"video": 1})  # type: ignore[arg-type]
    for _ in range(3):
        deep = Flow(queue, {}, children=[Flow(queue, {}), deep])
    with pytest.raises(PayloadError):
        deep.add()
    assert nothing_below(rig)


def test_a_flow_lives_in_one_redis(rig: Rig, queue: Queue, own_valkey: Callable[..., Valkey], prefix: str) -> None:
    elsewhere = Queue("elsewhere", prefix=prefix, connection=own_valkey().url)
    flow = Flow(queue, {}, children=[Flow(elsewhere, {})])
    with pytest.raises(BadValue, match=r"Flow in queue 'q': the queues 'q', 'elsewhere' live in more than one Redis"):
        flow.add()
    with pytest.raises(BadValue, match="live in more than one Redis"):
        asyncio.run(_add(flow))
    assert nothing_below(rig)


async def _add(flow: Flow[Any, Any]) -> Any:
    try:
        return await flow.aio.add()
    finally:
        await heavyq.aclose()


def test_queues_of_several_prefixes_may_be_one_flow(valkey: Valkey, prefix: str, raw: redis.Redis) -> None:
    one, two = (Queue("same", prefix=f"{prefix}:{n}", connection=valkey.url) for n in "ab")
    node = Flow(one, {}, children=[Flow(two, {})]).add()
    assert raw.smembers(f"{prefix}:a:same:{node.job.id}:dependencies") == {
        f"{prefix}:b:same:{node.children[0].job.id}".encode()
    }


def test_wide_and_deep_flows(rig: Rig, queue: Queue) -> None:
    wide = Flow(queue, {}, children=[Flow(queue, {"n": n}) for n in range(1000)]).add()
    assert rig.list("wait")[::-1] == [child.job.id for child in wide.children]
    deep = Flow(queue, {})
    for _ in range(1500):  # deeper than Python calls may be nested
        deep = Flow(queue, {}, children=[deep])
    node: Any = deep.add()
    while node.children:
        (node,) = node.children
    assert rig.list("wait")[0] == node.job.id


def test_an_event_loop_adds_the_same_tree(rig: Rig, queue: Queue, videos: Queue[Video, Any], videos_rig: Rig) -> None:
    flow = Flow(queue, {}, children=[Flow(videos, Video(video_id="v")), Flow(queue, {"x": 1})])
    node = asyncio.run(_add(flow))
    assert isinstance(node.job, AsyncJobHandle)
    assert node.children[0].job.data == Video(video_id="v")
    assert members(rig, f"{node.job.id}:dependencies") == {
        videos_rig.key(node.children[0].job.id),
        rig.key(node.children[1].job.id),
    }


def test_a_server_that_does_not_answer_makes_a_flow_unknown(own_valkey: Callable[..., Valkey]) -> None:
    server = own_valkey()
    heavyq.connect(server.url, timeout="300ms")
    queue = Queue("v")
    flow = Flow(queue, {}, children=[Flow(queue, {})])
    flow.add()
    server.pause()
    try:
        with pytest.raises(AddUnknown, match=r"any of the 2 jobs may be in queue 'v' or not"):
            flow.add()
    finally:
        server.resume()


def test_a_server_that_is_not_there_has_added_nothing(own_valkey: Callable[..., Valkey]) -> None:
    server = own_valkey()
    queue = Queue("v", connection=server.url)

    def while_down() -> None:
        with pytest.raises(RedisUnavailable) as caught:
            Flow(queue, {}, children=[Flow(queue, {})]).add()
        assert not isinstance(caught.value, AddUnknown)

    server.restart(while_down=while_down)
