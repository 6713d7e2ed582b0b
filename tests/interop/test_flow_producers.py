"""Flows added by heavyq's producers: Node reads the tree, and Node's workers run it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import TypeAdapter

import heavyq
from heavyq import Queue
from heavyq.bullmq.keys import QueueKey
from heavyq.queue.flow import Flow
from tests.support.eventually import eventually
from tests.support.fresh import forget_declarations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.interop.node import Node, NodeQueue
    from tests.support.valkey import Valkey

JobQueue = Queue[Any, Any]


@pytest.fixture
def courses(monkeypatch: pytest.MonkeyPatch, q: QueueKey, valkey: Valkey) -> Iterator[JobQueue]:
    """The test's queue as a heavyq program sees it."""
    forget_declarations(monkeypatch)
    yield Queue(q.name, prefix=q.prefix, connection=valkey.url, payload=TypeAdapter(Any), result=TypeAdapter(Any))
    heavyq.close()


@pytest.fixture
def videos(courses: JobQueue, prefix: str, valkey: Valkey) -> JobQueue:
    return Queue("videos", prefix=prefix, connection=valkey.url, payload=TypeAdapter(Any), result=TypeAdapter(Any))


@pytest.fixture
def node_videos(node: Node, prefix: str) -> Iterator[NodeQueue]:
    queue = node.at(QueueKey(prefix, "videos"))
    yield queue
    errors = queue("errors")
    queue("close")
    assert errors == []


async def _aio_add(flow: Flow[Any, Any]) -> Any:
    try:
        return await flow.aio.add()
    finally:
        await heavyq.aclose()


@pytest.mark.parametrize("face", ["sync", "aio"])
def test_node_reads_and_runs_a_flow_by_heavyq(
    bull: NodeQueue, node_videos: NodeQueue, courses: JobQueue, videos: JobQueue, face: str
) -> None:
    # conformance: C-126
    keep: dict[str, Any] = {"remove_on_complete": False}
    flow = Flow(
        courses,
        "complete",
        {"course": "é"},
        **keep,
        children=[
            Flow(videos, "clip", {"n": 1}, **keep),
            Flow(courses, "part", None, **keep, children=[Flow(videos, "clip", [1, None], job_id="mine", **keep)]),
        ],
    )
    node = asyncio.run(_aio_add(flow)) if face == "aio" else flow.add()
    clip, part = node.children
    (mine,) = part.children
    q = bull.q

    def leaf(job: Any, state: str) -> dict[str, Any]:
        return {"id": job.id, "queue": "videos", "name": "clip", "state": state, "children": []}

    def tree(state: str, below: str) -> dict[str, Any]:
        inner = [leaf(mine.job, below)]
        children = [
            leaf(clip.job, below),
            {"id": part.job.id, "queue": q.name, "name": "part", "state": state, "children": inner},
        ]
        children.sort(key=lambda child: child["id"])
        return {"id": node.job.id, "queue": q.name, "name": "complete", "state": state, "children": children}

    assert bull("tree", id=node.job.id) == tree("waiting-children", "waiting")
    bull("startFlowWorker")
    node_videos("startFlowWorker")
    values = {
        f"{q.prefix}:videos:{clip.job.id}": {"n": 1},
        q.key(part.job.id): {f"{q.prefix}:videos:mine": [1, None]},
    }
    assert courses.handle(node.job.id).result(timeout=15) == values  # what Node's worker read, and returned
    assert bull("childrenValues", id=node.job.id) == values
    assert bull("tree", id=node.job.id) == tree("completed", "completed")


@pytest.mark.parametrize(
    ("option", "becomes"),
    [
        ("fail_parent_on_failure", "failed"),
        ("continue_parent_on_failure", "completed"),
        ("ignore_dependency_on_failure", "completed"),
        ("remove_dependency_on_failure", "completed"),
    ],
)
def test_node_does_to_the_parent_what_the_child_s_option_says(
    bull: NodeQueue, courses: JobQueue, option: str, becomes: str
) -> None:
    options: dict[str, Any] = {option: True, "attempts": 1}
    node = Flow(courses, {"top": True}, children=[Flow(courses, {"raise": "no"}, **options)], remove_on_complete=False)
    job = node.add().job
    bull("startWorker")
    eventually(lambda: bull.state(job.id) == becomes, 10, f"the parent is {becomes}")
