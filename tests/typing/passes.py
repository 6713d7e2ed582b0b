"""What must pass mypy --strict and pyright without a word. Never run: read by tests/unit/test_typing.py."""

from __future__ import annotations

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
    Failure,
    HeavyqError,
    Job,
    JobFailed,
    JobHandle,
    Keep,
    Model,
    Profile,
    Queue,
    ResultGone,
    Usage,
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
)
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


def takes_a_bare_queue(queue: Queue, handle: JobHandle) -> None:
    queue.add({"a": 1})
    handle.refresh()


def waits(handle: JobHandle[Video, Transcoded]) -> str:
    try:
        return handle.result(timeout="5s").path
    except JobFailed as error:
        return error.reason
    except (TimeoutError, ResultGone, AddUnknown, HeavyqError):
        return ""


close()
