"""Queues in event loops: waiting, cancelling, several loops, loops that end, forks, Redis away.

What both faces have in common is tested with them, in test_producers and test_operators.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import heavyq
from heavyq import AddUnknown, Model, Queue, RedisRefused, RedisUnavailable, ResultGone
from heavyq.bullmq.options import Keep as WireKeep
from heavyq.queue import connection
from heavyq.store import aclient
from tests.support.eventually import aeventually, eventually, steps
from tests.support.fresh import forget_declarations
from tests.support.ops import Rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from heavyq.bullmq.keys import QueueKey
    from heavyq.store.aclient import AsyncClient
    from heavyq.store.client import Client
    from tests.support.valkey import Valkey


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    forget_declarations(monkeypatch)
    yield
    heavyq.close()
    assert connection._async_clients == {}


@pytest.fixture
def queue(valkey: Valkey, q: QueueKey) -> Queue[dict[str, Any], Any]:
    return Queue(q.name, prefix=q.prefix, connection=valkey.url)


@pytest.fixture
def rig(client: Client, raw: redis.Redis, q: QueueKey) -> Rig:
    rig = Rig(client, raw, q)
    rig.now = time.time_ns() // 1_000_000
    return rig


def client_of_the_loop() -> AsyncClient:
    (client,) = connection._async_clients[asyncio.get_running_loop()].values()
    return client


def complete(rig: Rig, value: bytes = b"1") -> None:
    lease = rig.lease()
    assert rig.settle("complete", lease, returnvalue=value, keep=WireKeep(count=0)) == "settled"


# ---- waiting ----


def test_many_wait_for_results_on_one_connection_and_the_loop_goes_on(
    queue: Queue[dict[str, Any], Any], rig: Rig
) -> None:
    async def main() -> list[Any]:
        jobs = await queue.aio.add_bulk([{"n": n} for n in range(300)])
        waits = [asyncio.create_task(job.result(timeout=30)) for job in jobs]
        watches = client_of_the_loop()._watches
        await aeventually(lambda: rig.q in watches and len(watches[rig.q]._waiters) == 300)
        await aeventually(lambda: rig.raw.info("clients")["blocked_clients"] == 1)
        waits[0].cancel()  # whoever reads for the others may go

        def work() -> None:
            for n in range(300):
                complete(rig, str(n).encode())

        beats = 0

        def beat() -> None:
            nonlocal beats
            beats += 1
            asyncio.get_running_loop().call_later(0.001, beat)

        beat()
        await asyncio.to_thread(work)
        assert beats > 20
        results = await asyncio.gather(*waits, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        return results[1:]

    assert asyncio.run(main()) == list(range(1, 300))


def test_the_ends_of_jobs_that_are_gone_are_read_once_for_all_who_ask(
    queue: Queue[dict[str, Any], Any], rig: Rig
) -> None:
    jobs = queue.add_bulk([{}] * 200)
    for n in range(200):
        complete(rig, str(n).encode())

    async def main() -> list[Any]:
        results = [queue.aio.handle(job.id).result(timeout=20) for job in jobs]
        return await asyncio.gather(*results)

    def reads() -> int:
        return int(rig.raw.info("commandstats").get("cmdstat_xread", {"calls": 0})["calls"])

    before = reads()
    assert asyncio.run(main()) == list(range(200))
    # One for each value, and the places: the whole stream once, then its end for each.
    assert reads() - before < 420


def test_one_who_waits_out_of_time_leaves_the_others_waiting(queue: Queue[dict[str, Any], Any], rig: Rig) -> None:
    async def main() -> Any:
        hasty, patient = await queue.aio.add_bulk([{}, {}])
        both = [asyncio.create_task(hasty.result(timeout=0.1)), asyncio.create_task(patient.result(timeout=20))]
        with pytest.raises(TimeoutError, match="it is waiting"):
            await both[0]
        complete(rig, b"1")
        complete(rig, b"2")
        return await both[1]

    assert asyncio.run(main()) == 2


def test_a_wait_can_be_given_up_by_asyncio_s_own_timeout(queue: Queue[dict[str, Any], Any], rig: Rig) -> None:
    async def main() -> None:
        job = await queue.aio.add({})
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await job.result()
        complete(rig, b"7")
        assert await job.result(timeout=5) == 7
        with pytest.raises(ResultGone):
            await queue.aio.handle("never").result(timeout=5)

    asyncio.run(main())


# ---- many at once ----


def test_thousands_of_adds_at_once_share_a_few_connections(queue: Queue[dict[str, Any], Any], rig: Rig) -> None:
    async def main() -> set[str]:
        jobs = await asyncio.gather(*(queue.aio.add({}) for _ in range(2000)))
        assert rig.raw.info("clients")["connected_clients"] < 100
        return {job.id for job in jobs}

    assert len(asyncio.run(main())) == 2000


# ---- cancelling ----


@pytest.mark.parametrize("idle_s", [0.05, -1])  # as it is; and each connection is looked at before its use
def test_tasks_that_are_cancelled_at_any_moment_leave_sane_connections(
    queue: Queue[dict[str, Any], Any], monkeypatch: pytest.MonkeyPatch, idle_s: float
) -> None:
    monkeypatch.setattr(aclient, "_IDLE_S", idle_s)

    async def main() -> None:
        await queue.aio.add({})
        for n in range(120):
            task = asyncio.create_task(queue.aio.add({"n": n}))
            await steps(n % 12)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            job = await queue.aio.add({"after": n})
            assert (await queue.aio.get_job(job.id)).data == {"after": n}  # type: ignore[union-attr]
        client = client_of_the_loop()
        assert len(client._plain._idle) == 1
        assert client._plain._busy == set()

    asyncio.run(main())


# ---- loops ----


def test_a_loop_that_is_run_to_its_end_closes_its_connections(valkey: Valkey, prefix: str) -> None:
    queue = Queue("v", prefix=prefix, connection=valkey.url)
    for n in range(3):  # ResourceWarnings are errors here
        asyncio.run(queue.aio.add({}))
        assert queue.counts()["waiting"] == n + 1
    gc.collect()


def test_a_loop_that_was_only_closed_is_cleared_up_silently(valkey: Valkey, prefix: str) -> None:
    queue = Queue("v", prefix=prefix, connection=valkey.url)
    for _ in range(2):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(queue.aio.add({}))
        loop.close()
        del loop
        assert len(connection._async_clients) == 1  # that of the loop before went
    heavyq.close()
    gc.collect()
    assert connection._async_clients == {}


def test_what_a_closed_loop_leaves_is_silent_at_the_end_of_the_program(valkey: Valkey, prefix: str) -> None:
    import subprocess
    import sys

    program = (
        "import asyncio, sys\nfrom heavyq import Queue\n"
        "queue = Queue('v', prefix=sys.argv[2], connection=sys.argv[1])\n"
        "loop = asyncio.new_event_loop()\nloop.run_until_complete(queue.aio.add({}))\nloop.close()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, valkey.url, prefix], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_loop_that_runs_now_and_then_notices_what_happened_meanwhile(own_valkey: Callable[..., Valkey]) -> None:
    server = own_valkey(aof=True)
    heavyq.connect(server.url)
    queue = Queue("v")
    with asyncio.Runner() as runner:
        runner.run(queue.aio.add({}))
        server.restart()
        runner.run(queue.aio.add({}))
        server.restart()
        assert runner.run(queue.aio.counts())["waiting"] == 2
        runner.run(heavyq.aclose())


def test_after_aclose_the_next_use_connects_anew(queue: Queue[dict[str, Any], Any]) -> None:
    async def main() -> int:
        await queue.aio.add({})
        old = client_of_the_loop()
        await heavyq.aclose()
        await heavyq.aclose()
        with pytest.raises(RedisUnavailable, match="closed"):
            await old.client_list()
        await queue.aio.add({})
        return (await queue.aio.counts())["waiting"]

    assert asyncio.run(main()) == 2


def test_each_thread_s_loop_has_its_own_connections(queue: Queue[dict[str, Any], Any]) -> None:
    async def add_some() -> None:
        await asyncio.gather(*(queue.aio.add({}) for _ in range(50)))

    threads = [threading.Thread(target=lambda: asyncio.run(add_some())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert queue.counts()["waiting"] == 200


@pytest.mark.parametrize("loop_goes_on", [True, False])
def test_a_forked_process_has_connections_of_its_own(
    queue: Queue[dict[str, Any], Any], rig: Rig, loop_goes_on: bool
) -> None:
    def child() -> int:
        asyncio.run(queue.aio.add({"child": 1}))
        asyncio.run(queue.aio.add({"child": 2}))
        gc.collect()
        return 0

    def fork() -> int:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = child()
            finally:
                os._exit(code)
        return os.waitpid(pid, 0)[1]

    async def main() -> None:
        await queue.aio.add({})
        if loop_goes_on:
            thread = asyncio.to_thread(fork)  # of a thread without a loop, while this one runs
            assert await thread == 0
            await queue.aio.add({})
            assert (await queue.aio.counts())["waiting"] == 4

    with asyncio.Runner() as runner:
        runner.run(main())
        if not loop_goes_on:
            assert fork() == 0
            runner.run(queue.aio.add({}))
    assert queue.counts()["waiting"] == 4


# ---- Redis away ----


def test_a_server_that_does_not_answer_makes_an_add_unknown(own_valkey: Callable[..., Valkey]) -> None:
    server = own_valkey()
    heavyq.connect(server.url, timeout="300ms")
    queue = Queue("v")

    async def both_are_there() -> bool:
        return (await queue.aio.counts())["waiting"] == 2

    async def main() -> None:
        await queue.aio.add({})
        server.pause()
        try:
            started_s = time.monotonic()
            with pytest.raises(AddUnknown, match=r"may be in queue 'v'"):
                await queue.aio.add({})
            with pytest.raises(RedisUnavailable) as caught:  # no connection is had any more, so nothing is sent
                await queue.aio.add_bulk([{}, {}])
            assert not isinstance(caught.value, AddUnknown)
            assert time.monotonic() - started_s < 3
        finally:
            server.resume()
        await aeventually(both_are_there)

    asyncio.run(main())


def test_a_server_that_hangs_fails_all_who_wait_for_it_at_once(own_valkey: Callable[..., Valkey]) -> None:
    server = own_valkey()
    heavyq.connect(server.url, timeout="500ms")
    queue = Queue("v")

    async def main() -> None:
        await queue.aio.add({})
        server.pause()
        started_s = time.monotonic()
        answers = await asyncio.gather(*(queue.aio.add({}) for _ in range(500)), return_exceptions=True)
        server.resume()
        assert {type(answer) for answer in answers} == {AddUnknown, RedisUnavailable}
        assert time.monotonic() - started_s < 2

    asyncio.run(main())


def test_a_server_that_is_not_there_is_unavailable_and_comes_back(own_valkey: Callable[..., Valkey]) -> None:
    server = own_valkey(aof=True)
    heavyq.connect(server.url)
    queue = Queue("v")

    async def main() -> None:
        await asyncio.gather(*(queue.aio.add({}) for _ in range(5)))
        server.stop()
        with pytest.raises(RedisUnavailable) as caught:
            await queue.aio.add({})
        server.start()
        assert not isinstance(caught.value, AddUnknown)
        await queue.aio.add({})
        assert (await queue.aio.counts())["waiting"] == 6

    asyncio.run(main())


def test_a_restart_in_the_middle_of_a_wait_is_sat_out(own_valkey: Callable[..., Valkey]) -> None:
    from heavyq.bullmq.keys import QueueKey
    from heavyq.store.client import Client

    server = own_valkey(aof=True)
    heavyq.connect(server.url)
    queue = Queue("v")
    client = Client(server.url)

    def restart_and_complete() -> None:
        with server.redis() as raw:
            eventually(lambda: raw.info("clients")["blocked_clients"] == 1, 5, "it waits")
        server.restart()
        with server.redis() as raw:
            complete(Rig(client, raw, QueueKey("bull", "v")), b"42")
            complete(Rig(client, raw, QueueKey("bull", "v")), b"43")

    async def main() -> list[Any]:
        jobs = await queue.aio.add_bulk([{}, {}])
        restart = asyncio.create_task(asyncio.to_thread(restart_and_complete))
        results = await asyncio.gather(*(job.result(timeout=30) for job in jobs))
        await restart
        return results

    assert asyncio.run(main()) == [42, 43]
    client.close()


def test_a_wrong_password_is_refused(own_valkey: Callable[..., Valkey]) -> None:
    server = own_valkey(password="right")
    queue = Queue("v", connection=server.url.replace("right", "wrong"))
    with pytest.raises(RedisRefused, match="password"):
        asyncio.run(queue.aio.add({}))


def test_a_unix_socket_will_do(own_valkey: Callable[..., Valkey]) -> None:
    queue = Queue("v", connection=own_valkey(unix=True).url)

    async def main() -> Any:
        job = await queue.aio.add({"n": 1})
        return (await queue.aio.get_job(job.id)).data  # type: ignore[union-attr]

    assert asyncio.run(main()) == {"n": 1}


def test_scripts_that_the_server_forgot_are_loaded_again(own_valkey: Callable[..., Valkey]) -> None:
    server = own_valkey()
    heavyq.connect(server.url)
    queue = Queue("v")

    async def main() -> None:
        await queue.aio.add({})
        with server.redis() as raw:
            raw.script_flush()
        assert [job.id for job in await queue.aio.add_bulk([{}, {}])] == ["2", "3"]

    asyncio.run(main())


def test_what_is_wrong_with_a_payload_is_said_before_anything_connects(prefix: str) -> None:
    class Video(Model):
        video_id: str

    queue = Queue("v", payload=Video, prefix=prefix, connection="redis://127.0.0.1:1")
    with pytest.raises(heavyq.PayloadError, match="video_id"):
        asyncio.run(queue.aio.add({"video": 1}))  # type: ignore[call-overload]
    with pytest.raises(RedisUnavailable):
        asyncio.run(queue.aio.add(Video(video_id="v")))


# ---- with a worker ----

APP = """
    import asyncio
    from heavyq import Queue, WaitForChildren

    q, kids = Queue("q"), Queue("kids")

    @q.processor
    async def run(job):
        if job.data.get("slow"):
            await asyncio.sleep(60)
        done = job.children_values()
        if not done:
            for n in range(3):
                await kids.aio.add({"n": n}, parent=job)
            raise WaitForChildren
        return sorted(done.values())

    @kids.processor
    def kid(job):
        return job.data["n"]

    @q.on("completed", "failed")
    async def tell(event):
        await kids.aio.emit("told", {"name": event.name})
"""


@pytest.mark.long
def test_jobs_and_hooks_in_a_child_s_loop_use_queues_too(
    run_worker: Callable[..., Any], queue: Queue[dict[str, Any], Any], prefix: str, valkey: Valkey
) -> None:
    run_worker(APP, "-c", "2")
    kids = Queue("kids", prefix=prefix, connection=valkey.url)

    async def main() -> None:
        job = await queue.aio.add({})
        assert await job.result(timeout=20) == [0, 1, 2]
        slow = await queue.aio.add({"slow": True})

        async def runs() -> bool:
            return await slow.state() == "active"

        await aeventually(runs)
        assert len(await queue.aio.workers()) == 1
        assert await slow.cancel("enough") is False
        with pytest.raises(heavyq.JobFailed, match="enough") as caught:
            await slow.result(timeout=20)
        assert caught.value.reason == "cancelled"
        told = []
        async for event in kids.aio.events(since="0", timeout=10):
            told += [event.data["name"]] if event.name == "told" else []
            if len(told) == 2:
                break
        assert told == ["completed", "failed"]

    asyncio.run(main())
