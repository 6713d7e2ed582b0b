"""Errands: the functions that a queue's `@on` declares, run in a child after a job's outcome was written.

Owns what is sent for one, and how many may wait. At most once: an errand whose child dies, or that takes too long, is
not repeated, and a worker that ends drops those for which it has no child any more. Never touches a lease or Redis.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import structlog

from heavyq.bullmq.job_hash import RETURNVALUE, JobRecord
from heavyq.bullmq.keys import QueueKey
from heavyq.core import run as life
from heavyq.core.child import Ready
from heavyq.errors import ProtocolError
from heavyq.job import wire
from heavyq.linux.clock import epoch_ms, monotonic_s
from heavyq.linux.frames import pack_parts
from heavyq.worker.crew import ChildKind, Crew
from heavyq.worker.process import ChildProcess
from heavyq.worker.runs import Run
from heavyq.worker.seats import Seats
from heavyq.worker.served import Served

ERRAND_LIMIT_S = 30.0
SHARED_GRACE_S = 10.0  # a child with other jobs ends the function itself when its time is over
WAITING_MAX = 1_000
BYTES_MAX = 64 * 2**20  # each holds its job's payload and result


@dataclass(slots=True, eq=False)
class Errand:
    """One event of one job, on its way to the functions that want it.

    number: ours, of the same count as runs. made: attempts that were made when it happened. fields: of the job's hash.
    until_s: when its child is killed, once it has one.
    """

    number: int
    queue: QueueKey
    job_id: str
    event: str
    made: int
    fields: Mapping[bytes, bytes]
    child: int | None = None
    until_s: float | None = None

    @property
    def alone(self) -> bool:
        return False

    @property
    def size_bytes(self) -> int:
        return sum(len(value) for value in self.fields.values())

    def frame(self) -> list[bytes]:
        """Return what the child is sent."""
        head = {
            "run": self.number,
            "queue": self.queue.name,
            "prefix": self.queue.prefix,
            "id": self.job_id,
            "event": self.event,
            "made": self.made,
            "at_ms": epoch_ms(),
        }
        return pack_parts(wire.HOOK, head, [self.fields.get(name, b"") for name in wire.HOOK_PARTS])


class Errands:
    """The errands of one worker."""

    def __init__(self, served: Mapping[QueueKey, Served], seats: Seats, crew: Crew, numbers: Iterator[int]) -> None:
        self._served, self._seats, self._crew, self._numbers = served, seats, crew, numbers
        self._all: dict[int, Errand] = {}
        self._log = structlog.get_logger().bind(thread="control")

    @property
    def idle(self) -> bool:
        """True when none is on its way."""
        return not self._all

    # ---- what there is to tell

    def follow(self, run: Run, settlement: life.Settlement) -> None:
        """A run's outcome was written: tell the functions that want to know."""
        event, made, told = _told(run, settlement)
        if event is not None and event in self._served[run.queue].traits.hooks:
            self._add(run.queue, run.job.lease.job_id, event, made, {**run.job.fields, **told})

    def stalled(self, queue: QueueKey, record: JobRecord) -> None:
        """A job went back to wait, for its worker was gone."""
        fields = {
            b"name": record.name.encode(),
            b"data": record.data,
            b"timestamp": str(record.timestamp_ms).encode(),
            b"progress": record.progress or b"",
        }
        self._add(queue, record.id, "stalled", record.attempts_made, fields)

    def _add(self, queue: QueueKey, job_id: str, event: str, made: int, fields: Mapping[bytes, bytes]) -> None:
        errand = Errand(next(self._numbers), queue, job_id, event, made, fields)
        held_bytes = sum(one.size_bytes for one in self._all.values()) if self._all else 0
        if len(self._all) >= WAITING_MAX or held_bytes + errand.size_bytes > BYTES_MAX:
            self._log.warning("an @on function is not called", **_about(errand), why="too many wait")
            return
        self._all[errand.number] = errand
        self._seats.add(errand)

    # ---- in a child

    def begin(self, number: int, child: ChildProcess) -> None:
        """A child takes it."""
        errand = self._all[number]
        grace_s = SHARED_GRACE_S if child.seats > 1 else 0.0
        errand.until_s = monotonic_s() + ERRAND_LIMIT_S + grace_s
        child.send(*errand.frame())

    def over(self, child: ChildProcess, head: Mapping[str, Any]) -> None:
        """A child says that the functions are through."""
        errand = self._all.get(head["run"])
        if errand is None or errand.child != child.number:
            return
        cpu_total_s, clean = float(head["cpu_total_s"]), bool(head["clean"])
        if not math.isfinite(cpu_total_s):
            raise ProtocolError("a report whose usage is no number")
        del self._all[errand.number]
        child.cpu_told_s = cpu_total_s
        own = child.meter.own_bytes() if child.meter else 0
        self._crew.run_over(child, errand.number, own, clean=clean)

    def has_some_in(self, child: ChildProcess) -> bool:
        """Tell whether one is in this child now."""
        return any(one.child == child.number for one in self._all.values())

    def child_died(self, child: ChildProcess) -> None:
        """What it had is not repeated."""
        for errand in [one for one in self._all.values() if one.child == child.number]:
            self._log.error("an @on function has not ended", **_about(errand))
            del self._all[errand.number]

    def tick(self, now_s: float) -> None:
        """Kill the child whose function takes too long."""
        for errand in self._all.values():
            child = self._crew.children.get(errand.child) if errand.child is not None else None
            if child is not None and errand.until_s is not None and now_s >= errand.until_s:
                child.culprit = errand.number if child.culprit is None else child.culprit
                self._crew.kill(child, f"an @on function of it took over {ERRAND_LIMIT_S:g} s")

    # ---- ending

    @property
    def waiting(self) -> bool:
        """True while one has no child yet."""
        return any(one.child is None for one in self._all.values())

    def drop_hopeless(self) -> None:
        """The worker ends and makes no child any more: what waits for a kind of which none is left is not called."""
        kinds = {child.kind for child in self._crew.children.values() if isinstance(child.state, Ready)}
        self._drop([one for one in self._all.values() if one.child is None and self._kind(one) not in kinds])

    def stop(self) -> None:
        """End those that run, and begin no other."""
        self._drop([one for one in self._all.values() if one.child is None])
        for errand in self._all.values():
            if errand.child in self._crew.children:
                self._crew.kill(self._crew.children[errand.child], "the worker ends")

    def _drop(self, errands: Sequence[Errand]) -> None:
        for one in errands:
            self._log.warning("an @on function is not called", **_about(one), why="the worker ends")
            self._seats.drop(one)
            del self._all[one.number]

    def _kind(self, errand: Errand) -> ChildKind:
        return self._served[errand.queue].kind


def _about(errand: Errand) -> dict[str, str]:
    return {"queue": errand.queue.name, "job": errand.job_id, "event_name": errand.event}


def _told(run: Run, settlement: life.Settlement) -> tuple[str | None, int, dict[bytes, bytes]]:
    """Return the event that a settlement is, how many attempts are made then, and the fields that tell of it."""
    made = run.facts.made
    match settlement:
        case life.Complete():
            return "completed", made + 1, {RETURNVALUE: settlement.result}
        case life.Fail():
            return "failed", made + 1, {b"failure": settlement.failure.to_json(run.job.lease.started)}
        case life.RetryNow() | life.RetryLater() | life.Strike():
            burnt = not isinstance(settlement, life.Strike)
            return "retrying", made + burnt, {b"failure": settlement.failure.to_json(run.job.lease.started)}
        case life.Snooze() | life.WaitForChildren() | life.HandBack():
            return None, made, {}
        case _:
            assert_never(settlement)
