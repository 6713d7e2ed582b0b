"""Two queues that get the same steps, one from real BullMQ and one from heavyq, and must stay the same.

Owns the clock of both, the steps, and what may differ: heavyq's own `hq:` fields and keys, the frames of a stack
trace, and how JSON and a time to live are written. Everything else is compared after every step: keys, types,
fields, values, scores, order, events with the order of their fields.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heavyq.bullmq import ops
from heavyq.bullmq.job_hash import append_trace, attempts_made
from heavyq.bullmq.lease import LeasedJob
from heavyq.bullmq.options import Backoff, Keep, WireOptions, pack_options
from heavyq.core.retry import After, Final, Now, decide_retry
from tests.support.ops import FAILURE, USAGE, Rig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from heavyq.bullmq.lease import Lease
    from tests.interop.node import NodeQueue

LOCK_MS = 30_000
STALLED_INTERVAL_MS = 30_000
_TTL_SLACK_MS = 5_000  # how far apart the two sides of one step may run on a busy machine
_JSON_FIELDS = ("data", "opts", "returnvalue", "progress", "parent")


@dataclass(frozen=True)
class Held:
    """A job that both sides hold."""

    id: str
    token: str
    job: LeasedJob


class Twins:
    """The pair. Every step is taken on both sides, and the two must then be the same.

    ours: the queue that heavyq's operations work on. theirs: BullMQ's, as it lies in Redis; `bull` works on it.
    """

    def __init__(self, ours: Rig, theirs: Rig, bull: NodeQueue) -> None:
        self.ours, self.theirs, self.bull = ours, theirs, bull
        self._tokens = itertools.count(1)
        self.steps: list[str] = []
        self.limiter: tuple[int, int] | None = None  # of heavyq's worker; BullMQ's is told by `limitWorker`
        self.metrics_points = 0  # the same; `countMinutes`
        self.later(0)

    # -- steps

    def later(self, ms: int) -> None:
        """Let `ms` pass on both clocks."""
        self.ours.now += ms
        self.theirs.now = self.ours.now
        self.bull.node.call("clock", now=self.ours.now)

    def add(self, data: Any = None, *, name: str = "job", **opts: Any) -> str:
        """Add a job with BullMQ's own option names."""
        data = {} if data is None else data
        theirs = self.bull.add(data, name=name, **opts)
        ours = self.ours.run(
            ops.add(
                self.ours.q,
                name=name,
                data=json.dumps(data).encode(),
                opts=packed(opts),
                timestamp_ms=opts.get("timestamp", self.ours.now),
                delay_ms=opts.get("delay", 0),
                priority=opts.get("priority", 0),
                lifo=opts.get("lifo", False),
                job_id=opts.get("jobId"),
            )
        )
        self.compare(f"add {opts}", ours.id, theirs)
        return theirs

    def add_by_node(self, data: Any = None, *, name: str = "job", **opts: Any) -> None:
        """Let Node add the job to both queues, so that heavyq works on what Node stored."""
        self.both("add", name=name, data={} if data is None else data, opts=opts)

    def fetch(self) -> Held:
        """Take the next job; there must be one. A deferred failure is failed first, as every worker does."""
        held = self.try_fetch()
        assert held is not None, "no job to fetch"
        return held

    def try_fetch(self) -> Held | None:
        token = f"hq:w1:{next(self._tokens)}"
        theirs = self.bull("fetch", token=token)
        ours = self._lease(token)
        ours_id = ours.lease.job_id if ours else None
        self.compare("fetch", ours_id, theirs and theirs["id"])
        if ours is None:
            return None
        return Held(ours.lease.job_id, token, ours)

    def complete(self, held: Held, value: Any = None) -> None:
        self.bull("complete", id=held.id, token=held.token, value=value)
        keep = _opts(held.job).remove_on_complete or Keep()
        returned = json.dumps(value).encode()
        op = ops.complete(held.job.lease, now_ms=self.ours.now, returnvalue=returned, keep=keep, **self._finish())
        assert self.ours.run(op) == "settled"
        self.compare(f"complete {held.id}")

    def fail(self, held: Held, message: str = "boom", *, unrecoverable: bool = False) -> None:
        """Let the job's run fail; each side decides by itself what follows."""
        self.bull("fail", id=held.id, token=held.token, message=message, unrecoverable=unrecoverable)
        name = "UnrecoverableError" if unrecoverable else "Error"
        self._fail_ours(held.job, message, name, final=unrecoverable)
        self.compare(f"fail {held.id}")

    def delay(self, held: Held, ms: int) -> None:
        """Move the job to a later moment, with no attempt burnt."""
        self.bull("delay", id=held.id, token=held.token, until=self.ours.now + ms)
        nothing = {"failed_reason": None, "stacktrace": None, "failure": None, "usage": None}
        op = ops.delay(held.job.lease, now_ms=self.ours.now, delay_ms=ms, burn_attempt=False, **nothing)
        assert self.ours.run(op) == "settled"
        self.compare(f"delay {held.id}")

    def hand_back(self, held: Held, *, but: str = "") -> None:
        """Return the job to the head. but: a key that differs on purpose."""
        self.bull("handBack", id=held.id, token=held.token)
        assert self.ours.run(ops.hand_back(held.job.lease, now_ms=self.ours.now, usage=None)) == "settled"
        self.compare(f"hand back {held.id}", but=but)

    def progress(self, held: Held, value: Any) -> None:
        self.bull("progress", id=held.id, value=value)
        assert self.ours.run(ops.progress(held.job.lease, json.dumps(value).encode()))
        self.compare(f"progress {held.id}")

    def log(self, held: Held, row: str) -> None:
        self.bull("log", id=held.id, row=row)
        assert self.ours.run(ops.log(held.job.lease, [row], keep=_opts(held.job).keep_logs))
        self.compare(f"log {held.id}")

    def extend(self, held: Held, ms: int) -> None:
        assert self.bull("extend", id=held.id, token=held.token, ms=ms) == 1
        assert self.ours.run(ops.renew(self.ours.q, [held.job.lease], lock_ms=ms)).lost == ()
        self.compare(f"extend {held.id}")

    def expire_lock(self, held: Held) -> None:
        """What the server does when nobody renews."""
        for side in (self.ours, self.theirs):
            side.expire_lock(held.id)

    def pop_markers(self) -> list[tuple[bytes, float]]:
        """Take what idle workers block on, all of it, so that the next steps show which markers they set."""
        popped: list[Any] = [side.raw.zpopmin(side.key("marker"), 9) for side in (self.ours, self.theirs)]
        self.compare("pop markers", *popped)
        taken: list[tuple[bytes, float]] = popped[0]
        return taken

    def sweep(self, *, max_stalled_count: int = 1) -> None:
        """Look for stalled jobs; the interval since the last look is over."""
        for side in (self.ours, self.theirs):
            side.raw.delete(side.key("stalled-check"))
        self.bull("checkStalled", maxStalledCount=max_stalled_count)
        self.ours.sweep(interval_ms=STALLED_INTERVAL_MS, limit=max_stalled_count, look=False)
        self.compare("sweep")

    def both(self, do: str, **arguments: Any) -> None:
        """Let Node do something to both queues: what heavyq does not do itself."""
        self.bull(do, **arguments)
        on_ours = self.bull.node.at(self.ours.q)
        on_ours(do, **arguments)
        on_ours("close")
        self.compare(do)

    def meta(self, **fields: Any) -> None:
        """Write settings of both queues."""
        for side in (self.ours, self.theirs):
            side.meta(**fields)

    def check(self, step: str = "check") -> None:
        """Compare the two as they are."""
        self.compare(step)

    # -- heavyq's side

    def _finish(self) -> dict[str, Any]:
        return {"usage": USAGE, "metrics_points": self.metrics_points}

    def _lease(self, token: str) -> LeasedJob | None:
        while True:
            reply = self.ours.try_lease(token=token, lock_ms=LOCK_MS, worker_name="wk", limiter=self.limiter)
            if not isinstance(reply, LeasedJob):
                return None
            deferred = reply.fields.get(b"defa")
            if deferred is None:
                return reply
            self._fail_ours(reply, deferred.decode(), "UnrecoverableError", final=True)

    def _fail_ours(self, job: LeasedJob, message: str, name: str, *, final: bool) -> None:
        opts = _opts(job)
        verdict = decide_retry(
            made=attempts_made(job.fields),
            attempts=opts.attempts,
            backoff=opts.backoff,
            reason="stalled" if final else "exception",  # one that is never retried, for the first
            rand=lambda: 0.5,
        )
        trace = f"{name}: {message}\n    at line 1"
        why: dict[str, Any] = {
            "failed_reason": message,
            "stacktrace": append_trace(job.fields.get(b"stacktrace"), trace, opts.stack_trace_limit),
            "failure": FAILURE,
            "usage": USAGE,
        }
        assert self.ours.run(self._verdict_op(job.lease, verdict, opts, why)) == "settled"

    def _verdict_op(self, lease: Lease, verdict: Final | Now | After, opts: WireOptions, why: dict[str, Any]) -> Any:
        now_ms = self.ours.now
        match verdict:
            case Final():
                keep = opts.remove_on_fail or Keep()
                return ops.fail(lease, now_ms=now_ms, keep=keep, attempts=opts.attempts, **{**why, **self._finish()})
            case Now():
                return ops.retry(lease, now_ms=now_ms, lifo=opts.lifo, **why)
            case After():
                return ops.delay(lease, now_ms=now_ms, delay_ms=verdict.delay_ms, burn_attempt=True, **why)

    # -- comparing

    def compare(self, step: str, ours: Any = None, theirs: Any = None, *, but: str = "") -> None:
        self.steps.append(step)
        mine, node = plain(self.ours.dump()), plain(self.theirs.dump())
        found = [
            *([f"reply: ours {ours!r}, BullMQ's {theirs!r}"] if ours != theirs else []),
            *(line for line in differences(mine, node) if not but or not line.startswith(f"{but}:")),
            *self.ttl_differences(),
        ]
        told = "\n  ".join(found)
        assert not found, f"BullMQ {self.bull.node.version}, after {' / '.join(self.steps)}:\n  {told}"

    def ttl_differences(self) -> Iterator[str]:
        ours, theirs = _ttls(self.ours), _ttls(self.theirs)
        for suffix in sorted(ours.keys() & theirs.keys()):
            one, other = ours[suffix], theirs[suffix]
            same = abs(one - other) <= _TTL_SLACK_MS if min(one, other) >= 0 else one == other
            if not same:
                yield f"{suffix}: lives for {one} ms, BullMQ's for {other} ms"


