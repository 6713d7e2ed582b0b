"""The port of BullMQ for Python on PyPI, on one queue with heavyq: its producer and our worker, and the other way."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import TypeAdapter

import heavyq
from heavyq import JobFailed, Queue
from tests.interop.conftest import note_version
from tests.interop.node import HERE
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from heavyq.bullmq.keys import QueueKey
    from tests.support.ops import Rig
    from tests.support.valkey import Valkey
    from tests.support.worker import Worker

    StartWorker = Callable[..., Worker]

JobQueue = Queue[Any, Any]


class Port:
    """The package `bullmq` on the test's queue."""

    def __init__(self, package: Any, q: QueueKey, url: str) -> None:
        self._package, self._q = package, q
        self._options = {"connection": url, "prefix": q.prefix}

    def add(self, name: str, data: Any, **opts: Any) -> str:
        """Add one job, with BullMQ's own option names; return its id."""

        async def talk() -> str:
            queue = self._package.Queue(self._q.name, self._options)
            try:
                return str((await queue.add(name, data, opts)).id)
            finally:
                await queue.close()

        return asyncio.run(talk())

    def work(self, process: Callable[[Any, str], Coroutine[Any, Any, Any]], until: Callable[[], object]) -> None:
        """Run a worker of the package until something is so."""

        async def talk() -> None:
            worker = self._package.Worker(self._q.name, process, self._options)
            try:
                await asyncio.to_thread(eventually, until, 15, "what its worker was to do")
            finally:
                await worker.close()

        asyncio.run(talk())


@pytest.fixture
def port(request: pytest.FixtureRequest, q: QueueKey, valkey: Valkey) -> Port:
    try:
        import bullmq
    except ImportError:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip("no `bullmq` from PyPI: it comes with the extra `dev`")
    note_version(request.config, "bullmq from PyPI", importlib.metadata.version("bullmq"))
    return Port(bullmq, q, valkey.url)


@pytest.fixture
def jobs(q: QueueKey, valkey: Valkey) -> Iterator[JobQueue]:
    anything = TypeAdapter(Any)
    yield Queue(
        q.name, prefix=q.prefix, connection=valkey.url, payload=anything, result=anything, remove_on_complete=False
    )
    heavyq.close()


@pytest.fixture
def heavyq_worker(run_worker: StartWorker) -> StartWorker:
    text = (HERE / "app.py").read_text()
    return lambda *argv: run_worker(text, *argv)


def test_heavyq_runs_what_the_port_adds(port: Port, jobs: JobQueue, ours: Rig, heavyq_worker: StartWorker) -> None:
    values = [{"returns": 5}, {"returns": [1, None, "é ☃"], "progress": {"at": 1}, "rows": ["one"]}, {"a": {"b": []}}]
    ids = [port.add("echo", value) for value in values]
    first = port.add("first", {"returns": "lifo"}, lifo=True)
    urgent = port.add("urgent", {"returns": "priority"}, priority=1)
    later = port.add("later", {"returns": "delay"}, delay=300)
    assert [jobs.handle(each).state() for each in (ids[0], urgent, later)] == ["waiting", "prioritized", "delayed"]
    heavyq_worker("-c", "1")
    assert [jobs.handle(each).result(timeout=15) for each in ids] == [5, [1, None, "é ☃"], values[2]]
    assert [jobs.handle(each).result(timeout=15) for each in (first, urgent, later)] == ["lifo", "priority", "delay"]
    started = [int(ours.field(each, "processedOn") or 0) for each in (first, *ids, urgent)]
    assert started == sorted(started)


def test_heavyq_retries_what_the_port_adds(port: Port, jobs: JobQueue, ours: Rig, heavyq_worker: StartWorker) -> None:
    job_id = port.add("broken", {"raise": "no"}, attempts=3, backoff={"type": "fixed", "delay": 50})
    heavyq_worker()
    with pytest.raises(JobFailed, match="no"):
        jobs.handle(job_id).result(timeout=15)
    assert (ours.field(job_id, "ats"), ours.field(job_id, "atm")) == ("3", "3")


def test_the_port_runs_what_heavyq_adds(port: Port, jobs: JobQueue) -> None:
    seen: list[tuple[str, Any, int]] = []

    async def process(job: Any, token: str) -> Any:
        seen.append((job.name, job.data, job.attemptsMade))
        await job.updateProgress({"at": len(seen)})
        if "raise" in job.data:
            raise ValueError(job.data["raise"])
        return {"got": job.data}

    data = {"text": 'é "☃"', "deep": [1, {"er": None}]}
    done = jobs.add("echo", data)
    broken = jobs.add("broken", {"raise": "no luck"}, attempts=2, backoff=heavyq.fixed("50ms"))
    late, urgent = jobs.add("late", {}, delay=0.3), jobs.add("urgent", {}, priority=1)
    everything = (done, broken, late, urgent)
    port.work(process, lambda: all(job.state() in ("completed", "failed") for job in everything))
    assert done.result(timeout=1) == {"got": data}
    assert done.refresh().progress == {"at": 1}
    assert late.result(timeout=1) == urgent.result(timeout=1) == {"got": {}}
    with pytest.raises(JobFailed, match="no luck"):
        broken.result(timeout=1)
    assert sorted(name for name, _, _ in seen) == ["broken", "broken", "echo", "late", "urgent"]
    assert ("echo", data, 0) in seen


def test_workers_of_both_share_a_queue(port: Port, jobs: JobQueue, ours: Rig, heavyq_worker: StartWorker) -> None:
    """Two hundred jobs by both producers; each is started once, and both kinds take part."""
    by_the_port: list[str] = []

    async def process(job: Any, token: str) -> Any:
        by_the_port.append(str(job.id))
        return job.data

    ids = [job.id for job in jobs.add_bulk([("n", {"ms": 5, "n": n}) for n in range(190)])]
    ids += [port.add("n", {"ms": 5}) for _ in range(10)]
    worker = heavyq_worker("-c", "1")
    worker.find("child")
    port.work(process, lambda: jobs.counts()["completed"] == 200)
    assert {ours.field(job_id, "ats") for job_id in ids} == {"1"}
    assert 0 < len(by_the_port) < 200
