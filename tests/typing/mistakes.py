"""Mistakes that mypy --strict and pyright must both catch, on each line marked `# wrong`, and on no other.

Never run: read by tests/unit/test_typing.py.
"""

# ruff: noqa: B018, F401 - they are mistakes

from __future__ import annotations

from heavyq import HEAVY, Job, Model, NoSuchName, Queue, connect  # wrong


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
videos.add(Video(video_id="v1"), memory_limit="1Gi")  # wrong
videos.add_bulk([("process", Transcoded(path="x"))])  # wrong
videos.add_bulk([("process", Video(video_id="v1"), {"dellay": 1})])  # wrong
videos.add(Video(video_id="v1")).result().seconds  # wrong
videos.add(Video(video_id="v1")).data.preset  # wrong
videos.jobs("waitng")  # wrong
videos.handle("1").cancell()  # wrong
emails.add("welcome")  # wrong

thumbs = videos.named("thumbnail", payload=Video, result=Transcoded)
thumbs.add(Transcoded(path="x"))  # wrong
thumbs.add(Video(video_id="v1")).result().seconds  # wrong


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
