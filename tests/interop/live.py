"""The module that heavyq's workers run in the live tests: the data of a job says what it does, once or each time.

Two queues: `q`, and `kids` for its children. commands/live.cjs has its twin.
"""

import os
import time
from typing import Any

from pydantic import TypeAdapter

from heavyq import Job, Queue, RateLimited, RetryAfter, Snooze, Unrecoverable, WaitForChildren

anything: TypeAdapter[Any] = TypeAdapter(Any)
quick: Any = {"lock_duration": "2s", "stalled_interval": "0.5s", "max_stalled_count": 1}
q = Queue("q", payload=anything, metrics=60, **quick)
kids = Queue("kids", payload=anything, **quick)


@q.backoff_strategy
def wait_steps(made: int, kind: str, error: BaseException, job: Job[Any, Any]) -> Any:
    if kind == "never":
        return -1
    if kind != "steps":
        raise ValueError(f"no such backoff: {kind}")
    return 0.3 * made


@kids.processor
@q.processor
def work(job: Job[Any, Any]) -> Any:
    todo = job.data if isinstance(job.data, dict) else {}
    for row in todo.get("rows", ()):
        job.log(row)
    if "progress" in todo:
        job.update_progress(todo["progress"])
    time.sleep(todo.get("ms", 0) / 1000)
    if "once" in todo and job.checkpoint is None:
        job.save_checkpoint("done once")
        _once(job, todo["once"])
    if "raise" in todo:
        raise RuntimeError(todo["raise"])
    if todo.get("children"):
        return {"children": job.children_values(), "failed": job.failed_children_values()}
    if todo.get("telemetry"):
        return job.opts.telemetry
    return todo.get("returns", job.data)


def _once(job: Job[Any, Any], what: str) -> None:
    match what:
        case "snooze":
            raise Snooze(0.4)
        case "rate limited":
            raise RateLimited(0.4)
        case "retry after":
            raise RetryAfter(0.4, "not yet")
        case "unrecoverable":
            raise Unrecoverable("never mind")
        case "children":
            for n in range(2):
                kids.add("kid", {"returns": n}, parent=job)
            raise WaitForChildren
        case "no children":
            raise WaitForChildren
        case "update":
            job.update_data({**job.data, "changed": [1, "é"]})
            raise RuntimeError("once")
        case "die":
            os._exit(9)
        case _:
            raise RuntimeError(what)
