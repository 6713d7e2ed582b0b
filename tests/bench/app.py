"""The module that the workers of the benchmarks run. Each processor takes the time in its first line."""

import ctypes
import os
import signal
import time
from typing import Any

from heavyq import Job, Queue

DEATHS = "deaths.txt"

q: Queue[dict[str, Any], Any] = Queue("bench")


@q.processor("first-line")
def first_line(_: Job[dict[str, Any], int]) -> int:
    return time.monotonic_ns()


@q.processor("short")
def short(_: Job[dict[str, Any], int]) -> int:
    return 1


@q.processor("die")
def die(_: Job[dict[str, Any], None]) -> None:
    with open(DEATHS, "a") as deaths:
        print(time.monotonic_ns(), file=deaths)
    os.kill(os.getpid(), signal.SIGKILL)


@q.processor("hold")
def hold(job: Job[dict[str, Any], None]) -> None:
    time.sleep(job.data["seconds"])


@q.processor("hog")
def hog(job: Job[dict[str, Any], None]) -> None:
    ctypes.PyDLL(None).sleep(job.data["seconds"])  # PyDLL keeps the GIL: no line of Python runs meanwhile


@q.processor("size")
def size(job: Job[dict[str, Any], int]) -> int:
    return len(job.data["text"])
