"""Jobs of one queue, seen from outside: adds them as any BullMQ producer does, and waits for what becomes of them.

Owns the looks at Redis through heavyq's own read operations, and the stopwatch of the tests that promise a
time. Never looks into a worker.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from heavyq.bullmq import ops
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    import redis

    from heavyq.bullmq.job_hash import JobRecord
    from heavyq.bullmq.keys import QueueKey
    from heavyq.store.client import Client

NOISE = 3.0  # a promise of one second is held to three: the machine may be busy with other things
_BATCH = 500


class Jobs:
    """The jobs of one queue."""

    def __init__(self, client: Client, raw: redis.Redis, q: QueueKey) -> None:
        self.client, self.raw, self.q = client, raw, q

    # ---- adding

    def add(self, name: str, data: Any = None, *, delay_ms: int = 0, **opts: Any) -> str:
        """Add one job; return its id. opts: BullMQ's stored names, such as `attempts=2`."""
        return self.add_all([(name, data)], delay_ms=delay_ms, **opts)[0]

    def add_for_the_last_time(self, jobs: Iterable[tuple[str, Any]]) -> list[str]:
        """Add jobs that have died of memory twice: the next such death is final, whoever filled the container."""
        ids = self.add_all(jobs, delay_ms=1_000)
        with self.raw.pipeline() as pipe:
            for job_id in ids:
                pipe.hset(self.q.key(job_id), "hq:strikes", 2)
            pipe.execute()
        return ids

    def add_all(self, jobs: Iterable[tuple[str, Any]], *, delay_ms: int = 0, **opts: Any) -> list[str]:
        """Add many jobs, in few round trips; return their ids."""
        now_ms = time.time_ns() // 1_000_000
        raw_opts = json.dumps(opts).encode()
        adds = [
            ops.add(
                self.q,
                name=name,
                data=json.dumps({} if data is None else data).encode(),
                opts=raw_opts,
                timestamp_ms=now_ms,
                delay_ms=delay_ms,
            )
            for name, data in jobs
        ]
        added = [a for n in range(0, len(adds), _BATCH) for a in self.client.run_many(adds[n : n + _BATCH])]
        return [one.id for one in added]

    # ---- looking

    def read(self, job_id: str) -> JobRecord:
        """Return the job as it is now."""
        record = self.client.run(ops.find(self.q, job_id))
        assert record is not None, f"job {job_id} does not exist"
        return record

    def read_all(self, ids: Iterable[str]) -> list[JobRecord]:
        """Return many jobs, in few round trips."""
        finds = [ops.find(self.q, job_id) for job_id in ids]
        found = [r for n in range(0, len(finds), _BATCH) for r in self.client.run_many(finds[n : n + _BATCH])]
        assert all(found), "a job does not exist"
        return found

    def counts(self) -> dict[str, int]:
        """Return the number of jobs by state, without the states that hold none."""
        return {state: n for state, n in self.client.run(ops.counts(self.q)).by_state().items() if n}

    def log(self, job_id: str) -> list[str]:
        """Return the job's log."""
        return list(self.client.run(ops.logs(self.q, job_id, start=0, stop=-1)).rows)

    def waiting(self) -> list[str]:
        """Return the ids that wait, the next to run first."""
        return [raw.decode() for raw in reversed(self.raw.lrange(self.q.key("wait"), 0, -1))]

    def settled_events(self) -> Counter[tuple[str, str]]:
        """Count the events that end a job, by event and id."""
        entries = self.raw.xrange(self.q.key("events"))
        ends = (b"completed", b"failed")
        return Counter(
            (fields[b"event"].decode(), fields[b"jobId"].decode()) for _, fields in entries if fields[b"event"] in ends
        )

    def keys(self) -> set[str]:
        """Return every key of the queue, without the queue's name."""
        start = len(self.q.key(""))
        return {key.decode()[start:] for key in self.raw.scan_iter(self.q.key("*"), count=1000)}

    # ---- waiting

    def wait(self, job_id: str, *states: str, timeout_s: float = 15.0) -> JobRecord:
        """Wait until the job is in one of these states (completed or failed, if none is named); return it."""
        wanted = states or ("completed", "failed")

        def look() -> JobRecord | None:
            record = self.read(job_id)
            assert record.state in wanted, f"{record.state} (attempts started: {record.attempts_started})"
            return record

        found = eventually(look, timeout_s, f"job {job_id} is {' or '.join(wanted)}")
        assert found is not None
        return found

    def wait_counts(self, expected: dict[str, int], timeout_s: float = 15.0) -> None:
        """Wait until the queue's jobs are in these states, and no others."""

        def look() -> bool:
            counts = self.counts()
            assert counts == expected, counts
            return True

        eventually(look, timeout_s, f"the queue holds {expected}")

    def result(self, job_id: str, timeout_s: float = 15.0) -> Any:
        """Wait until the job has completed; return its result."""
        record = self.wait(job_id, "completed", "failed", timeout_s=timeout_s)
        assert record.state == "completed", f"job {job_id} failed: {record.failed_reason}"
        return json.loads(record.returnvalue or b"null")


def took(look: Callable[[], object], promised_s: float, what: str, since_s: float | None = None) -> float:
    """Wait for `look`, print how long it took, and return that. since_s: monotonic, when the time began.

    Fails when it took more than `NOISE` times what is promised.
    """
    began_s = time.monotonic() if since_s is None else since_s
    eventually(look, began_s + promised_s * NOISE - time.monotonic(), what)
    seconds = time.monotonic() - began_s
    print(f"measured: {what} after {seconds:.3f} s (promised: {promised_s:g} s)")
    return seconds


def lines(path: Path) -> list[str]:
    """Return the whole lines that jobs have appended to a file so far."""
    return path.read_text().splitlines() if path.exists() else []
