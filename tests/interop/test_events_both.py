"""Events of both kinds of writer, read by both kinds of reader."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import TypeAdapter

import heavyq
from heavyq import Queue
from tests.support.eventually import eventually
from tests.support.fresh import forget_declarations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heavyq.bullmq.keys import QueueKey
    from heavyq.queue.stream import Event
    from tests.interop.node import NodeQueue
    from tests.support.valkey import Valkey

JobQueue = Queue[Any, Any]


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, q: QueueKey, valkey: Valkey) -> Iterator[JobQueue]:
    """The test's queue as a heavyq program sees it."""
    forget_declarations(monkeypatch)
    yield Queue(q.name, prefix=q.prefix, connection=valkey.url, payload=TypeAdapter(Any), result=TypeAdapter(Any))
    heavyq.close()


def read(jobs: JobQueue, since: Any, face: str) -> list[Event]:
    if face == "sync":
        return list(jobs.events(since=since, timeout=0))

    async def read() -> list[Event]:
        try:
            return [event async for event in jobs.aio.events(since=since, timeout=0)]
        finally:
            await heavyq.aclose()

    return asyncio.run(read())


@pytest.mark.parametrize("face", ["sync", "aio"])
def test_heavyq_reads_node_s_events(bull: NodeQueue, jobs: JobQueue, face: str) -> None:
    # conformance: C-173
    done = bull.add({"progress": {"at": [1, None]}, "text": "é ☃"}, attempts=1)
    failed = bull.add({"raise": 'no "é"'}, attempts=1)
    bull("startWorker")
    eventually(lambda: bull("counts")["failed"] + bull("counts")["completed"] == 2, 10, "both jobs have ended")
    bull("stopWorkers")
    delayed = bull.add({}, delay=3_600_000)
    bull("pause")
    bull("resume")
    bull("clean", grace=0, limit=10, state="failed")
    for _ in range(2 if bull.node.generation == "5" else 0):  # the second is `debounced` there, which we do not know
        bull.add({}, deduplication={"id": "once"})
    bull("publish", event="mine", fields={"jobId": "7", "data": "{no json"})

    events = read(jobs, "0", face)
    told = {job_id: [(event.name, event.data) for event in events if event.job_id == job_id] for job_id in (done, failed)}  # fmt: skip # noqa: E501
    assert told[done] == [
        ("added", {"name": "job"}),
        ("waiting", {}),
        ("active", {"prev": "waiting"}),
        ("progress", {"data": {"at": [1, None]}}),
        ("completed", {"returnvalue": {"progress": {"at": [1, None]}, "text": "é ☃"}, "prev": "active"}),
    ]
    assert told[failed][-2:] == [
        ("failed", {"failedReason": 'no "é"', "prev": "active"}),
        ("retries-exhausted", {"attemptsMade": 1}),
    ]
    (due,) = [event for event in events if event.name == "delayed"]
    assert due.data["delay"] == bull.find(delayed)["timestamp"] + 3_600_000
    of_the_queue = [(event.name, event.data) for event in events if event.job_id is None]
    assert {name for name, _ in of_the_queue} == {"drained", "paused", "resumed", "cleaned"}
    assert ("cleaned", {"count": 1}) in of_the_queue
    assert (events[-1].name, events[-1].job_id, events[-1].data) == ("mine", "7", {"data": "{no json"})
    if bull.node.generation == "5":
        assert [event.data["debounceId"] for event in events if event.name == "debounced"] == ["once"]

    middle = events[len(events) // 2]
    for since in (middle, middle.id):
        assert read(jobs, since, face) == events[len(events) // 2 + 1 :]
    moment = [event for event in events if event.at >= middle.at]
    assert read(jobs, middle.at, face) == moment


def test_node_reads_an_event_that_heavyq_made_up(bull: NodeQueue, jobs: JobQueue) -> None:
    # conformance: C-174
    bull("listen", event="mine")
    jobs.emit("mine", {"jobId": "7", "text": "é ☃"})
    eventually(lambda: len(bull("events")) > 0, 5, "Node has seen it")
    assert bull("events") == [["mine", {"jobId": "7", "text": "é ☃"}]]


def test_node_reads_every_event_of_what_heavyq_does(bull: NodeQueue, jobs: JobQueue) -> None:
    bull("startEvents")
    job = jobs.add({"x": 1}, delay="1h", job_id="own")
    jobs.add({"x": 1}, job_id="own")
    jobs.pause()
    jobs.resume()
    job.promote()
    job.remove()
    eventually(lambda: ["removed", {"jobId": "own", "prev": "wait"}] in bull("events"), 5, "Node has seen them all")
    names = [name for name, _ in bull("events")]
    assert names == ["added", "delayed", "duplicated", "paused", "resumed", "waiting", "removed"]
