"""`job.hooks` in a child that is shared: no hook holds up the jobs beside it. A real loop, no process."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from heavyq import Queue
from heavyq.job import hooks, wire
from heavyq.job.loop import ChildLoop
from tests.support.fresh import forget_declarations

HEAD = {"run": 1, "queue": "q", "prefix": "bull", "id": "7", "event": "failed", "made": 1, "at_ms": 0}
PARTS = dict.fromkeys(wire.HOOK_PARTS, b"") | {b"name": b"work", b"data": b"{}"}


@pytest.fixture
def q(monkeypatch):
    forget_declarations(monkeypatch)
    return Queue("q")


@pytest.fixture
def loop():
    loop = ChildLoop()
    yield loop
    loop._runner.close()


def test_plain_hook_that_blocks_holds_nobody_up(q, loop):
    gate, seen = threading.Event(), []

    @q.on("failed")
    def waits(event):
        seen.append(gate.wait(5.0))

    async def beside():
        hook = asyncio.create_task(hooks.acall(HEAD, PARTS))
        await asyncio.wait({hook}, timeout=0.01)
        gate.set()  # it is set by who goes on meanwhile
        await hook

    loop.run(beside())
    assert seen == [True]


def test_hooks_of_one_event_have_one_time_together_and_what_is_late_is_logged(q, loop, caplog):
    seen = []

    @q.on("failed")
    async def hangs(event):
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("ended")

    @q.on("failed")
    async def comes_after(event):
        await asyncio.Event().wait()

    with caplog.at_level(logging.ERROR, "heavyq"):
        loop.run(hooks.acall(HEAD, PARTS, limit_s=0.02))
    assert seen == ["ended"]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    for message, name in zip(messages, ("hangs", "comes_after"), strict=True):
        assert message.startswith("@on('failed') ")
        assert message.endswith(f"{name} failed: its event's 0.02 s are over")


def test_only_the_events_own_hooks_are_called(q, loop):
    seen = []
    q.on("completed")(lambda event: seen.append("completed"))
    q.on("failed")(lambda event: seen.append(event.name))
    loop.run(hooks.acall(HEAD, PARTS))
    assert seen == ["failed"]