def packed(opts: Mapping[str, Any]) -> bytes:
    """Return what heavyq's producers store for options under BullMQ's names."""
    backoff = opts.get("backoff")
    if isinstance(backoff, int):
        backoff = {"type": "fixed", "delay": backoff}
    return pack_options(
        attempts=opts.get("attempts", 0),
        backoff=Backoff(backoff["type"], backoff["delay"], backoff.get("jitter", 0.0)) if backoff else None,
        priority=opts.get("priority", 0),
        delay_ms=opts.get("delay", 0),
        lifo=opts.get("lifo", False),
        remove_on_complete=_keep(opts.get("removeOnComplete")),
        remove_on_fail=_keep(opts.get("removeOnFail")),
        keep_logs=opts.get("keepLogs"),
        stack_trace_limit=opts.get("stackTraceLimit"),
        job_id=opts.get("jobId"),
        timestamp_ms=opts.get("timestamp"),
    )


def _keep(value: Any) -> Keep | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return Keep(0 if value else -1)
    if isinstance(value, int):
        return Keep(value)
    return Keep(value.get("count", -1), value.get("age"), value.get("limit", 1000))


def _opts(job: LeasedJob) -> WireOptions:
    return WireOptions.read(job.fields.get(b"opts", b""))


def _ttls(rig: Rig) -> dict[str, int]:
    start = len(rig.key(""))
    keys = list(rig.raw.scan_iter(rig.key("*"), count=1000))
    return {key.decode()[start:]: int(rig.raw.pttl(key)) for key in keys if not key.decode()[start:].startswith("hq:")}


