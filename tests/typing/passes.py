"""What must pass mypy --strict and pyright without a word. Never run: read by tests/unit/test_typing.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from pydantic import BaseModel, TypeAdapter
from typing_extensions import TypedDict

from heavyq import (
    HEAVY,
    LIGHT,
    STANDARD,
    AddUnknown,
    AsyncFlowNode,
    AsyncJobHandle,
    AsyncQueue,
    Dedup,
    Event,
    Failure,
    Flow,
    FlowNode,
    HasAnotherParent,
    HeavyqError,
    Job,
    JobEvent,
    JobFailed,
    JobHandle,
    Keep,
    Model,
    NamedQueue,
    NoSuchParent,
    Profile,
    Queue,
    Rate,
    RateLimited,
    ResultGone,
    RetryAfter,
    Scheduler,
    Snooze,
    Unrecoverable,
    Usage,
    WaitForChildren,
    WrongState,
    aclose,
    around_job,
    canary,
    child_start,
    child_stop,
    close,
    connect,
    exponential,
    fixed,
    preload,
)


class Video(Model):
    video_id: str
    preset: str = "720p"


class Transcoded(Model):
    path: str
    seconds: float


class Plain(BaseModel):
    n: int


@dataclass
class Thumb:
    at_s: float


class Row(TypedDict):
    name: str


connect("redis://localhost:6379", timeout="2s", profile=LIGHT)
own: Profile = HEAVY.replace(name="gpu", concurrency=2, memory_limit=None, memory_request=None)

videos = Queue(
    "process-video",
    payload=Video,
    result=Transcoded,
    profile=HEAVY,
    attempts=2,
    backoff=fixed("60s"),
    remove_on_complete=100,
    remove_on_fail=False,
    lock_duration=timedelta(minutes=5),
    recycle_rss="2Gi",
    memory_request=1024**3,
    memory_limit="2Gi",
    on_memory_limit="retry",
    memory_rlimit=True,
    start_method="spawn",
    async_concurrency=20,
    timeout="2h",
    progress_timeout=timedelta(minutes=5),
    limiter=Rate(10, per="1s"),
    metrics=60,
    deduplication=Dedup("all", ttl="5s", extend=True),
    fail_parent_on_failure=True,
)
Queue("off", timeout=None, progress_timeout=None, limiter=None, metrics=None, deduplication="one")
emails = Queue("email", profile=STANDARD, backoff=exponential(1, jitter=0.5), remove_on_fail=Keep(count=5, age="1d"))
numbers = Queue("numbers", payload=list[int], result=int)
anything = Queue("anything", payload=TypeAdapter[int | str](int | str))
rows = Queue("rows", payload=Row)
plain = Queue("plain", payload=Plain)

assert_type(videos, Queue[Video, Transcoded])
assert_type(emails, Queue[dict[str, Any], Any])
assert_type(numbers, Queue[list[int], int])
assert_type(anything, Queue[int | str, Any])
assert_type(rows, Queue[Row, Any])

job = videos.add(Video(video_id="v1"))
assert_type(job, JobHandle[Video, Transcoded])
assert_type(job.result(timeout=30), Transcoded)
assert_type(job.result("30s"), Transcoded)
assert_type(job.data, Video)
assert_type(job.id, str)
assert_type(job.added, bool)
assert_type(job.state(), str)
assert_type(job.refresh(), JobHandle[Video, Transcoded])
assert_type(job.usage, Usage | None)
assert_type(job.failure, Failure | None)
assert_type(job.logs(), list[str])

videos.add("process", Video(video_id="v1"), delay="5m", priority=1, job_id="one", timestamp=datetime.now(UTC))
videos.add(Video(video_id="v2", preset="1080p"), lifo=True, remove_on_complete=Keep(count=3))
videos.add(
    Video(video_id="v3"), timeout="1h", progress_timeout=60, memory_limit="1Gi", telemetry="{}", omit_context=True
)
videos.add(Video(video_id="v4"), deduplication="v4", ignore_dependency_on_failure=True)
emails.add({}, parent=job, continue_parent_on_failure=True, remove_dependency_on_failure=False)
jobs = videos.add_bulk([("process", Video(video_id=v)) for v in ("a", "b")])
assert_type(jobs, list[JobHandle[Video, Transcoded]])
videos.add_bulk([("process", Video(video_id="a"), {"delay": 5, "job_id": "x"})], attempts=1)
videos.add_bulk([Video(video_id="a")])
assert_type(emails.add({"to": "someone"}).result(), Any)
emails.add("welcome", {"to": "someone"})
numbers.add([1, 2])
anything.add("name", "text")
rows.add({"name": "x"})

assert_type(videos.get_job("1"), JobHandle[Video, Transcoded] | None)
assert_type(videos.handle("1"), JobHandle[Video, Transcoded])
assert_type(videos.jobs("failed", "waiting", offset=0, limit=10), list[JobHandle[Video, Transcoded]])
assert_type(videos.counts(), dict[str, int])

thumbs = videos.named("thumbnail", payload=Thumb, result=Transcoded)
assert_type(thumbs.add(Thumb(1.0), priority=2).result(), Transcoded)
thumbs.add_bulk([Thumb(1.0)])
assert_type(thumbs, NamedQueue[Thumb, Transcoded])

# ---- flows

flow = Flow(emails, "done", {"to": "someone"}, children=[Flow(videos, Video(video_id="v")), Flow(thumbs, Thumb(1.0))])
assert_type(flow, Flow[dict[str, Any], Any])
node = Flow(videos, Video(video_id="v"), priority=2, parent=job, children=(Flow(numbers, [1]), flow)).add()
assert_type(node, FlowNode[Video, Transcoded])
assert_type(node.job, JobHandle[Video, Transcoded])
assert_type(node.job.result(), Transcoded)
assert_type(node.children[0].job.id, str)
assert_type(Flow(thumbs, Thumb(1.0)), Flow[Thumb, Transcoded])
assert_type(Flow(numbers, "sum", [1, 2]), Flow[list[int], int])

# ---- acting, watching

assert_type(job.cancel("no longer needed"), bool)
job.retry()
job.promote()
job.remove()
job.change_priority(2)
job.change_delay("1m")
job.update_data(Video(video_id="v9"))
assert_type(node.job.children_values(numbers), dict[str, int])
assert_type(node.job.children_values(), dict[str, Any])
assert_type(node.job.failed_children_values(), dict[str, str])
assert_type(job.parent, str | None)

for event in videos.events(since=datetime.now(UTC), timeout="5s"):
    assert_type(event, Event)
    assert_type((event.name, event.job_id, event.at, event.data), tuple[str, str | None, datetime, dict[str, Any]])
    videos.events(since=event)
    videos.events(since=event.id)

videos.pause()
videos.resume()
videos.drain(delayed=True)
assert_type(videos.clean("failed", older_than="1d", limit=1000), list[str])
videos.obliterate(force=True)
videos.retry_jobs("failed", limit=1000, reason=None, since=None)
videos.promote_jobs()
videos.set_global_concurrency(4)
videos.set_global_rate_limit(Rate(10, per="1s"))
videos.upsert_scheduler("nightly", cron="0 3 * * *", tz="Europe/Paris", data=Video(video_id="all"), attempts=2)
videos.upsert_scheduler("tick", every="10m")
assert_type(videos.schedulers(), list[Scheduler[Video]])
assert_type(videos.remove_scheduler("nightly"), bool)

# ---- asyncio


async def in_a_loop() -> None:
    queue = videos.aio
    assert_type(queue, AsyncQueue[Video, Transcoded])
    added = await queue.add(Video(video_id="v1"), delay="5m")
    assert_type(added, AsyncJobHandle[Video, Transcoded])
    assert_type(await added.result(timeout=30), Transcoded)
    assert_type(added.data, Video)
    assert_type(await added.state(), str)
    assert_type(await added.refresh(), AsyncJobHandle[Video, Transcoded])
    await added.update_data(Video(video_id="v9"))
    assert_type(await queue.add("process", Video(video_id="v1")), AsyncJobHandle[Video, Transcoded])
    assert_type(await queue.add_bulk([Video(video_id="v1")]), list[AsyncJobHandle[Video, Transcoded]])
    assert_type(await queue.get_job("1"), AsyncJobHandle[Video, Transcoded] | None)
    assert_type(queue.handle("1"), AsyncJobHandle[Video, Transcoded])
    assert_type(await queue.counts(), dict[str, int])
    assert_type(await thumbs.aio.add(Thumb(1.0)), AsyncJobHandle[Thumb, Transcoded])
    many = await asyncio.gather(*(queue.add(Video(video_id=str(n))) for n in range(3)))
    assert_type(many, list[AsyncJobHandle[Video, Transcoded]])
    tree = await Flow(videos, Video(video_id="v"), children=[flow]).aio.add()
    assert_type(tree, AsyncFlowNode[Video, Transcoded])
    assert_type(await tree.job.result(), Transcoded)
    await emails.aio.add({}, parent=added)
    async for event in queue.events():
        assert_type(event, Event)
    await aclose()


# ---- the worker's module


@preload
def load() -> None: ...


@canary
def sing() -> None: ...


@child_start
def begin() -> None: ...


@child_stop
def end() -> None: ...


load()


@videos.processor
def transcode(job: Job[Video, Transcoded]) -> Transcoded:
    assert_type(job.data, Video)
    job.update_progress(0.5)
    job.update_progress({"frame": 1})
    job.save_checkpoint({"frame": 1})
    job.log("done")
    return Transcoded(path=job.data.video_id, seconds=1.0)


@videos.processor("a", "b")
def other(job: Job[Video, Transcoded]) -> Transcoded:
    return transcode(job)


@emails.processor
def send(job: Job) -> None:  # bare: the defaults stand for what is not given
    assert_type(job.data, dict[str, Any])


@rows.processor
def row(job: Job[Row]) -> str:
    return job.data["name"]


@thumbs.processor
def thumb(job: Job[Thumb, Transcoded]) -> Transcoded:
    return Transcoded(path="", seconds=job.data.at_s)


asynchronous = Queue("asynchronous", payload=Video, result=Transcoded)


@asynchronous.processor
async def fetch(job: Job[Video, Transcoded]) -> Transcoded:
    await asyncio.sleep(0)
    job.log("done")
    return Transcoded(path=job.data.video_id, seconds=1.0)


@asynchronous.processor("a", "b")
async def fetch_by_name(job: Job[Video, Transcoded]) -> Transcoded:
    return await fetch(job)


@thumbs.processor
async def thumb_in_a_loop(job: Job[Thumb, Transcoded]) -> Transcoded:
    return Transcoded(path="", seconds=job.data.at_s)


@emails.processor("parent")
def parent(job: Job) -> dict[str, float]:
    values = job.children_values(videos)
    assert_type(values, dict[str, Transcoded])
    assert_type(job.children_values(), dict[str, Any])
    assert_type(job.failed_children_values(), dict[str, str])
    assert_type(job.parent, str | None)
    if not values:
        videos.add(Video(video_id="v"), parent=job)
        raise WaitForChildren
    job.update_data({"to": "another"})
    return {key: made.seconds for key, made in values.items()}


@emails.processor("ends")
def ends(job: Job) -> None:
    match job.attempt:
        case 1:
            raise Unrecoverable("no use")
        case 2:
            raise Snooze("10m")
        case 3:
            raise RetryAfter(timedelta(minutes=10))
        case 4:
            raise RetryAfter("10m", "busy")
        case _:
            raise RateLimited(30)


@videos.on("failed", "stalled")
def tell(event: JobEvent) -> None:
    assert_type(event.failure, Failure | None)
    assert_type(event.job_id, str)


@videos.on("completed")
async def tell_in_a_loop(event: JobEvent) -> None:
    assert_type(event.at, datetime)


@videos.backoff_strategy
def wait(attempts_made: int, kind: str, error: BaseException | None, job: Job[Video, Transcoded]) -> float | str:
    return "1m" if kind == "slow" else attempts_made


@around_job
@contextmanager
def traced(job: Job) -> Iterator[None]:
    yield


@around_job
@asynccontextmanager
async def traced_in_a_loop(job: Job) -> AsyncIterator[None]:
    yield


def takes_a_bare_queue(queue: Queue, handle: JobHandle) -> None:
    queue.add({"a": 1})
    handle.refresh()


def waits(handle: JobHandle[Video, Transcoded]) -> str:
    try:
        return handle.result(timeout="5s").path
    except JobFailed as error:
        return error.reason
    except (TimeoutError, ResultGone, AddUnknown, NoSuchParent, HasAnotherParent, WrongState, HeavyqError):
        return ""


close()
