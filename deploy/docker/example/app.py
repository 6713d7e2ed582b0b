"""Two queues to try the containers with, one for each kind of worker. Yours take their place."""

import time

from heavyq import HEAVY, LIGHT, Job, Model, Queue


class Page(Model):
    title: str


class Video(Model):
    seconds: float = 1.0
    mib: int = 100  # what the job holds meanwhile: ask for more than --memory-limit to see it stopped


thumbnails = Queue("thumbnails", payload=Page, profile=LIGHT)
videos = Queue("videos", payload=Video, profile=HEAVY)


@thumbnails.processor
def thumbnail(job: Job[Page]) -> str:
    return f"{job.data.title.lower()}.webp"


@videos.processor
def transcode(job: Job[Video]) -> int:
    held = [b"x" * (1 << 20) for _ in range(job.data.mib)]
    time.sleep(job.data.seconds)
    return len(held)
