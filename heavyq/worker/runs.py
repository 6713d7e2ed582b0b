"""One run as the worker holds it, and what its settlement is on the wire.

Owns the facts gathered while a job runs (its last lines, its progress, its peak) and the translation from a
decision of `core.run` to one operation of `bullmq.ops`. Parses a job's small fields and a report's head; never the
payload, nor the result.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

from heavyq.bullmq.job_hash import Unreadable, append_trace, attempts_made, duty_not_built, strikes
from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.lease import LeasedJob
from heavyq.bullmq.op import Op
from heavyq.bullmq.ops import Settled
from heavyq.bullmq.ops.complete import complete
from heavyq.bullmq.ops.delay import delay
from heavyq.bullmq.ops.fail import fail
from heavyq.bullmq.ops.hand_back import hand_back
from heavyq.bullmq.ops.log import log
from heavyq.bullmq.ops.retry import retry
from heavyq.bullmq.options import Keep, WireOptions
from heavyq.core import run as life
from heavyq.core.outcome import REASONS, Failure, Usage
from heavyq.errors import ProtocolError
from heavyq.job import wire
from heavyq.linux.clock import epoch_ms
from heavyq.linux.frames import Frame
from heavyq.worker.meter import RunMeter

LOG_ROWS_KEPT = 1_000
_KNOWN_OPTS_BYTES_MAX = 4096
_OPTS_BYTES_MAX = 1024 * 1024
_LAST_LINES = 20
_PROGRESS_SHOWN_MAX = 4096


@dataclass(slots=True)
class Run:
    """One lease's life.

    number: ours. child: the one that has the job. seat_passed: its seat went to a lease that was sent together
    with its settlement. meter: what is measured of it, once it is in a child.
    """

    number: int
    job: LeasedJob
    facts: life.JobFacts
    opts: WireOptions
    state: life.RunState
    leased_s: float
    child: int | None = None
    seat_passed: bool = False
    meter: RunMeter | None = None
    progress: bytes | None = None
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_LINES))
    rows: deque[str] = field(default_factory=deque)
    rows_dropped: int = 0

    @property
    def queue(self) -> QueueKey:
        return self.job.lease.queue

    @property
    def holds_seat(self) -> bool:
        return not self.seat_passed

    def forget_fields(self) -> None:
        """Leave out of the outcome what others wrote into the job's hash, and what the job said."""
        self.job = replace(self.job, fields={})
        self.progress = None
        self.lines.clear()


_known_opts = functools.lru_cache(maxsize=256)(WireOptions.read)  # most jobs of a queue have the same options


def _read_opts(raw: bytes) -> WireOptions:
    return _known_opts(raw) if len(raw) <= _KNOWN_OPTS_BYTES_MAX else WireOptions.read(raw)


def read_job(job: LeasedJob, roll: float, *, memory_retry: bool = False) -> tuple[life.JobFacts, WireOptions]:
    """Read what the decisions need from a job's hash.

    roll: random in [0, 1), for the backoff's jitter. memory_retry: its queue lets a death by memory be run again.
    """
    fields = job.fields
    made = attempts_made(fields)
    raw_opts = fields.get(b"opts", b"")
    try:
        if len(raw_opts) > _OPTS_BYTES_MAX:
            raise Unreadable("opts", f"{len(raw_opts)} bytes; at most {_OPTS_BYTES_MAX} are read")
        if b"name" not in fields or b"data" not in fields:
            raise Unreadable("name" if b"name" not in fields else "data", "the field is missing from the job's hash")
        opts = _read_opts(raw_opts)
    except Unreadable as error:
        opts = WireOptions.read(b"{}")
        unreadable = Failure("unreadable", str(error))
        return life.JobFacts(made, 0, None, roll, unreadable=unreadable, duty=duty_not_built(fields)), opts
    deferred = fields.get(b"defa")
    facts = life.JobFacts(
        made=made,
        attempts=opts.attempts,
        backoff=opts.backoff,
        roll=roll,
        deferred=Failure("stalled", deferred.decode("utf-8", "replace")) if deferred else None,
        duty=duty_not_built(fields),
        strikes=strikes(fields),
        memory_retry=memory_retry,
    )
    return facts, opts


