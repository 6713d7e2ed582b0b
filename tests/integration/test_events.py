"""A queue's events on a real server: from now or from a place, in threads and in event loops, with Redis away."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

import heavyq
from heavyq import Queue, RedisUnavailable
from heavyq.bullmq import ops
from heavyq.errors import BadValue
from tests.support.eventually import eventually
from tests.support.fresh import forget_declarations
from tests.support.ops import Rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    import redis

    from heavyq.bullmq.keys import QueueKey
    from heavyq.queue.stream import Event
    from heavyq.store.client import Client
    from tests.support.valkey import Valkey


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    forget_declarations(monkeypatch)
    yield
    heavyq.close()


@pytest.fixture
def queue(valkey: Valkey, q: QueueKey) -> Queue:
    return Queue(q.name, prefix=q.prefix, connection=valkey.url)


@pytest.fixture
def rig(client: Client, raw: redis.Redis, q: QueueKey) -> Rig:
    return Rig(client, raw, q)


def a_jobs_life(rig: Rig) -> None:
    lease = rig.lease()
    rig.run(ops.progress(lease, b'{"frame":5}'))
    rig.settle("complete", lease, returnvalue=b'{"path":"/out"}')


async def of_loop(events: AsyncIterator[Event]) -> list[Event]:
    try:
        return [event async for event in events]
    finally:
        await heavyq.aclose()


def all_of(queue: Queue, since: Any, *, face: str) -> list[Event]:
    if face == "sync":
        return list(queue.events(since=since, timeout=0))

    async def read() -> list[Event]:
        return await of_loop(queue.aio.events(since=since, timeout=0))

    return asyncio.run(read())


@pytest.mark.parametrize("face", ["sync", "aio"])
def test_a_jobs_life_is_told_in_decoded_values(rig: Rig, queue: Queue, face: str) -> None:
    before = datetime.now(UTC)
    job_id = queue.add({}).id
    a_jobs_life(rig)
    events = all_of(queue, "0", face=face)
    assert [(event.name, event.job_id) for event in events] == [
        ("added", job_id),
        ("waiting", job_id),
        ("active", job_id),
        ("progress", job_id),
        ("completed", job_id),
        ("drained", None),
    ]
    assert events[3].data == {"data": {"frame": 5}}
    assert events[4].data == {"returnvalue": {"path": "/out"}, "prev": "active"}
    assert all(before - timedelta(seconds=1) <= event.at <= datetime.now(UTC) for event in events)


@pytest.mark.parametrize("face", ["sync", "aio"])
def test_reading_goes_on_after_an_event_its_id_or_a_moment(queue: Queue, face: str) -> None:
    queue.add_bulk([{}] * 150)  # more than are read at once
    events = all_of(queue, "0-0", face=face)
    assert len(events) == 300
    for since in (events[99], events[99].id):
        assert all_of(queue, since, face=face) == events[100:]
    later = all_of(queue, events[-1].at, face=face)
    assert later == [event for event in events if event.at >= events[-1].at]
    assert all_of(queue, datetime.now(UTC) + timedelta(hours=1), face=face) == []
    assert all_of(queue, None, face=face) == []


def test_what_comes_after_the_call_is_not_missed(queue: Queue) -> None:
    queue.add({})
    events = queue.events(timeout=5)
    job = queue.add({})
    assert next(events).job_id == job.id


def test_events_are_waited_for(rig: Rig, queue: Queue) -> None:
    seen: list[str] = []
    ended = threading.Event()

    def watch() -> None:
        for event in queue.events():
            seen.append(event.name)
            if event.name == "drained":
                break
        ended.set()

    thread = threading.Thread(target=watch)
    thread.start()
    eventually(lambda: blocked_readers(rig.raw) > 0, 5, "the reader waits")
    queue.add({})
    a_jobs_life(rig)
    assert ended.wait(5)
    thread.join()
    assert seen == ["added", "waiting", "active", "progress", "completed", "drained"]


def blocked_readers(raw: redis.Redis) -> int:
    return int(raw.info("clients")["blocked_clients"])


def test_the_end_comes_when_nothing_came_for_so_long(queue: Queue) -> None:
    assert list(queue.events(timeout="50ms")) == []
    with pytest.raises(BadValue, match="events"):
        queue.events(since="yesterday")


def test_what_others_write_is_delivered_and_what_nobody_can_read_is_passed_over(
    rig: Rig, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    stream = rig.key("events")
    rig.raw.xadd(stream, {"event": "mine", "jobId": "7", "payload": "{text"})
    rig.raw.xadd(stream, {"event": "completed", "jobId": "7", "returnvalue": "{no json"})
    rig.raw.xadd(stream, {"no": "event"})
    rig.raw.xadd(stream, {"event": "debounced", "jobId": "7", "debounceId": "d"})
    events = list(queue.events(since="0", timeout=0))
    assert [(event.name, event.data) for event in events] == [
        ("mine", {"payload": "{text"}),
        ("debounced", {"debounceId": "d"}),
    ]
    assert len([record for record in caplog.records if "is passed over" in record.getMessage()]) == 1


def test_a_stream_that_was_deleted_is_read_on(rig: Rig, queue: Queue) -> None:
    queue.add({})
    events = queue.events(since="0", timeout=5)
    assert [next(events).name, next(events).name] == ["added", "waiting"]
    rig.forget_events()
    job = queue.add({})
    assert next(events).job_id == job.id


def test_many_tasks_of_a_loop_watch_at_once_and_may_be_cancelled(queue: Queue, rig: Rig) -> None:
    async def first(name: str) -> Event:
        async for event in queue.aio.events(since="0"):
            if event.name == name:
                return event
        raise AssertionError("it never ends")

    async def watch() -> list[bool]:
        try:
            never = asyncio.create_task(first("never"))
            watchers = [asyncio.create_task(first("completed")) for _ in range(5)]
            job = await queue.aio.add({})
            await asyncio.to_thread(a_jobs_life, rig)
            found = await asyncio.wait_for(asyncio.gather(*watchers), 5)
            never.cancel()  # maybe just as it sends its next question
            await asyncio.wait([never], timeout=5)
            assert never.cancelled()
            assert (await queue.aio.counts())["active"] == 0
            return [event.job_id == job.id for event in found]
        finally:
            await heavyq.aclose()

    for _ in range(5):  # a cancellation that is lost is lost now and then
        rig.forget_events()
        assert asyncio.run(watch()) == [True] * 5


@pytest.mark.parametrize("face", ["sync", "aio"])
def test_a_restart_of_redis_is_sat_out(own_valkey: Callable[..., Valkey], face: str) -> None:
    server = own_valkey(aof=True)
    queue = Queue("v", connection=server.url)
    queue.add({})
    names = ["added", "waiting"]

    async def watch() -> list[str]:
        seen = []
        async for event in queue.aio.events(since="0", timeout=20):
            seen.append(event.name)
            if len(seen) == len(names):
                await asyncio.to_thread(server.restart)
                await asyncio.to_thread(queue.add, {})
            if len(seen) == 2 * len(names):
                break
        await heavyq.aclose()
        return seen

    if face == "aio":
        assert asyncio.run(watch()) == names * 2
        return
    events = queue.events(since="0", timeout=20)
    assert [next(events).name for _ in names] == names
    server.restart()
    queue.add({})
    assert [next(events).name for _ in names] == names


def test_a_timeout_is_not_outlived_by_an_outage(own_valkey: Callable[..., Valkey]) -> None:
    server = own_valkey()
    queue = Queue("v", connection=server.url)
    queue.add({})
    events = queue.events(since="0", timeout="200ms")
    assert [next(events).name for _ in range(2)] == ["added", "waiting"]

    def while_down() -> None:
        with pytest.raises(RedisUnavailable):
            next(events)

    server.restart(while_down=while_down)
