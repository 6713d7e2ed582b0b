"""The scripts on a real Valkey against a small reference model: any order of calls, deaths, pauses and replays.

The model (`Model`) holds what the queue should look like, in Python's own lists. The machine does the same thing
to both and compares after every step. It also plays the others: a BullMQ worker, a BullMQ stall check, an operator.
Any job may become a parent, in any state, and any job may be cancelled.

Invariants: every job is in exactly one place; a lease is settled at most once, and nothing is written for it
after it is lost; a job that we hold has a fence, and fences grow for ever; no hash is made for a job that is gone;
whenever a job could start, the marker stands; a parent's books say what its children came to.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from heavyq.bullmq import ops
from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.lease import Lease, LeasedJob, LeaseRefused, NothingToLease
from heavyq.bullmq.options import Keep
from heavyq.bullmq.parent import OnFailure, Parent
from tests.support.ops import SETTLES, Rig

if TYPE_CHECKING:
    import redis

    from heavyq.store.client import Client

FOREIGN = "node:1"
BOOKS = ("dependencies", "processed", "failed", "unsuccessful")  # by the names of the keys


@dataclass
class ModelJob:
    priority: int = 0
    made: int = 0
    started: int = 0
    stalls: int = 0
    delay: int = 0
    deferred: bool = False
    settled_by: str | None = None
    holder: str | None = None  # token of the lease that counts; FOREIGN; None: nobody
    lock: str | None = None
    checkpoint: bool = False
    strikes: int = 0
    cancel: bool = False  # asked of the run
    parent: str | None = None
    rule: OnFailure | None = None
    books: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in BOOKS})


@dataclass
class Model:
    """What should be in Redis. Lists run from left to right as Redis shows them."""

    version: str | None = None
    paused: bool = False
    concurrency: int | None = None
    jobs: dict[str, ModelJob] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=lambda: {"wait": [], "paused": [], "active": []})
    scores: dict[str, dict[str, int]] = field(
        default_factory=lambda: {
            name: {} for name in ("delayed", "prioritized", "completed", "failed", "waiting-children")
        }
    )
    priorities: int = 0
    suspects: set[str] = field(default_factory=set)

    def closed(self) -> bool:
        return self.paused or (self.concurrency is not None and len(self.lists["active"]) >= self.concurrency)

    def can_start(self) -> bool:
        return not self.closed() and bool(self.lists["wait"] or self.scores["prioritized"])

    def target(self) -> list[str]:
        if not self.paused:
            return self.lists["wait"]
        for name in ("paused", "wait"):
            if self.lists[name]:
                return self.lists[name]
        return self.lists["paused" if self.version and self.version.startswith("bullmq:5.") else "wait"]

    def push(self, job_id: str, *, first: bool = False, by_priority: bool = True) -> None:
        priority = self.jobs[job_id].priority
        if priority and by_priority:
            if first:
                self.scores["prioritized"][job_id] = priority * 2**32
            else:
                self.priorities += 1
                self.scores["prioritized"][job_id] = priority * 2**32 + self.priorities
        else:
            target = self.target()
            target.insert(len(target) if first else 0, job_id)

    def push_delayed(self, job_id: str, due: int) -> None:
        low, high = due * 4096, due * 4096 + 4095
        same = [score for score in self.scores["delayed"].values() if low <= score <= high]
        self.scores["delayed"][job_id] = min(max(same) + 1, high) if same else low

    def ordered(self, name: str) -> list[str]:
        return sorted(self.scores[name], key=lambda job_id: (self.scores[name][job_id], job_id.encode()))

    def promote(self, now: int) -> None:
        for job_id in self.ordered("delayed"):
            if self.scores["delayed"][job_id] < (now + 1) * 4096:
                del self.scores["delayed"][job_id]
                self.jobs[job_id].delay = 0
                self.push(job_id)

    def take(self) -> str | None:
        if self.lists["wait"]:
            job_id = self.lists["wait"].pop()
        elif self.scores["prioritized"]:
            job_id = self.ordered("prioritized")[0]
            del self.scores["prioritized"][job_id]
        else:
            self.priorities = 0
            return None
        self.lists["active"].insert(0, job_id)
        return job_id

    def leave(self, job_id: str) -> None:
        self.lists["active"].remove(job_id)
        self.suspects.discard(job_id)
        job = self.jobs[job_id]
        job.holder = job.lock = None

    def remove(self, job_id: str) -> None:
        del self.jobs[job_id]
        self.suspects.discard(job_id)
        for items in self.lists.values():
            while job_id in items:
                items.remove(job_id)
        for scores in self.scores.values():
            scores.pop(job_id, None)

    def retain(self, name: str, now: int, keep: Keep) -> None:
        if keep.age_s is not None:
            old = [each for each in self.ordered(name) if self.scores[name][each] <= now - keep.age_s * 1000]
            for job_id in old[: keep.limit]:
                self.forget(job_id, now)
        if keep.count > 0:
            for job_id in self.ordered(name)[: -keep.count]:
                self.forget(job_id, now)

    def outcome_of(self, lease: Lease, verb: str = "") -> str:
        """What a settle of this lease should answer."""
        job = self.jobs.get(lease.job_id)
        if job is None:
            return "gone"
        if job.settled_by == lease.token:
            return "settled"
        if job.holder != lease.token or job.lock not in (lease.token, None):
            return "lost"
        if verb == "complete" and job.books["dependencies"]:
            return "pending_children"
        return "failed_children" if verb in ("complete", "wait_children") and job.books["unsuccessful"] else "ok"

    # -- parents

    def finish(self, job_id: str, name: str, now: int, keep: Keep) -> None:
        """End a job that has left where it was: its place, its parent's books, retention."""
        job = self.jobs[job_id]
        job.strikes = 0
        if keep.count:
            self.scores[name][job_id] = now
        if name == "completed" and self.strike_off(job_id, "processed"):
            self.release_if_none_pending(job.parent, now)
        elif name == "failed" and job.rule:
            self.child_failed(job_id, job.rule, now)
        if keep.count == 0:
            self.forget(job_id, now)
        else:
            self.retain(name, now, keep)

    def strike_off(self, job_id: str, book: str | None = None) -> bool:
        """Let its parent wait for a job no longer; whether it did. book: where the parent has it from now on."""
        parent = self.jobs.get(self.jobs[job_id].parent or "")
        if parent is None or job_id not in parent.books["dependencies"]:
            return False
        parent.books["dependencies"].discard(job_id)
        if book:
            parent.books[book].add(job_id)
        return True

    def child_failed(self, job_id: str, rule: OnFailure, now: int) -> None:
        parent = self.jobs[job_id].parent
        book = {"fail": "unsuccessful", "continue": "failed", "ignore": "failed", "remove": None}[rule]
        if not self.strike_off(job_id, book):
            return
        assert parent is not None
        if rule == "continue":
            self.release(parent, now)
        elif rule != "fail":
            self.release_if_none_pending(parent, now)
        elif parent in self.scores["waiting-children"]:
            self.jobs[parent].deferred = True
            self.release(parent, now)
        elif self.scores["delayed"].pop(parent, None):
            self.jobs[parent].deferred = True
            self.jobs[parent].delay = 0
            self.place(parent, now)
        elif parent not in self.scores["failed"]:
            self.jobs[parent].deferred = True

    def release_if_none_pending(self, job_id: str | None, now: int) -> None:
        if job_id in self.jobs and not self.jobs[job_id].books["dependencies"]:
            self.release(job_id, now)

    def release(self, job_id: str, now: int) -> None:
        if self.scores["waiting-children"].pop(job_id, None):
            self.place(job_id, now)

    def place(self, job_id: str, now: int) -> None:
        job = self.jobs[job_id]
        if job.delay:
            self.scores["delayed"][job_id] = (now + job.delay) * 4096
        else:
            self.push(job_id, first=not job.priority)

    def forget(self, job_id: str, now: int) -> None:
        """Delete a job that has ended; its parent waits for it no longer."""
        parent, waited = self.jobs[job_id].parent, self.strike_off(job_id)
        self.remove(job_id)
        if waited:
            self.release_if_none_pending(parent, now)

    def left_a_run(self, job_id: str, *, goes_on: bool) -> None:
        """A cancel that the run did not hear of becomes the failure of the next one."""
        job = self.jobs[job_id]
        job.deferred |= job.cancel and goes_on
        job.cancel = False


