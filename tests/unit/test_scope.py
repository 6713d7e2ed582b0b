"""`job.scope` and `job.loop`: who belongs to a job on a loop, and the end of all of it. A real loop, no process."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import time
import weakref
from contextvars import ContextVar

import pytest

from heavyq.job.loop import ChildLoop
from heavyq.job.scope import Scope, current
from tests.support.eventually import aeventually


class Step:
    """Lets the loop go round once."""

    def __await__(self):
        yield


@pytest.fixture
def loop():
    loop = ChildLoop()
    yield loop
    if loop._runner is not None:
        loop._runner.close()


def test_what_a_job_starts_is_in_its_scope_and_what_others_start_is_not(loop):
    scope, seen = Scope(), {}

    async def below():
        seen["task"] = current()
        seen["thread"] = await asyncio.to_thread(current)
        seen["executor"] = await asyncio.get_running_loop().run_in_executor(None, current)

    async def job():
        async with asyncio.TaskGroup() as group:
            group.create_task(below())

    async def other():
        seen["other"] = current()

    loop.run(job(), scope)
    loop.run(other())
    assert seen == {"task": scope, "thread": scope, "executor": scope, "other": None}


def test_wrapped_coroutines_are_awaited_and_fail_as_their_own(loop):
    async def gives(value):
        await Step()
        return value

    async def fails():
        await Step()
        raise ValueError("bad")

    async def job():
        inner = asyncio.create_task(gives(2), name="mine")
        assert inner.get_name() == "mine"
        assert inspect.getcoroutinestate(inner.get_coro()) == inspect.CORO_CREATED  # anyio asks
        with pytest.raises(ValueError, match="bad"):
            await asyncio.create_task(fails())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.create_task(asyncio.Event().wait())
        return await asyncio.gather(gives(1), inner)

    assert loop.run(job(), Scope()) == [1, 2]


def test_cpu_of_one_job_is_not_the_others(loop):
    busy, idle = Scope(), Scope()

    async def burns():
        for _ in range(3):
            until_s = time.thread_time() + 0.01
            while time.thread_time() < until_s:
                pass
            await Step()

    async def waits(task):
        await asyncio.wait({task})

    async def both():
        await idle.start(waits(busy.start(burns())))

    loop.run(both())
    assert busy.cpu_s >= 0.03
    assert idle.cpu_s < 0.01


def test_end_cancels_tasks_and_those_they_start_in_their_own_end(loop):
    scope, ended = Scope(), []

    async def last():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("last")

    async def first():
        try:
            await asyncio.Event().wait()
        finally:
            asyncio.create_task(last())  # noqa: RUF006 - left on purpose
            await Step()
            ended.append("first")

    async def job():
        asyncio.create_task(first())  # noqa: RUF006 - left on purpose
        await Step()

    loop.run(job(), scope)
    assert loop.run(scope.end(5.0)) is True
    assert sorted(ended) == ["first", "last"]


def test_end_tells_of_a_task_that_stays_and_can_wait_again(loop):
    scope, gate = Scope(), asyncio.Event()

    async def stays():
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue

    async def job():
        asyncio.create_task(stays())  # noqa: RUF006 - left on purpose
        await Step()

    loop.run(job(), scope)
    assert loop.run(scope.end(0.01)) is False
    gate.set()
    assert loop.run(scope.end(5.0)) is True


def test_end_tells_of_a_thread_that_stays_and_cancels_what_has_not_begun(loop):
    scope, gate, begun = Scope(), threading.Event(), []

    def stays(n):
        begun.append(n)
        gate.wait(10)
        raise ValueError(n)

    async def job():
        works = [asyncio.get_running_loop().run_in_executor(None, stays, n) for n in range(50)]
        await aeventually(lambda: begun)
        return works

    works = loop.run(job(), scope)
    stayed = not loop.run(scope.end(0.01))
    gate.set()
    assert stayed
    assert loop.run(scope.end(5.0)) is True
    assert [work.cancelled() for work in works] == [n not in begun for n in range(50)]
    assert len(begun) < 50


def test_end_lets_a_task_use_a_thread_for_its_own_end(loop):
    scope, gate, ended = Scope(), threading.Event(), []

    async def fills_the_threads():
        for _ in range(50):
            asyncio.get_running_loop().run_in_executor(None, gate.wait, 10)

    async def quick():
        await asyncio.Event().wait()

    async def left():
        try:
            await asyncio.Event().wait()
        finally:
            asyncio.get_running_loop().call_later(0.02, gate.set)
            await asyncio.to_thread(ended.append, "in a thread")

    async def job():
        for work in (quick(), left()):
            asyncio.create_task(work)  # noqa: RUF006 - left on purpose
        await Step()

    loop.run(fills_the_threads())
    loop.run(job(), scope)
    assert loop.run(scope.end(5.0)) is True
    assert ended == ["in a thread"]


def test_end_closes_generators_that_somebody_still_holds(loop):
    scope, closed, held = Scope(), [], []

    async def numbers():
        try:
            yield 1
            yield 2
        finally:
            await Step()
            closed.append(True)

    async def job():
        held.append(numbers())
        return await anext(held[0])

    assert loop.run(job(), scope) == 1
    assert loop.run(scope.end(5.0)) is True
    assert closed == [True]


def test_exit_in_a_task_comes_out_and_leaves_the_loop_usable(loop):
    async def job():
        raise SystemExit(3)

    async def after():
        await Step()
        return "usable"

    with pytest.raises(SystemExit, match="3"):
        loop.run(job(), Scope())
    assert loop.run(after()) == "usable"


def test_the_loops_threads_are_known(loop):
    assert loop.threads == frozenset()

    async def ident():
        return await asyncio.to_thread(threading.get_ident)

    assert loop.run(ident()) in loop.threads


def test_what_a_job_had_in_its_context_goes_with_it_and_not_with_the_collector(loop):
    class Payload: ...

    kept: ContextVar[Payload] = ContextVar("kept")
    gone = []

    async def job():
        payload = Payload()
        gone.append(weakref.ref(payload))
        kept.set(payload)

    def one() -> None:
        scope = Scope()
        loop.run(job(), scope)
        loop.run(scope.end(1.0))
        gone.append(weakref.ref(scope))

    gc.disable()
    try:
        one()
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()
