"""Mistakes that mypy --strict and pyright must both catch, on each line marked `# wrong`, and on no other.

Never run: read by tests/unit/test_typing.py.
"""

# ruff: noqa: B018, F401 - they are mistakes

from __future__ import annotations

from heavyq import (
    HEAVY,
    Dedup,
    Flow,
    Job,
    JobEvent,
    Model,
    Queue,
    Rate,
    RetryAfter,
    Snooze,
    around_job,
    connect,
)


def names_what_there_is_not() -> None:
    from heavyq import NoSuchName  # wrong


class Video(Model):
    video_id: str


class Transcoded(Model):
    path: str


videos = Queue("process-video", payload=Video, result=Transcoded, profile=HEAVY)
emails = Queue("email")

Queue("q", concurency=2)  # wrong
Queue("q", attempts="two")  # wrong
Queue("q", lock_duration=[1])  # wrong
Queue("q", payload=Video(video_id="v1"))  # wrong
Queue("q", profile="heavy")  # wrong
Queue("q", job_id="one")  # wrong
Queue("q", memory_limit=1.5)  # wrong
Queue("q", on_memory_limit="stop")  # wrong
Queue("q", start_method="thread")  # wrong
Queue("q", limiter="10/1s")  # wrong
Queue("q", limiter=10)  # wrong
Queue("q", metrics="60")  # wrong
Queue("q", parent=None)  # wrong
Queue("q", async_concurrency=None)  # wrong
Queue("q", timeout_grace=1)  # wrong
Rate(10)  # wrong
Rate("10", per="1s")  # wrong
Dedup("x", "5s")  # wrong
Dedup(ttl="5s")  # wrong
Dedup("x", keepLastIfActive=True)  # wrong
Queue("q", Video)  # wrong
Queue(payload=Video)  # wrong
HEAVY.replace(name="gpu", concurency=2)  # wrong
connect("redis://localhost", timeout=[1])  # wrong

videos.add("process")  # wrong
videos.add({"video_id": "v1"})  # wrong
videos.add(Transcoded(path="x"))  # wrong
videos.add("process", Transcoded(path="x"))  # wrong
videos.add(Video(video_id="v1"), dellay="5m")  # wrong
videos.add(Video(video_id="v1"), priority="high")  # wrong
videos.add(Video(video_id="v1"), memory_limit=None)  # wrong
videos.add(Video(video_id="v1"), timeout=[1])  # wrong
videos.add(Video(video_id="v1"), limiter=Rate(1, per=1))  # wrong
videos.add(Video(video_id="v1"), async_concurrency=1)  # wrong
videos.add(Video(video_id="v1"), parent="p1")  # wrong
videos.add(Video(video_id="v1"), telemetry={})  # wrong
videos.add(Video(video_id="v1"), deduplication=1)  # wrong
videos.add(Video(video_id="v1"), fail_parent_on_failure="yes")  # wrong
videos.add_bulk([("process", Transcoded(path="x"))])  # wrong
videos.add_bulk([("process", Video(video_id="v1"), {"dellay": 1})])  # wrong
videos.add(Video(video_id="v1")).result().seconds  # wrong
videos.add(Video(video_id="v1")).data.preset  # wrong
videos.jobs("waitng")  # wrong
videos.handle("1").cancell()  # wrong
emails.add("welcome")  # wrong
videos.events(since=5)  # wrong
videos.clean("failing")  # wrong
videos.set_global_rate_limit(10)  # wrong
videos.upsert_scheduler("x", every="1m", data=Transcoded(path="x"))  # wrong
videos.upsert_scheduler("x", crom="* * * * *")  # wrong
videos.add(Video(video_id="v1")).update_data(Transcoded(path="x"))  # wrong
videos.add(Video(video_id="v1")).children_values(videos).values().path  # wrong

thumbs = videos.named("thumbnail", payload=Video, result=Transcoded)
thumbs.add(Transcoded(path="x"))  # wrong
thumbs.add(Video(video_id="v1")).result().seconds  # wrong

Flow(videos, Transcoded(path="x"))  # wrong
Flow(videos, "process")  # wrong
Flow(videos, "process", Transcoded(path="x"))  # wrong
Flow(thumbs, "thumbnail", Video(video_id="v1"))  # wrong
Flow("videos", Video(video_id="v1"))  # wrong
Flow(videos, Video(video_id="v1"), children=[videos])  # wrong
Flow(videos, Video(video_id="v1"), children=Flow(videos, Video(video_id="v1")))  # wrong
Flow(videos, Video(video_id="v1"), dellay=5)  # wrong
Flow(videos, Video(video_id="v1")).add().job.result().seconds  # wrong
Flow(videos, Video(video_id="v1")).add().result()  # wrong
RetryAfter()  # wrong
Snooze([1])  # wrong


async def in_a_loop() -> None:
    videos.aio.add(Video(video_id="v1")).id  # wrong
    await videos.aio.add(Transcoded(path="x"))  # wrong
    (await videos.aio.add(Video(video_id="v1"))).result().path  # wrong
    (await (await videos.aio.add(Video(video_id="v1"))).result()).seconds  # wrong
    (await Flow(videos, Video(video_id="v1")).aio.add()).job.result().path  # wrong
    for _ in videos.aio.events():  # wrong
        pass


@videos.processor  # wrong
def bare(job: Job) -> Transcoded:
    return Transcoded(path=str(job.data))


@videos.processor  # wrong
def returns_another(job: Job[Video, Transcoded]) -> str:
    return job.data.video_id


@videos.processor("a")  # wrong
def takes_another(job: Job[Transcoded, Transcoded]) -> Transcoded:
    return job.data


@videos.processor  # wrong
def takes_nothing() -> Transcoded:
    return Transcoded(path="x")


@videos.processor
def reads_what_is_not_there(job: Job[Video, Transcoded]) -> Transcoded:
    job.update_progress("half")  # wrong
    return Transcoded(path=job.data.path)  # wrong


@videos.processor  # wrong
async def returns_another_in_a_loop(job: Job[Video, Transcoded]) -> str:
    return job.data.video_id


@videos.processor("a")  # wrong
async def takes_another_in_a_loop(job: Job[Transcoded, Transcoded]) -> Transcoded:
    return job.data


@thumbs.processor  # wrong
async def takes_what_the_view_does_not_have(job: Job[Transcoded, Transcoded]) -> Transcoded:
    return job.data


@videos.processor
def reads_children(job: Job[Video, Transcoded]) -> Transcoded:
    first = next(iter(job.children_values(videos).values()))
    first.seconds  # wrong
    job.update_data(Transcoded(path="x"))  # wrong
    job.children_values("videos")  # wrong
    return first


@videos.on("finished")  # wrong
def tells_what_does_not_happen(event: JobEvent) -> None: ...


@videos.on("failed")  # wrong
def tells_of_a_number(event: int) -> None: ...


@around_job  # wrong
def is_no_context_manager(job: Job) -> int:
    return 1