def _move(name: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    return st.tuples(st.just(name), st.fixed_dictionaries(arguments))


_N = st.integers(0, 50)
_HELD = st.sampled_from([True, True, True, False])
_RULE = st.sampled_from([None, "fail", "fail", "continue", "ignore", "remove"])  # a child's
_JOB = st.tuples(
    st.sampled_from([0, 0, 0, 1, 2]),  # priority
    st.sampled_from([0, 0, 0, 3, 20]),  # delay
    st.booleans(),  # lifo
    st.sampled_from([None, None, None, "a", "b"]),  # id
    st.sampled_from([None, None, None, "parent", "child", "child"]),
    _RULE,
)
_ADD = _move("add", jobs=st.lists(_JOB, min_size=1, max_size=3))
_LEASE = _move("lease", popped=st.booleans(), times=st.integers(1, 2))
_SETTLE = _move(
    "settle",
    n=_N,
    held=_HELD,
    verb=st.sampled_from(SETTLES),
    keep=st.sampled_from([Keep(), Keep(), Keep(0), Keep(1), Keep(2), Keep(-1, age_s=0, limit=1)]),
    delay=st.sampled_from([0, 3, 20]),
    flag=st.booleans(),
)
_ENDS = st.sampled_from([None, None, "complete", "complete", "wait_children", "fail"])
_DIE = _move("die_of_memory", n=_N, held=_HELD, delay=st.sampled_from([0, 0, 3]), times=st.integers(1, 3))
_FAMILY = _move("family", n=_N, rule=_RULE, verb=st.sampled_from(["complete", "fail", "fail"]), then=_ENDS)
_OTHERS = [
    _move("time_passes", ms=st.integers(1, 30), expires=st.booleans(), n=_N),
    _move("renew", n=_N, held=_HELD, lock_ms=st.sampled_from([30_000, 60_000])),
    _move("write", n=_N, held=_HELD, verb=st.sampled_from(["progress", "checkpoint", "log"])),
    _move("cancel", n=_N, active=st.booleans(), keep=st.sampled_from([Keep(), Keep(0), Keep(1)])),
    _move("sweep", limit=st.sampled_from([0, 2]), looks=st.integers(1, 2)),
    _move("node", action=st.sampled_from(["lease", "lease", "complete", "sweep", "sweep"]), n=_N),
    _move(
        "operator",
        action=st.sampled_from(["pause", "resume", "resume", "concurrency", "obliterate"]),
        concurrency=st.sampled_from([None, None, 1, 2, 3]),
        n=_N,
    ),
    _move("wake"),
]
# One rule for all moves, weighed here: Hypothesis switches whole rules off at random, run by run, and a queue
# without adds or without leases shows nothing.
MOVES = st.one_of(_ADD, _ADD, _LEASE, _LEASE, _SETTLE, _SETTLE, _FAMILY, _FAMILY, _DIE, *_OTHERS)


class ScriptMachine(RuleBasedStateMachine):
    client: ClassVar[Client]
    raw: ClassVar[redis.Redis]
    prefix: ClassVar[str]
    numbers: ClassVar[Any] = itertools.count()
    seen: ClassVar[Counter[str]] = Counter()  # what happened over all runs: a test that never gets there is none

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(self.client, self.raw, QueueKey(self.prefix, f"q{next(self.numbers)}"))
        self.model = Model()
        self.leases: list[Lease] = []
        self.settled: Counter[str] = Counter()
        self.left_fence: set[str] = set()  # jobs that Node's stall check took from us: it knows no fence

    def teardown(self) -> None:
        keys = list(self.raw.scan_iter(self.rig.key("*"), count=1000))
        if keys:
            self.raw.unlink(*keys)

    def _pick(self, n: int, *, held: bool) -> Lease | None:
        """A lease that should be ours still (taken now if there is none), or any that ever was."""
        if not held:
            return self.leases[n % len(self.leases)] if self.leases else None
        ours = [each for each in self.leases if self.model.outcome_of(each) == "ok"]
        if not ours:
            self._lease()
            ours = [each for each in self.leases if self.model.outcome_of(each) == "ok"]
        return ours[n % len(ours)] if ours else None

    @rule(move=MOVES)
    def step(self, move: tuple[str, dict[str, Any]]) -> None:
        name, arguments = move
        getattr(self, name)(**arguments)

    # -- the world

    @initialize(
        version=st.sampled_from([None, "bullmq:5.81.5", "bullmq:6.7.0"]), concurrency=st.sampled_from([None, None, 2])
    )
    def open(self, version: str | None, concurrency: int | None) -> None:
        self.rig.run(ops.open_queue(self.rig.q))
        if version:
            self.rig.meta(version=version)
        self.model.version = version
        self._set_concurrency(concurrency)

    def time_passes(self, ms: int, expires: bool, n: int) -> None:
        """The clocks move; a lock may expire."""
        self.rig.now += ms
        held = [job_id for job_id in self.model.lists["active"] if self.model.jobs[job_id].lock]
        if expires and held:
            job_id = held[n % len(held)]
            self.rig.expire_lock(job_id)
            self.model.jobs[job_id].lock = None

    def operator(self, action: str, concurrency: int | None, n: int) -> None:
        if action == "pause":
            self._pause()
        elif action == "resume":
            self._resume()
        elif action == "concurrency":
            self._set_concurrency(concurrency)
        elif len(self.model.jobs) > 3:
            self._obliterate(sorted(self.model.jobs)[n % len(self.model.jobs)])

    def _pause(self) -> None:
        """As heavyq will: where BullMQ 5 wrote, `wait` goes into `paused`; nothing is lost by it."""
        lists = self.model.lists
        self.rig.meta(paused=1)
        self.raw.delete(self.rig.key("marker"))
        self.model.paused = True
        if self.model.version == "bullmq:5.81.5" and lists["wait"]:
            lists["paused"] = lists["wait"] + lists["paused"]
            lists["wait"] = []
            self._write_lists()

    def _resume(self) -> None:
        """As BullMQ 6 does: what lies in `paused` runs first."""
        lists = self.model.lists
        self.raw.hdel(self.rig.key("meta"), "paused")
        self.model.paused = False
        lists["wait"] += lists["paused"]
        lists["paused"] = []
        self._write_lists()
        self._wake_others()

    def _write_lists(self) -> None:
        for name in ("wait", "paused"):
            self.raw.delete(self.rig.key(name))
            if self.model.lists[name]:
                self.raw.rpush(self.rig.key(name), *self.model.lists[name])

    def _set_concurrency(self, count: int | None) -> None:
        self.model.concurrency = count
        if count is None:
            self.raw.hdel(self.rig.key("meta"), "concurrency")
        else:
            self.rig.meta(concurrency=count)
        self._wake_others()

    def _obliterate(self, job_id: str) -> None:
        """By force: also when it is active and locked."""
        self.model.remove(job_id)
        self.left_fence.discard(job_id)
        for name in ("wait", "paused", "active"):
            self.raw.lrem(self.rig.key(name), 0, job_id)
        for name in self.model.scores:
            self.raw.zrem(self.rig.key(name), job_id)
        self.raw.srem(self.rig.key("stalled"), job_id)
        suffixes = ("", ":lock", ":logs", *(f":{book}" for book in BOOKS))
        self.raw.delete(*(self.rig.key(job_id + suffix) for suffix in suffixes))
        self._wake_others()

    def _wake_others(self) -> None:
        if self.model.can_start():
            self.raw.zadd(self.rig.key("marker"), {"0": 0})

    # -- producers

    def add(self, jobs: list[tuple[int, int, bool, str | None, str | None, OnFailure | None]]) -> None:
        for priority, delay, lifo, job_id, kin, on_failure in jobs:
            parent = self._find_parent() if kin == "child" and job_id is None else None
            self._add(priority, delay, lifo, job_id, parent, on_failure, waits=kin == "parent")

    def _add(
        self,
        priority: int,
        delay: int,
        lifo: bool,
        job_id: str | None,
        parent: str | None,
        rule: OnFailure | None,
        *,
        waits: bool = False,
    ) -> None:
        op = ops.add(
            self.rig.q,
            name="job",
            data=b"{}",
            opts=b"{}",
            timestamp_ms=self.rig.now,
            priority=priority,
            delay_ms=delay,
            lifo=lifo,
            job_id=job_id,
            parent=Parent(self.rig.q, parent, rule) if parent else None,
            waits_for_children=waits,
        )
        added = self.rig.run(op)
        assert added.existed == (job_id in self.model.jobs)
        if added.existed:
            return
        self.model.jobs[added.id] = ModelJob(
            priority=priority, delay=delay, parent=parent, rule=rule if parent else None
        )
        if parent:
            self.model.jobs[parent].books["dependencies"].add(added.id)
        if waits:
            self.model.scores["waiting-children"][added.id] = self.rig.now
        elif delay:
            self.model.push_delayed(added.id, self.rig.now + delay)
        else:
            self.model.push(added.id, first=lifo and not priority)

    def _find_parent(self) -> str | None:
        """The newest job that waits for children, else the newest of all, whatever it does."""
        waiting = self.model.ordered("waiting-children")
        return next(iter([*reversed(waiting), *reversed(self.model.jobs)]), None)

    def cancel(self, n: int, active: bool, keep: Keep) -> None:
        model = self.model
        candidates = model.lists["active"] if active else sorted(model.jobs)
        if not candidates:
            return
        job_id = candidates[n % len(candidates)]
        answer = self.rig.run(ops.cancel(self.rig.q, job_id, reason="x", now_ms=self.rig.now, keep=keep))
        self.seen[f"cancel: {answer}"] += 1
        if job_id in model.lists["active"]:
            assert answer == "asked"
            model.jobs[job_id].cancel = True
        elif job_id in {**model.scores["completed"], **model.scores["failed"]}:
            assert answer == "over"
        else:
            assert answer == "failed"
            for items in (*model.lists.values(), *model.scores.values()):
                if job_id in items:
                    items.remove(job_id) if isinstance(items, list) else items.pop(job_id)
            model.jobs[job_id].deferred = False
            model.finish(job_id, "failed", self.rig.now, keep)

    # -- our worker

    def lease(self, popped: bool, times: int) -> None:
        if popped:
            self.raw.delete(self.rig.key("marker"))
        for _ in range(times):
            self._lease()

    def _lease(self) -> None:
        token = self.rig.token()
        reply = self.rig.try_lease(token=token)
        self.seen[type(reply).__name__] += 1
        self.model.promote(self.rig.now)
        if self.model.closed():
            assert reply == LeaseRefused(0)
            return
        job_id = self.model.take()
        if job_id is None:
            dues = [score // 4096 for score in self.model.scores["delayed"].values()]
            assert reply == NothingToLease(min(dues) if dues else None)
            return
        assert isinstance(reply, LeasedJob)
        job = self.model.jobs[job_id]
        job.started += 1
        job.holder = job.lock = token
        lease = reply.lease
        assert (lease.job_id, lease.started, lease.processed_on_ms) == (job_id, job.started, self.rig.now)
        assert (b"defa" in reply.fields) == job.deferred
        job.cancel = False
        self.leases.append(lease)
        self.left_fence.discard(job_id)
        assert self.rig.exists("marker")
        again = self.rig.try_lease(token=token, replay=True, now_ms=self.rig.now + 1)
        assert again == reply

    def renew(self, n: int, held: bool, lock_ms: int) -> None:
        lease = self._pick(n, held=held)
        if lease is None:
            return
        renewed = self.rig.run(ops.renew(self.rig.q, [lease], lock_ms=lock_ms))
        if self.model.outcome_of(lease) == "ok":
            assert renewed.lost == ()
            assert renewed.cancelled == ({lease.token: "x"} if self.model.jobs[lease.job_id].cancel else {})
            self.model.jobs[lease.job_id].lock = lease.token
            self.model.suspects.discard(lease.job_id)
        else:
            assert renewed == ops.Renewed((lease.token,), {})

    def write(self, n: int, held: bool, verb: str) -> None:
        lease = self._pick(n, held=held)
        if lease is None:
            return
        writes = {
            "progress": ops.progress(lease, b"1"),
            "checkpoint": ops.checkpoint(lease, b"1"),
            "log": ops.log(lease, ["row"], keep=2),
        }
        written = self.rig.run(writes[verb])
        assert written == (self.model.outcome_of(lease) == "ok")
        if written and verb == "checkpoint":
            self.model.jobs[lease.job_id].checkpoint = True

    def settle(self, n: int, held: bool, verb: str, keep: Keep, delay: int, flag: bool) -> None:
        lease = self._pick(n, held=held)
        if lease is not None:
            self._settle(lease, verb, keep, delay, flag)

    def family(self, n: int, rule: OnFailure | None, verb: str, then: str | None) -> None:
        """A job in work adds a child, which often ends before its parent goes on."""
        lease = self._pick(n, held=True)
        if lease is None:
            return
        self._add(0, 0, lifo=True, job_id=None, parent=lease.job_id, rule=rule)
        self._lease()
        if self.leases[-1] != lease:
            self._settle(self.leases[-1], verb, Keep(), 0, flag=False)
        if then:
            self._settle(lease, then, Keep(), 0, flag=False)

    def die_of_memory(self, n: int, held: bool, delay: int, times: int) -> None:
        """A job goes back with one strike more; then something is leased, often the same job."""
        lease = self._pick(n, held=held)
        if lease is None:
            return
        job = self.model.jobs.get(lease.job_id)
        self._settle(lease, "delay", Keep(), delay, flag=False, strikes=job.strikes + 1 if job else 1)
        for _ in range(times):
            self._lease()

    def _settle(self, lease: Lease, verb: str, keep: Keep, delay: int, flag: bool, strikes: int | None = None) -> None:
        expected = self.model.outcome_of(lease, verb)
        options: dict[str, Any] = {
            "complete": {"keep": keep},
            "fail": {"keep": keep},
            "retry": {"lifo": flag},
            "delay": {"delay_ms": delay, "burn_attempt": flag, "strikes": strikes},
            "hand_back": {},
            "wait_children": {},
        }[verb]
        before = self.rig.dump() if expected != "ok" else None
        answer = self.rig.settle(verb, lease, **options)
        self.seen[f"{verb}: {expected}"] += 1
        if before is not None:
            assert answer == expected
            assert self.rig.dump() == before, "nothing is written after lost, gone or settled"
            return
        assert answer == "settled"
        self.settled[lease.token] += 1
        if strikes is not None:
            self.model.jobs[lease.job_id].strikes = strikes
            self.seen["struck"] += 1
        self._settle_in_model(lease, verb, keep, delay, flag)

    def _settle_in_model(self, lease: Lease, verb: str, keep: Keep, delay: int, flag: bool) -> None:
        model, job_id = self.model, lease.job_id
        job = model.jobs[job_id]
        model.leave(job_id)
        job.settled_by = lease.token
        model.left_a_run(job_id, goes_on=verb not in ("complete", "fail"))
        job.made += verb in ("complete", "fail", "retry") or (verb == "delay" and flag)
        if verb in ("complete", "fail"):
            if verb == "complete":
                job.checkpoint = False
            else:
                job.deferred = False
            self.seen[f"{verb} after strikes"] += bool(job.strikes)
            model.finish(job_id, {"complete": "completed", "fail": "failed"}[verb], self.rig.now, keep)
        elif verb == "wait_children" and job.books["dependencies"]:
            model.scores["waiting-children"][job_id] = self.rig.now
        elif verb == "retry":
            model.promote(self.rig.now)
            model.push(job_id, first=flag and not job.priority)
        elif verb == "delay":
            job.delay = delay
            model.push_delayed(job_id, self.rig.now + delay)
        else:
            model.push(job_id, first=True)

    def sweep(self, limit: int, looks: int) -> None:
        for _ in range(looks):
            self._sweep(limit)

    def _sweep(self, limit: int) -> None:
        model = self.model
        back = self.rig.sweep(limit=limit)
        self.seen["swept"] += len(back)
        expected = {each for each in model.suspects & {*model.lists["active"]} if not model.jobs[each].lock}
        assert {*back} == expected
        assert len(back) == len(expected)
        for job_id in back:
            model.leave(job_id)
            model.left_a_run(job_id, goes_on=True)
            job = model.jobs[job_id]
            job.stalls += 1
            job.deferred |= job.stalls > limit
            self.left_fence.discard(job_id)
            model.push(job_id, first=True, by_priority=False)
        model.suspects = {*model.lists["active"]}

    def wake(self) -> None:
        self.raw.delete(self.rig.key("marker"))
        self.rig.run(ops.wake(self.rig.q))
        marker = self.rig.zset("marker")
        assert ("0" in marker) == self.model.can_start()
        dues = [score / 4096 for score in self.model.scores["delayed"].values()]
        assert marker.get("1") == (min(dues) if dues else None)

    # -- a BullMQ worker on the same queue

    def node(self, action: str, n: int) -> None:
        model = self.model
        if action == "lease" and model.lists["wait"] and not model.closed():
            self._node_leases()
        elif action == "complete":
            held = [each for each in model.lists["active"] if model.jobs[each].lock == FOREIGN]
            if held:
                self._node_completes(held[n % len(held)])
        elif action == "sweep":
            self._node_sweeps()

    def _node_leases(self) -> None:
        job_id = self.model.take()
        assert job_id is not None
        moved = self.raw.lmove(self.rig.key("wait"), self.rig.key("active"), "RIGHT", "LEFT")
        assert moved is not None
        assert moved.decode() == job_id
        job = self.model.jobs[job_id]
        job.started += 1
        job.holder = job.lock = FOREIGN
        self.raw.set(self.rig.key(f"{job_id}:lock"), FOREIGN, px=30_000)
        self.raw.hincrby(self.rig.key(job_id), "ats", 1)
        self.raw.hset(self.rig.key(job_id), "processedOn", self.rig.now)
        self.raw.zadd(self.rig.key("marker"), {"0": 0})
        self.seen["node leased"] += 1

    def _node_completes(self, job_id: str) -> None:
        self.model.leave(job_id)
        self.model.jobs[job_id].made += 1
        self.model.scores["completed"][job_id] = self.rig.now
        self.raw.delete(self.rig.key(f"{job_id}:lock"))
        self.raw.srem(self.rig.key("stalled"), job_id)
        self.raw.lrem(self.rig.key("active"), -1, job_id)
        self.raw.hincrby(self.rig.key(job_id), "atm", 1)
        self.raw.hset(self.rig.key(job_id), "finishedOn", self.rig.now)
        self.raw.zadd(self.rig.key("completed"), {job_id: self.rig.now})
        self._wake_others()  # Node fetches the next one in the same step

    def _node_sweeps(self) -> None:
        """As Node does it: hq:fence stays in the hash."""
        model = self.model
        stalled = [each for each in model.lists["active"] if each in model.suspects and not model.jobs[each].lock]
        self.seen["node swept"] += len(stalled)
        for job_id in stalled:
            if model.jobs[job_id].holder not in (None, FOREIGN):
                self.left_fence.add(job_id)
            model.leave(job_id)
            model.jobs[job_id].stalls += 1
            self.raw.lrem(self.rig.key("active"), 1, job_id)
            self.raw.hincrby(self.rig.key(job_id), "stc", 1)
            target = "paused" if model.target() is model.lists["paused"] else "wait"
            model.push(job_id, first=True, by_priority=False)
            self.raw.rpush(self.rig.key(target), job_id)
        model.suspects = {*model.lists["active"]}
        self.raw.delete(self.rig.key("stalled"))
        if model.suspects:
            self.raw.sadd(self.rig.key("stalled"), *model.suspects)
        self._wake_others()

    # -- what always holds

    @invariant()
    def redis_and_model_agree(self) -> None:
        rig, model = self.rig, self.model
        for name, items in model.lists.items():
            assert rig.list(name) == items, name
        for name, scores in model.scores.items():
            assert rig.zset(name) == scores, name
        assert {item.decode() for item in self.raw.smembers(rig.key("stalled"))} == model.suspects

    @invariant()
    def every_job_is_in_one_place_and_its_hash_is_right(self) -> None:
        rig, model = self.rig, self.model
        dump = rig.dump()
        places = Counter([*itertools.chain(*model.lists.values()), *itertools.chain(*map(list, model.scores.values()))])
        hashes = {name: value for name, value in dump.items() if isinstance(value, dict) and "opts" in value}
        assert hashes.keys() == model.jobs.keys() == places.keys()
        assert {*places.values()} <= {1}
        for job_id, job in model.jobs.items():
            found = hashes[job_id]
            counts = {name: int(found.get(name, 0)) for name in ("atm", "ats", "stc", "delay")}
            assert counts == {"atm": job.made, "ats": job.started, "stc": job.stalls, "delay": job.delay}
            assert ("defa" in found, "hq:checkpoint" in found) == (job.deferred, job.checkpoint)
            assert ("hq:cancel" in found) == job.cancel
            assert found.get("hq:strikes") == (str(job.strikes) if job.strikes else None)
            assert dump.get(f"{job_id}:lock") == job.lock
            ours = job.holder not in (None, FOREIGN)
            assert ("hq:fence" in found) == (ours or job_id in self.left_fence)
            for book, children in job.books.items():
                assert {*dump.get(f"{job_id}:{book}", ())} == {rig.key(child) for child in children}, book
        strays = {name for name in dump if name.split(":")[0] not in model.jobs} - _STRUCTURES
        assert not strays, "no ghosts"

    @invariant()
    def leases_are_settled_once_and_fences_grow(self) -> None:
        assert all(count == 1 for count in self.settled.values())
        fences = [lease.fence for lease in self.leases]
        assert fences == sorted(set(fences))

    @invariant()
    def whoever_could_start_a_job_is_woken(self) -> None:
        if self.model.can_start():
            assert self.raw.zscore(self.rig.key("marker"), "0") == 0


_STRUCTURES = {
    *("meta", "id", "wait", "paused", "active", "prioritized", "pc", "delayed", "completed", "failed"),
    *("waiting-children", "stalled", "stalled-check", "marker", "events", "hq:counter"),
}


@pytest.mark.timeout(420)  # a failure is shrunk for up to 300 s; cut off in that, it would not say what failed
def test_scripts_agree_with_the_model_whatever_happens(client, raw, prefix) -> None:
    class Bound(ScriptMachine):
        seen: ClassVar[Counter[str]] = Counter()

    Bound.client, Bound.raw, Bound.prefix = client, raw, prefix
    outcomes = {f"{verb}: ok" for verb in SETTLES}
    cancels = {f"cancel: {answer}" for answer in ("failed", "asked", "over")}
    leases = {"LeasedJob", "LeaseRefused", "NothingToLease", "struck"}
    wanted = outcomes | cancels | leases | {"complete: pending_children"}
    refused = {"complete: failed_children", "wait_children: failed_children"}
    for _ in range(5):  # what a round happens not to try, the next one does
        run_state_machine_as_test(
            Bound,
            settings=settings(
                max_examples=100,
                stateful_step_count=50,
                deadline=None,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
        if Bound.seen.keys() >= wanted and Bound.seen.keys() & refused:
            break
    print(dict(sorted(Bound.seen.items())))
    assert Bound.seen.keys() >= wanted
    assert Bound.seen.keys() & refused