def settle_op(run: Run, settlement: life.Settlement) -> Op[Settled]:
    """Return the one operation that ends the run."""
    lease, now_ms = run.job.lease, epoch_ms()
    match settlement:
        case life.Complete():
            return complete(
                lease,
                now_ms=now_ms,
                returnvalue=settlement.result,
                keep=run.opts.remove_on_complete or Keep(),
                usage=settlement.usage.to_json(lease.started),
            )
        case life.Fail():
            return fail(
                lease,
                now_ms=now_ms,
                keep=run.opts.remove_on_fail or Keep(),
                attempts=run.opts.attempts,
                **_why(run, settlement.failure, settlement.usage),
            )
        case life.RetryNow():
            return retry(lease, now_ms=now_ms, lifo=run.opts.lifo, **_why(run, settlement.failure, settlement.usage))
        case life.RetryLater():
            return delay(
                lease,
                now_ms=now_ms,
                delay_ms=settlement.delay_ms,
                burn_attempt=True,
                **_why(run, settlement.failure, settlement.usage),
            )
        case life.Strike():
            return delay(
                lease,
                now_ms=now_ms,
                delay_ms=settlement.delay_ms,
                burn_attempt=False,
                strikes=settlement.strikes,
                **_why(run, settlement.failure, settlement.usage),
            )
        case life.Defer():
            return delay(
                lease,
                now_ms=now_ms,
                delay_ms=settlement.delay_ms,
                burn_attempt=False,
                failed_reason=None,
                stacktrace=None,
                failure=None,
                usage=None,
            )
        case life.HandBack():
            return hand_back(lease, now_ms=now_ms, usage=None)
        case _:
            assert_never(settlement)


def log_op(run: Run) -> Op[bool] | None:
    """Return the operation that adds the rows which wait; None when there are none.

    Called on the commands thread while control adds rows: taken one by one, so that none is lost between.
    """
    rows: list[str] = []
    with contextlib.suppress(IndexError):
        while True:
            rows.append(run.rows.popleft())
    if run.rows_dropped:
        rows.append(f"(heavyq: {run.rows_dropped} rows were dropped: they came faster than Redis took them)")
        run.rows_dropped = 0
    keep = LOG_ROWS_KEPT if run.opts.keep_logs is None else run.opts.keep_logs
    return log(run.job.lease, rows, keep=keep) if rows else None


def _why(run: Run, failure: Failure, usage: Usage | None) -> dict[str, Any]:
    """Return the fields that tell Node's readers and ours why the run failed."""
    started = run.job.lease.started
    told = replace(failure, last_logs=tuple(run.lines), last_progress=_shown(run.progress))
    return {
        "failed_reason": failure.detail,
        "stacktrace": append_trace(run.job.fields.get(b"stacktrace"), failure.trace, run.opts.stack_trace_limit),
        "failure": told.to_json(started),
        "usage": (usage or Usage(0, 0.0, 0.0)).to_json(started),
    }


def _shown(progress: bytes | None) -> Any:
    if not progress or len(progress) > _PROGRESS_SHOWN_MAX:
        return None
    try:
        return json.loads(progress, parse_constant=_refuse)
    except (ValueError, RecursionError):  # anybody may have written it
        return None


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def check_report(run: Run, frame: Frame) -> tuple[Usage, float]:
    """Return what a report says was used. Raises if it is none of ours: user code can write to our socket."""
    head, told = frame.head, frame.head["usage"]
    if head["run"] != run.number:
        raise ProtocolError(f"a report of run {head['run']} while {run.number} is running")
    numbers = (told["peak_rss_bytes"], told["cpu_s"], told["wall_s"], head["cpu_total_s"])
    if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
        raise ProtocolError("a report whose usage is no numbers")
    if frame.kind == wire.FAILURE and not (head["reason"] in REASONS and isinstance(head["detail"], str)):
        raise ProtocolError("a failure without a reason that we know")
    if not isinstance(head.get("evidence"), dict | None):
        raise ProtocolError("a failure whose evidence is no object")
    return Usage(*numbers[:3]), numbers[3]
