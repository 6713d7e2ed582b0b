"""The module that heavyq's workers run in these tests: what a job does, its data says. driver.cjs has its twin."""

import ctypes
import time
from typing import Any

from pydantic import TypeAdapter

from heavyq import Job, Queue

q = Queue("q", payload=TypeAdapter(Any), lock_duration="2s", stalled_interval="0.5s", max_stalled_count=1)


@q.processor
def work(job: Job[Any, Any]) -> Any:
    todo = job.data if isinstance(job.data, dict) else {}
    if "progress" in todo:
        job.update_progress(todo["progress"])
    for row in todo.get("rows", ()):
        job.log(row)
    time.sleep(todo.get("ms", 0) / 1000)
    if "gil_ms" in todo:  # in C, with the GIL held
        ctypes.PyDLL(None).usleep(todo["gil_ms"] * 1000)
    if "raise" in todo:
        raise RuntimeError(todo["raise"])
    return todo.get("returns", job.data)
