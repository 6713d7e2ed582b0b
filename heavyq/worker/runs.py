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
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

from heavyq.bullmq.job_hash import PARENT_KEY, Unreadable, append_trace, attempts_made, strikes
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
from heavyq.bullmq.ops.wait_children import wait_children
from heavyq.bullmq.options import KEEP_ALL, Keep, WireOptions
from heavyq.bullmq.parent import Parent, read_job_key
from heavyq.core import run as life
from heavyq.core.outcome import REASONS, STARTED_TOO_OFTEN, Failure, Usage, deferred
from heavyq.core.retry import DELAY_MAX_MS
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


@dataclass(slots=True, eq=False)
class Run:
    """One lease's life.

    number: ours. child: the one that has the job. alone: it may share a child with no other. claims_seat: its outcome
    has no answer yet, and its seat is not passed on. meter: what is measured of it, once it is in a child. began_s,
    kills_before: when that was, and how many kernel kills its child's group had seen by then. stop_by_s:
    when the child is killed if the job has not stopped, as it was told; told: the child has heard that. until_s,
    moved_s: when its time is over; when it last made progress.
    """

    number: int
    job: LeasedJob
    facts: life.JobFacts
    opts: WireOptions
    state: life.RunState
    leased_s: float
    child: int | None = None
    alone: bool = False
    claims_seat: bool = False
    stop_by_s: float | None = None
    told: bool = False
    until_s: float | None = None
    moved_s: float = 0.0
    meter: RunMeter | None = None
    began_s: float = 0.0
    kills_before: int = 0
    progress: bytes | None = None
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_LINES))
    rows: deque[str] = field(default_factory=deque)
    rows_dropped: int = 0

    @property
    def queue(self) -> QueueKey:
        return self.job.lease.queue

    def forget_fields(self) -> None:
        """Leave out of the outcome what others wrote into the job's hash, and what the job said."""
        self.job = replace(self.job, fields={})
        self.progress = None
        self.lines.clear()


_known_opts = functools.lru_cache(maxsize=256)(WireOptions.read)  # most jobs of a queue have the same options


def _read_opts(raw: bytes) -> WireOptions:
    return _known_opts(raw) if len(raw) <= _KNOWN_OPTS_BYTES_MAX else WireOptions.read(raw)


@dataclass(frozen=True, slots=True)
class Rules:
    """What a queue's settings and functions mean for the decisions about its jobs.

    memory_retry: a death by memory may be run again. strategy: it has a backoff strategy. starts_max: how often a job
    may be started, whatever the reason; None: as often as it takes. metrics_points: for how many minutes ends are
    counted. keep_completed, keep_failed: what stays of jobs that say nothing of it.
    """

    memory_retry: bool = False
    strategy: bool = False
    starts_max: int | None = None
    metrics_points: int = 0
    keep_completed: Keep = KEEP_ALL
    keep_failed: Keep = KEEP_ALL


def read_job(job: LeasedJob, roll: float, rules: Rules) -> tuple[life.JobFacts, WireOptions]:
    """Read what the decisions need from a job's hash. roll: random in [0, 1), for the backoff's jitter."""
    fields = job.fields
    made = attempts_made(fields)
    raw_opts = fields.get(b"opts", b"")
    try:
        if len(raw_opts) > _OPTS_BYTES_MAX:
            raise Unreadable("opts", f"{len(raw_opts)} bytes; at most {_OPTS_BYTES_MAX} are read")
        if b"name" not in fields or b"data" not in fields:
            raise Unreadable("name" if b"name" not in fields else "data", "the field is missing from the job's hash")
        _check_parent(fields)
        opts = _read_opts(raw_opts)
    except Unreadable as error:
        unreadable = Failure("unreadable", str(error))
        return life.JobFacts(made, 0, None, roll, unreadable=unreadable), WireOptions.read(b"{}")
    facts = life.JobFacts(
        made=made,
        attempts=opts.attempts,
        backoff=opts.backoff,
        roll=roll,
        deferred=_must_not_run(job, rules),
        strikes=strikes(fields),
        memory_retry=rules.memory_retry,
        strategy=rules.strategy,
    )
    return facts, opts


