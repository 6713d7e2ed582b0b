"""A live gRPC channel in the zygote: known by its threads, refused by name; a closed one is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.nest import Nest

pytestmark = pytest.mark.timeout(60)

APP = """
    import queue

    import grpc

    from heavyq import Queue, child_start

    q = Queue("q")


    @q.processor("dial")
    def dial(job):
        seen = queue.Queue()
        with grpc.insecure_channel("127.0.0.1:1") as channel:
            channel.subscribe(seen.put, try_to_connect=True)
            while (state := seen.get(timeout=5)) is grpc.ChannelConnectivity.IDLE:
                pass
        return state.value[1]


"""


LIVE = {
    "idle": """
    channel = grpc.insecure_channel("127.0.0.1:1")
    """,
    "used": """
    channel = grpc.insecure_channel("127.0.0.1:1")
    ready = grpc.channel_ready_future(channel)
    """,
    "asyncio": """
    import asyncio


    async def dial():
        return grpc.aio.insecure_channel("127.0.0.1:1")


    loop = asyncio.new_event_loop()
    channel = loop.run_until_complete(dial())
    """,
}

HARMLESS = {
    "imported": "",
    "closed": """
    channel = grpc.insecure_channel("127.0.0.1:1")
    channel.close()
    """,
    "used and closed": """
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        grpc.channel_ready_future(channel).cancel()
    del channel
    """,
    "opened in the child": """
    @child_start
    def dial():
        global channel
        channel = grpc.insecure_channel("127.0.0.1:1")


    """,
}


@pytest.mark.parametrize("text", LIVE.values(), ids=LIVE)
def test_a_live_channel_refuses_to_fork_and_is_named(nest: Callable[..., Nest], text: str) -> None:
    problem, _ = nest(APP + text).check(timeout_s=10.0)
    assert problem is not None
    assert problem.startswith("a gRPC channel (or server) is open")
    assert 'start_method="spawn"' in problem


@pytest.mark.parametrize("text", HARMLESS.values(), ids=HARMLESS)
def test_grpc_without_a_live_channel_is_no_hindrance(nest: Callable[..., Nest], text: str) -> None:
    home = nest(APP + text)
    assert home.check(timeout_s=10.0) == (None, "")
    assert home.child().ready().returned("dial") in {"connecting", "transient failure"}
