"""Who waits for events in one loop: one reads for all, whoever leaves hands it on, and nothing is missed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from heavyq.errors import RedisUnavailable
from heavyq.store.trip import is_later
from heavyq.store.watch import Watch
from tests.support.eventually import aeventually, steps


class Stream:
    """A stream in memory. reads: how many reads of it block now, and how many there were."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, bytes]]] = []
        self.blocked = 0
        self.reads = 0
        self.error: Exception | None = None
        self.written = asyncio.Event()

    def write(self, job_id: str, event: str = "completed") -> None:
        fields = {"event": event.encode(), "jobId": job_id.encode()}
        self.events.append((f"1-{len(self.events) + 1}", fields))
        self.written.set()

    @property
    def last(self) -> str:
        return self.events[-1][0] if self.events else "0-0"

    def fail(self, error: Exception) -> None:
        self.error = error
        self.written.set()

    async def read(self, after: str, block_ms: int, count: int) -> list[Any]:
        self.reads += 1
        self.blocked += 1
        try:
            while not (found := [each for each in self.events if is_later(each[0], after)]) and block_ms:
                self.written.clear()
                async with asyncio.timeout(block_ms / 1000):
                    await self.written.wait()
                if self.error is not None:
                    error, self.error = self.error, None
                    raise error
        except TimeoutError:
            return []
        finally:
            self.blocked -= 1
        return found[:count]


def is_end(fields: dict[str, bytes]) -> bool:
    return fields["event"] == b"completed"


class Room:
    """A watch of a stream, and the tasks that wait by it."""

    def __init__(self) -> None:
        self.stream = Stream()
        self.watch = Watch(self.stream.read)

    def wait(self, job_id: str, timeout_s: float = 5.0, after: str | None = None) -> asyncio.Task[Any]:
        after = self.stream.last if after is None else after
        return asyncio.create_task(self.watch.wait(job_id, after, timeout_s, is_end))


def run(scene: Any) -> None:
    async def main() -> None:
        room = Room()
        await scene(room)
        assert room.watch._waiters == {}
        assert room.stream.blocked == 0

    asyncio.run(main())


def test_one_reads_for_all_and_each_gets_its_own() -> None:
    async def scene(room: Room) -> None:
        tasks = [room.wait(str(n)) for n in range(50)]
        await steps(3)
        assert room.stream.blocked == 1
        for n in reversed(range(50)):
            room.stream.write(str(n), "active")
            room.stream.write(str(n))
            await steps(3)
            assert room.stream.blocked <= 1
        assert [(await task)["jobId"] for task in tasks] == [str(n).encode() for n in range(50)]

    run(scene)


def test_the_reader_may_be_cancelled_and_another_goes_on() -> None:
    async def scene(room: Room) -> None:
        tasks = [room.wait(str(n)) for n in range(5)]
        for n in range(4):
            await aeventually(lambda: room.stream.blocked == 1)
            tasks[n].cancel()
            room.stream.write("other")
            await steps(5)
        room.stream.write("4")
        assert (await tasks[4])["jobId"] == b"4"
        assert [task.cancelled() for task in tasks] == [True] * 4 + [False]

    run(scene)


def test_the_one_who_was_to_read_on_may_leave_at_the_same_moment() -> None:
    async def scene(room: Room) -> None:
        reader, next_one, last = room.wait("a"), room.wait("b"), room.wait("c")
        await steps(3)
        reader.cancel()
        next_one.cancel()
        await aeventually(lambda: reader.done() and next_one.done())
        await aeventually(lambda: room.stream.blocked == 1)
        room.stream.write("c")
        assert (await last)["jobId"] == b"c"

    run(scene)


def test_who_is_out_of_time_gets_nothing_and_the_others_go_on() -> None:
    async def scene(room: Room) -> None:
        hasty, patient = room.wait("a", 0.02), room.wait("b")
        assert await hasty is None
        room.stream.write("b")
        assert (await patient)["jobId"] == b"b"
        assert await room.wait("a", 0) is None

    run(scene)


def test_an_error_is_everybody_s_and_the_next_try_reads_again() -> None:
    async def scene(room: Room) -> None:
        tasks = [room.wait(str(n)) for n in range(3)]
        await steps(3)
        room.stream.fail(RedisUnavailable("away"))
        for task in tasks:
            with pytest.raises(RedisUnavailable):
                await task
        again = room.wait("1")
        await steps(2)
        room.stream.write("1")
        assert (await again)["jobId"] == b"1"

    run(scene)


def test_what_was_read_for_others_before_one_came_is_caught_up() -> None:
    async def scene(room: Room) -> None:
        before = room.stream.last
        other = room.wait("other")
        await steps(2)
        for n in range(250):  # more than one read of the past
            room.stream.write(f"x{n}")
        room.stream.write("late")
        await aeventually(lambda: room.watch._position == room.stream.last)
        assert (await room.wait("late", after=before))["jobId"] == b"late"
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)

    run(scene)


def test_after_everybody_left_a_newcomer_begins_where_it_says() -> None:
    async def scene(room: Room) -> None:
        assert await room.wait("a", 0.01) is None
        room.stream.write("b")
        room.stream.write("a")
        before = room.stream.last
        assert await room.wait("a", 0.01, after=before) is None  # that end was seen before
        assert (await room.wait("a", after="1-1"))["jobId"] == b"a"

    run(scene)