def _check_parent(fields: Mapping[bytes, bytes]) -> None:
    """A child whose reference to its parent is broken is not run: nobody could keep that parent's books."""
    raw, key = fields.get(b"parent"), fields.get(PARENT_KEY)
    if raw is not None and Parent.read_field(raw) is None:
        raise Unreadable("parent", "a JSON object with `id` and `queueKey` is expected")
    if key is not None and read_job_key(key.decode("utf-8", "replace")) is None:
        raise Unreadable(PARENT_KEY.decode(), "a job's full key is expected")


def _must_not_run(job: LeasedJob, rules: Rules) -> Failure | None:
    if told := job.fields.get(b"defa"):
        return deferred(told.decode("utf-8", "replace"))
    if rules.starts_max is not None and job.lease.started > rules.starts_max:
        return STARTED_TOO_OFTEN
    return None


def settle_op(run: Run, settlement: life.Settlement, rules: Rules) -> Op[Settled]:
    """Return the one operation that ends the run."""
    lease, now_ms = run.job.lease, epoch_ms()
    match settlement:
        case life.Complete():
            return complete(
                lease,
                now_ms=now_ms,
                returnvalue=settlement.result,
                keep=run.opts.remove_on_complete or rules.keep_completed,
                usage=settlement.usage.to_json(lease.started),
                metrics_points=rules.metrics_points,
            )
        case life.Fail():
            return fail(
                lease,
                now_ms=now_ms,
                keep=run.opts.remove_on_fail or rules.keep_failed,
                attempts=run.opts.attempts,
                metrics_points=rules.metrics_points,
                **_why(run, settlement.failure, settlement.usage),
            )
        case life.RetryNow():
            return retry(lease, now_ms=now_ms, lifo=run.opts.lifo, **_why(run, settlement.failure, settlement.usage))
        case life.RetryLater() | life.Strike() | life.Snooze():
            return _delay(run, settlement, now_ms)
        case life.WaitForChildren():
            return wait_children(lease, now_ms=now_ms, usage=settlement.usage.to_json(lease.started))
        case life.HandBack():
            return hand_back(lease, now_ms=now_ms, usage=None, strikes=settlement.strikes, limit_ms=settlement.limit_ms)
        case _:
            assert_never(settlement)


def _delay(run: Run, settlement: life.RetryLater | life.Strike | life.Snooze, now_ms: int) -> Op[Settled]:
    told: dict[str, Any]
    if isinstance(settlement, life.Snooze):
        usage = settlement.usage.to_json(run.job.lease.started)
        told = {"failed_reason": None, "stacktrace": None, "failure": None, "usage": usage}
    else:
        told = _why(run, settlement.failure, settlement.usage)
    if isinstance(settlement, life.Strike):
        told["strikes"] = settlement.strikes
    burns = isinstance(settlement, life.RetryLater)
    return delay(run.job.lease, now_ms=now_ms, delay_ms=settlement.delay_ms, burn_attempt=burns, **told)


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
    numbers = (told["peak_rss_bytes"], told["cpu_s"], told["wall_s"], head["cpu_total_s"])
    if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
        raise ProtocolError("a report whose usage is no numbers")
    if frame.kind == wire.FAILURE:
        _check_failure(head)
    if frame.kind == wire.LATER and not (head["what"] in wire.LATER_KINDS and _is_delay(head["delay_ms"], least=0)):
        raise ProtocolError("a job that is to run later, and nobody knows when")
    if frame.kind == wire.STOPPED and run.stop_by_s is None:
        raise ProtocolError("a job that has stopped and was not told to")
    return Usage(*numbers[:3]), numbers[3]


def _check_failure(head: Mapping[str, Any]) -> None:
    if not (head["reason"] in REASONS and isinstance(head["detail"], str)):
        raise ProtocolError("a failure without a reason that we know")
    evidence = head.get("evidence")
    if not isinstance(evidence, dict | None):
        raise ProtocolError("a failure whose evidence is no object")
    sizes = [value for name, value in (evidence or {}).items() if name.endswith("_bytes") and value is not None]
    if not all(type(size) is int for size in sizes):
        raise ProtocolError("a failure whose evidence has sizes that are no numbers")
    if not (head.get("retry_ms") is None or _is_delay(head["retry_ms"], least=-1)):
        raise ProtocolError("a failure whose retry_ms is no number")


def _is_delay(value: object, *, least: int) -> bool:
    return type(value) is int and least <= value <= DELAY_MAX_MS
