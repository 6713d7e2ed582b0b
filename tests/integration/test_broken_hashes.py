"""Jobs whose hash is broken, in as many ways as a stranger's program, a script or an operator has at hand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.jobs import Jobs
    from tests.support.worker import Worker

APP = """
    from heavyq import Queue

    q = Queue("q")

    @q.processor
    def work(job):
        return "ran"
"""


def opts(**members: Any) -> bytes:
    return json.dumps({"attempts": 2, **members}).encode()


# by case: what is put into the hash (None: taken out), and the field that is blamed
BROKEN: dict[str, tuple[dict[str, bytes | None], str]] = {
    "no data": ({"data": None}, "data"),
    "no name": ({"name": None}, "name"),
    "nothing but a stray field": ({"data": None, "name": None, "opts": None, "timestamp": None}, "name"),
    "opts: no JSON": ({"opts": b"{attempts:"}, "opts"),
    "opts: no UTF-8": ({"opts": b'{"jobId":"\xff"}'}, "opts"),
    "opts: an array": ({"opts": b"[1]"}, "opts"),
    "opts: a text": ({"opts": b'"attempts"'}, "opts"),
    "opts: a number": ({"opts": b"3"}, "opts"),
    "opts: null": ({"opts": b"null"}, "opts"),
    "opts: Python's words": ({"opts": b'{"lifo": True}'}, "opts"),
    "opts: NaN": ({"opts": b'{"attempts": NaN}'}, "opts"),
    "opts: nested without an end": ({"opts": b'{"a":' * 5000 + b"1" + b"}" * 5000}, "opts"),
    "opts: over 1 MiB": ({"opts": opts(padding="x" * 2**20)}, "opts"),
    "attempts: a word": ({"opts": opts(attempts="three")}, "opts.attempts"),
    "attempts: an object": ({"opts": opts(attempts={})}, "opts.attempts"),
    "backoff: true": ({"opts": opts(backoff=[1000])}, "opts.backoff"),
    "backoff: delay is a word": ({"opts": opts(backoff={"type": "fixed", "delay": "soon"})}, "opts.backoff.delay"),
    "backoff: delay is an object": ({"opts": opts(backoff={"type": "fixed", "delay": {}})}, "opts.backoff.delay"),
    "removeOnComplete: a word": ({"opts": opts(removeOnComplete="yes")}, "opts.removeOnComplete"),
    "removeOnComplete: count": ({"opts": opts(removeOnComplete={"count": "all"})}, "opts.removeOnComplete.count"),
    "removeOnComplete: age": ({"opts": opts(removeOnComplete={"age": [1]})}, "opts.removeOnComplete.age"),
    "removeOnComplete: limit": ({"opts": opts(removeOnComplete={"limit": "no"})}, "opts.removeOnComplete.limit"),
    "removeOnFail: an array": ({"opts": opts(removeOnFail=[100])}, "opts.removeOnFail"),
    "removeOnFail: age": ({"opts": opts(removeOnFail={"age": "1d"})}, "opts.removeOnFail.age"),
    "keepLogs: a word": ({"opts": opts(kl="some")}, "opts.kl"),
    "stackTraceLimit: an object": ({"opts": opts(stackTraceLimit={})}, "opts.stackTraceLimit"),
    "our own options: a number": ({"opts": opts(hq=7)}, "opts.hq"),
    "our own options: a timeout in words": ({"opts": opts(hq={"timeout": "1h"})}, "opts.hq.timeout"),
    "our own options: a limit in words": ({"opts": opts(hq={"memoryLimit": "1Gi"})}, "opts.hq.memoryLimit"),
    "timestamp: a word": ({"timestamp": b"now"}, "timestamp"),
    "timestamp: without an end": ({"timestamp": b"inf"}, "timestamp"),
    "progress: no JSON": ({"progress": b"{half"}, "progress"),
    "progress: no UTF-8": ({"progress": b"\xff\xfe"}, "progress"),
    "progress: empty words": ({"progress": b"None"}, "progress"),
    "checkpoint: no JSON": ({"hq:checkpoint": b"{'frame': 3}"}, "hq:checkpoint"),
    "parent: no JSON": ({"parent": b"{id:", "parentKey": b"bull:p:1"}, "parent"),
    "parent: no object": ({"parent": b"[]", "parentKey": b"bull:p:1"}, "parent"),
    "parent: without an id": ({"parent": b'{"queueKey":"bull:p"}', "parentKey": b"bull:p:1"}, "parent"),
    "parentKey: no key": ({"parentKey": b"p"}, "parentKey"),
}


def test_job_that_is_broken_in_any_of_these_ways_fails_as_unreadable_and_stops_nobody(
    run_worker: Callable[..., Worker], jobs: Jobs
) -> None:
    assert len(BROKEN) >= 30
    first = jobs.add("work", {})
    ids = {case: jobs.add("work", {}, attempts=2) for case in BROKEN}
    for case, (fields, _) in BROKEN.items():
        for field, value in fields.items():
            if value is None:
                jobs.raw.hdel(jobs.q.key(ids[case]), field)
            else:
                jobs.raw.hset(jobs.q.key(ids[case]), field, value)
        jobs.raw.hset(jobs.q.key(ids[case]), "stray", "1")  # else a hash without fields is no hash
    last = jobs.add("work", {})
    worker = run_worker(APP)

    ended = {case: jobs.wait(job_id) for case, job_id in ids.items()}
    seen = {case: (job.state, (job.failure or {}).get("reason")) for case, job in ended.items()}
    assert seen == dict.fromkeys(BROKEN, ("failed", "unreadable"))
    blamed = {case: (job.failed_reason or "").partition(" ")[0] for case, job in ended.items()}
    assert blamed == {case: field for case, (_, field) in BROKEN.items()}
    assert (jobs.result(first), jobs.result(last)) == ("ran", "ran")
    assert worker.running
    assert "Traceback" not in worker.log
    kept = jobs.raw.hget(jobs.q.key(ids["opts: no JSON"]), "stray")
    assert kept == b"1", "what heavyq does not know stays in the hash"