def plain(dump: dict[str, Any]) -> dict[str, Any]:
    """Return a queue's dump without what is heavyq's own, with JSON parsed and orders made visible."""
    return {suffix: _plain_value(value) for suffix, value in dump.items() if not suffix.startswith("hq:")}


def _plain_value(value: Any) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [[(field, _plain_field(field, text)) for field, text in event.items()] for event in value]
    if isinstance(value, dict) and all(isinstance(each, str) for each in value.values()):
        return {field: _plain_field(field, text) for field, text in value.items() if not field.startswith("hq:")}
    if isinstance(value, dict):  # a sorted set: its order counts
        return list(value.items())
    return value


def _plain_field(field: str, text: str) -> Any:
    if field == "stacktrace":
        return [trace.splitlines()[0] for trace in json.loads(text)]
    return json.loads(text) if field in _JSON_FIELDS else text


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[str]:
    """Tell what differs, a line for each key or field."""
    for suffix in sorted(ours.keys() | theirs.keys()):
        one, other = ours.get(suffix), theirs.get(suffix)
        if isinstance(one, dict) and isinstance(other, dict):
            for field in sorted(one.keys() | other.keys()):
                if one.get(field) != other.get(field):
                    yield f"{suffix}: {field} is {one.get(field)!r}, BullMQ's {other.get(field)!r}"
        elif isinstance(one, list) and isinstance(other, list):
            for place, (mine, node) in enumerate(itertools.zip_longest(one, other)):
                if mine != node:
                    yield f"{suffix}: at {place} is {mine!r}, BullMQ's {node!r}"
        elif one != other:
            yield f"{suffix}: is {one!r}, BullMQ's {other!r}"
