"""Control: the runs and the queues of one worker. Leases for free seats, gives jobs to children, settles.

Owns every run from its lease to its end, and whose turn it is. Decisions are `core.run`'s and `core.fleet`'s;
Redis is behind `commands`, processes are behind `crew`. Runs on the loop, never blocks.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Sequence
from functools import partial
from typing import assert_never

import structlog

from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.lease import LeasedJob, LeaseRefused, LeaseReply, NothingToLease
from heavyq.bullmq.op import Op
from heavyq.bullmq.ops import Settled
from heavyq.bullmq.ops.checkpoint import checkpoint
from heavyq.bullmq.ops.counts import Counts, counts
from heavyq.bullmq.ops.lease import lease
from heavyq.bullmq.ops.progress import progress
from heavyq.bullmq.ops.wake import wake
from heavyq.core import child as child_life
from heavyq.core import fleet, memory
from heavyq.core import run as life
from heavyq.core.outcome import Failure, Usage
from heavyq.errors import HeavyqError, ProtocolError
from heavyq.job import wire
from heavyq.linux.clock import epoch_ms, monotonic_s
from heavyq.linux.frames import Frame, pack_parts
from heavyq.worker.accounts import Accounts
from heavyq.worker.admission import Admission, Room
from heavyq.worker.commands import Command, Commands
from heavyq.worker.crew import ChildKind, Crew
from heavyq.worker.deaths import Death
from heavyq.worker.notes import Notes, about
from heavyq.worker.process import ChildProcess
from heavyq.worker.renewal import Vouched
from heavyq.worker.runs import Run, check_report, log_op, read_job, settle_op
from heavyq.worker.served import Served
from heavyq.worker.watch import Excess

_BLOCK_S = 5.0  # BullMQ's drainDelay: how long an idle worker trusts the marker alone
_BLOCK_MAX_S = 10.0
_REFUSED_PAUSE_S = 1.0
_ROWS_WAITING_MAX = 1_000


class Control:
    """The state of one worker, and what is done at each event."""

    def __init__(
        self,
        served: Sequence[Served],
        commands: Commands,
        vouched: Vouched,
        accounts: Accounts,
        *,
        worker_id: str,
        name: str | None,
        concurrency: int,
        budget_bytes: int,
        budget_is_set: bool,
    ) -> None:
        self.served = served
        self._accounts, self._notes = accounts, Notes()
        # A budget that somebody has set is for jobs alone.
        born = (lambda: 0) if budget_is_set else (lambda: self.crew.born_bytes)
        room = Room(budget_bytes, self._charge_of, born, accounts.container_is_full)
        self._admission = Admission(served, room)
        self._by_key = {s.key: s for s in served}
        self._commands, self._vouched = commands, vouched
        self._worker_id, self._name, self._concurrency = worker_id, name, concurrency
        self._tokens, self._numbers = itertools.count(1), itertools.count(1)
        self.runs: dict[int, Run] = {}
        self._by_token: dict[str, Run] = {}
        self._waiting: list[Run] = []  # leased, no child yet
        self._asked = 0  # leases without an answer
        self._turn = -1
        self.draining = False
        self.changed = True
        self._log = structlog.get_logger().bind(thread="control")
        self._tells_all = self._log.is_enabled_for(logging.DEBUG)
        self.crew: Crew

    # ---- seats, leases, children

    def _dispatch(self) -> None:
        """Give leased jobs to children, lease for what is free, arm the waiters: once a turn, if anything changed."""
        self._place_waiting()
        if not self.draining:
            self._lease_what_is_free()
        for served in self.served:
            if served.marker_taken:  # not for us now: another worker may want it
                served.marker_taken = False
                self._commands.send(Command(wake(served.key)))

    def _lease_what_is_free(self) -> None:
        free = self._free_seats()
        while free > 0 and (served := self._next_queue()) is not None:
            self._commands.send(self._lease_command(served))
            free -= 1
        if free > 0:
            for one in self.served:
                self._arm(one)
            if self._admission.wants_room and not self._asked and not self._waiting:
                self.crew.make_room()

    def _free_seats(self) -> int:
        runs = sum(run.holds_seat for run in self.runs.values())
        if runs + self._asked >= self._concurrency:
            return 0  # whatever the children do
        if not self.crew.may_make and not any(self._is_idle(c) for c in self.crew.children.values()):
            return 0
        return fleet.free_seats(
            concurrency=self._concurrency,
            runs=runs,
            leases_asked=self._asked,
            children_leaving=sum(_leaving(child) for child in self.crew.children.values()),
        )

    def _next_queue(self) -> Served | None:
        now_s = monotonic_s()
        if (unsure := self._admission.look(self.runs.values(), now_s)) is not None:
            self._ask_for_work(unsure, now_s)
        views = [fleet.QueueView(s.limit, s.held, s.has_room and s.worth_asking(now_s)) for s in self.served]
        index = fleet.next_queue(views, self._turn)
        if index is None:
            return None
        self._turn = index
        return self.served[index]

    def _ask_for_work(self, served: Served, now_s: float) -> None:
        """Find out whether a job waits in a queue that has no room, before others are held back for it."""
        served.seen_work_s = now_s  # asked; the answer takes it back if nothing is there

        def answer(reply: Counts | HeavyqError) -> None:
            if isinstance(reply, Counts) and not self._has_work(served, reply):
                served.may_have_work = False
                served.empty_since_s = monotonic_s()
                served.blocked_since_s = None
            self.changed = True

        self._commands.send(Command(counts(served.key), answer))

    @staticmethod
    def _has_work(served: Served, reply: Counts) -> bool:
        """Tell whether a lease would find a job: only it promotes what is delayed and due."""
        due = reply.delayed and (served.due_ms or 0) <= epoch_ms()
        return not reply.paused and bool(reply.waiting or reply.prioritized or due)

    def _charge_of(self, run: Run) -> int:
        """Return what a run holds: as the watch saw it last, or its child alone now, whichever is more."""
        child = self.crew.children.get(run.child) if run.child is not None else None
        own = child.meter.own_bytes() if child is not None and child.meter is not None else 0
        return max(own, run.meter.charge_bytes if run.meter else 0)

    def _lease_command(self, served: Served) -> Command:
        token = f"hq:{self._worker_id}:{next(self._tokens)}"
        asked_s = monotonic_s()
        op = {"token": token, "now_ms": epoch_ms(), "lock_ms": served.lock_ms, "worker_name": self._name}
        self._asked += 1
        served.asked += 1
        served.held += 1
        served.marker_taken = False
        return Command(
            lease(served.key, **op),  # type: ignore[arg-type]
            lambda reply: self._leased(served, reply, asked_s),
            again=partial(lease, served.key, **op, replay=True),  # type: ignore[arg-type]
        )

    def _leased(self, served: Served, reply: LeaseReply | HeavyqError, asked_s: float) -> None:
        self._asked -= 1
        served.asked -= 1
        match reply:
            case LeasedJob():
                served.may_have_work = True
                served.seen_work_s = monotonic_s()
                self._begin(served, reply, asked_s)
            case NothingToLease():
                self._found_nothing(served, reply.next_due_ms)
            case LeaseRefused():
                self._found_nothing(served, None)
                served.asleep_until_s = monotonic_s() + reply.wait_ms / 1000 if reply.wait_ms else 0.0
            case HeavyqError():
                self._log.error("redis refused a lease", queue=served.key.name, error=str(reply))
                self._found_nothing(served, None)
                served.asleep_until_s = monotonic_s() + _REFUSED_PAUSE_S
            case _:
                assert_never(reply)
        self.changed = True

    def _found_nothing(self, served: Served, due_ms: int | None) -> None:
        served.held -= 1
        served.may_have_work = False
        served.due_ms = due_ms
        served.empty_since_s = monotonic_s()

    def _place_waiting(self) -> None:
        still: list[Run] = []
        for run in self._waiting:
            kind = self._by_key[run.queue].kind
            ahead = sum(self._by_key[r.queue].kind == kind for r in still)
            if not self._place(run, kind, ahead):
                still.append(run)
        self._waiting = still

    def _place(self, run: Run, kind: ChildKind, ahead: int) -> bool:
        views = [
            fleet.ChildView(c.number, c.kind, self._is_idle(c), isinstance(c.state, child_life.Starting), _leaving(c))
            for c in self.crew.children.values()
        ]
        match fleet.place(kind, views, concurrency=self._concurrency, waiting_ahead=ahead):
            case fleet.UseChild(number):
                self._assign(run, self.crew.children[number])
                return True
            case fleet.MakeChild():
                if self.crew.may_make:
                    self.crew.make(kind)
            case fleet.RetireChild(number):
                self.crew.apply(self.crew.children[number], child_life.RetireAsked("another queue needs its seat"))
            case fleet.WaitForChild():
                pass
        return False

    @staticmethod
    def _is_idle(child: ChildProcess) -> bool:
        return (
            child.killed_by_us is None
            and not child.dead
            and isinstance(child.state, child_life.Ready)
            and child.state.idle
        )

    def _assign(self, run: Run, child: ChildProcess) -> None:
        run.child = child.number
        self.crew.apply(child, child_life.RunTaken(run.number))
        self._apply(run, life.Assigned())

    def turned(self) -> None:
        """The loop went round: move the counter that lets the renewal thread go on, and act on what has changed."""
        self._vouched.rounds += 1
        if self.changed:
            self.changed = False
            self._dispatch()

    # ---- waiting for work

    def _arm(self, served: Served) -> None:
        waiter = served.waiter
        if waiter is None or waiter.busy or served.may_have_work or served.held >= served.limit or not served.has_room:
            return
        timeout_s = _BLOCK_S
        if served.due_ms is not None:
            timeout_s = min(_BLOCK_MAX_S, max(0.001, (served.due_ms - epoch_ms()) / 1000))
        waiter.arm(timeout_s)

    def woken(self, key: QueueKey, popped: bool) -> None:
        """A waiter came back: with the queue's marker, or because its time was over."""
        served = self._by_key[key]
        assert served.waiter is not None
        served.waiter.busy = False
        limited = served.asleep_until_s > monotonic_s()
        served.may_have_work = not limited
        served.marker_taken |= popped
        self.changed = True

    def swept(self, key: QueueKey) -> None:
        """The janitor put stalled jobs back to wait."""
        self._by_key[key].may_have_work = True
        self.changed = True

    # ---- a run's events

    def _begin(self, served: Served, job: LeasedJob, asked_s: float) -> None:
        memory_retry = served.settings.on_memory_limit == "retry"
        facts, opts = read_job(job, random.random(), memory_retry=memory_retry)  # noqa: S311 - jitter, no secret
        state, actions = life.begin(facts, draining=self.draining)
        run = Run(next(self._numbers), job, facts, opts, state, monotonic_s(), progress=job.fields.get(b"progress"))
        self.runs[run.number] = run
        self._by_token[job.lease.token] = run
        self._vouched.add(job.lease, served.lock_ms, asked_s)
        self._notes.begin(run)
        if isinstance(state, life.Leased):
            self._waiting.append(run)
        self._perform(run, actions)

    def _apply(self, run: Run, event: life.RunEvent) -> None:
        run.state, actions = life.decide(run.state, event)
        if self._tells_all:
            self._log.debug("run", **about(run), happened=type(event).__name__, now=type(run.state).__name__)
        self._perform(run, actions)

    def _perform(self, run: Run, actions: tuple[life.Action, ...]) -> None:
        for action in actions:
            match action:
                case life.SendJob():
                    self._send_job(run)
                case life.KillChild():
                    if run.child in self.crew.children:
                        self.crew.kill(self.crew.children[run.child], "its job must stop")
                case life.Settle():
                    self._settle(run, action.settlement)
                case life.Release():
                    self._release(run)
                case _:
                    assert_never(action)

    def _send_job(self, run: Run) -> None:
        assert run.child is not None
        child, settings = self.crew.children[run.child], self._by_key[run.queue].settings
        fields, ours = run.job.fields, run.job.lease
        head = {
            "run": run.number,
            "queue": ours.queue.name,
            "prefix": ours.queue.prefix,
            "id": ours.job_id,
            "fence": ours.fence,
            "made": run.facts.made,
            "max_result": settings.max_result,
            "memory_rlimit": settings.memory_limit if settings.memory_rlimit else None,
        }
        parts = [fields.get(name, b"") for name in wire.JOB_PARTS]
        self._accounts.open(run, child, settings)
        child.send(*pack_parts(wire.JOB, head, parts))

    def _settle(self, run: Run, settlement: life.Settlement) -> None:
        self._notes.end(run, settlement)
        self._learn(run, settlement)
        if isinstance(settlement, life.Fail | life.RetryNow | life.RetryLater | life.Strike):
            self._log_cause(run, settlement.failure)
        if run in self._waiting:
            self._waiting.remove(run)
        settle = Command(self._settle_op(run, settlement), lambda reply: self._settled(run, reply))
        following = self._lease_behind(run)
        self._commands.send(settle, *following)

    def _learn(self, run: Run, settlement: life.Settlement) -> None:
        """A container that was full teaches what the queue's jobs need; each that goes well takes a part of it back."""
        peak = run.meter.peak_bytes if run.meter else 0
        if isinstance(settlement, life.Complete):
            self._admission.learn(self._by_key[run.queue], peak, full=False)
        elif isinstance(settlement, life.Fail | life.Strike) and settlement.failure.by_the_container:
            told = (settlement.failure.evidence or {}).get("peak_bytes", 0)  # of one that outran the watch: more
            self._admission.learn(self._by_key[run.queue], max(peak, told), full=True)

    def _settle_op(self, run: Run, settlement: life.Settlement) -> Op[Settled]:
        """Return the operation; what a stranger's fields make impossible to tell is left out, the outcome never."""
        try:
            return settle_op(run, settlement)
        except Exception as error:  # noqa: BLE001 - one job's fields must not end the worker
            self._log.error("the job's own fields are left out of its outcome", **about(run), error=repr(error)[:500])
            bare = Failure("unreadable", f"its fields cannot be written back: {type(error).__name__}")
            run.forget_fields()
            return settle_op(run, life.Fail(bare, None))

    def _lease_behind(self, run: Run) -> tuple[Command, ...]:
        """Return the lease that goes with a settlement in one round trip, for the seat that falls free with it."""
        child = self.crew.children.get(run.child) if run.child is not None else None
        if (
            self.draining
            or (child is not None and not self._is_idle(child))
            or (child is None and not self.crew.may_make)
        ):
            return ()
        self._by_key[run.queue].held -= 1
        served = self._next_queue()
        self._by_key[run.queue].held += 1
        if served is None:
            return ()
        run.seat_passed = True
        return (self._lease_command(served),)

    def _settled(self, run: Run, reply: str | HeavyqError) -> None:
        if isinstance(reply, HeavyqError):
            self._log.error("the outcome could not be written", **about(run), error=str(reply))
        elif reply == "lost":
            self._log.error("the lease was lost: nothing was written", **about(run))
        elif reply == "refused":
            self._log.error("the job has children that are not done: completing was refused", **about(run))
        served = self._by_key[run.queue]
        served.may_have_work, served.due_ms = True, None  # its place in the queue changed: ask once more
        self._apply(run, life.Settled(lost=reply != "settled"))
        self.changed = True

    def _release(self, run: Run) -> None:
        token = run.job.lease.token
        self._vouched.drop(token)
        self._by_token.pop(token, None)
        self.runs.pop(run.number, None)
        if run in self._waiting:
            self._waiting.remove(run)
        self._by_key[run.queue].held -= 1

    def lease_lost(self, token: str) -> None:
        """Renewal found that a lease is not ours any more."""
        self._vouched.drop(token)
        run = self._by_token.get(token)
        if run is not None and not isinstance(run.state, life.Settling):
            self._log.error("lease lost: the job is stopped, nothing of it is written", **about(run))
            self._apply(run, life.LeaseLost())
            self.changed = True

    # ---- what children say

    def child_ready(self, _child: ChildProcess) -> None:
        """A child was born, or has cleaned up."""
        self.changed = True

    def child_said(self, child: ChildProcess, frame: Frame) -> None:
        """A frame about the child's job. Of a run that is over, what is still on the way counts for nothing."""
        run = self._run_of(child)
        if run is None:
            return
        if frame.kind in {wire.RESULT, wire.FAILURE}:
            self._reported(run, child, frame)
            return
        number, value = wire.split_run(frame.body)
        if number != run.number:
            return
        match frame.kind:
            case wire.PROGRESS:
                self._progressed(run, value)
            case wire.LOG:
                self._take_row(run, value.decode("utf-8", "replace"))
            case wire.CHECKPOINT:
                key = ("checkpoint", run.number)
                self._commands.send_latest(key, lambda: checkpoint(run.job.lease, value))
            case _:
                raise ProtocolError(f"unknown frame {frame.kind!r}")

    def child_printed(self, child: ChildProcess, line: str) -> None:
        """A line of the child's stdout or stderr: to the worker's log and the job's."""
        run = self._run_of(child)
        if run is None:
            self._log.info(line, child=child.number)
            return
        self._log.info(line, **about(run))
        self._take_row(run, line)

    def child_died(self, child: ChildProcess, death: Death) -> None:
        """A child is dead, reaped and drained."""
        run = next((r for r in self.runs.values() if r.child == child.number), None)
        if run is not None:
            used = Usage(
                peak_rss_bytes=death.max_rss_bytes,
                cpu_s=round(max(0.0, (death.cpu_s or 0.0) - child.cpu_told_s), 3),
                wall_s=round(monotonic_s() - run.leased_s, 3),
            )
            failure = self._accounts.cause(run, child, death)
            run.child = None
            self._apply(run, life.ChildLost(failure, self._accounts.measured(run, used)))
        self.changed = True

    def memory_exceeded(self, excess: Excess) -> None:
        """The watch has frozen a child whose job holds too much, or found an idle one that there is no room for."""
        child = self.crew.children.get(excess.child)
        if child is None:
            return
        run = self._run_of(child)
        if run is not None and run.number == excess.run:
            self._apply(run, life.MemoryExceeded(excess.failure))
        elif child.meter is not None and not child.killed_by_us:
            if excess.run is None and run is None:
                self._log.warning("an idle child is killed: the container is nearly full", child=child.number)
                self.crew.kill(child, excess.failure.detail)
            else:
                child.meter.thaw()  # the run that it was about is over

    def crowded(self, used_bytes: int, limit_bytes: int) -> None:
        """The container is nearly full, and no job of ours holds what would make room."""
        use, limit = memory.in_words(used_bytes), memory.in_words(limit_bytes)
        self._log.warning("the container is nearly full, and not by a job: none is begun", used=use, limit=limit)

    def _run_of(self, child: ChildProcess) -> Run | None:
        state = child.state
        return self.runs.get(state.run) if isinstance(state, child_life.Ready) and state.run is not None else None

    def _reported(self, run: Run, child: ChildProcess, frame: Frame) -> None:
        head = frame.head
        usage, cpu_total_s = check_report(run, frame)
        child.drain_lines()
        child.cpu_told_s = cpu_total_s
        self._accounts.close(run, child, self.crew, clean=bool(head["clean"]))
        usage = self._accounts.measured(run, usage)
        if frame.kind == wire.RESULT:
            self._apply(run, life.Reported(frame.body, usage))
        else:
            stack = frame.body.decode("utf-8", "replace") or None
            failure = Failure(head["reason"], head["detail"], stack=stack, evidence=head.get("evidence"))
            self._apply(run, life.Raised(self._accounts.cause_told(run, child, failure), usage))
        run.child = None  # from here on the child may have another run
        if self._waiting or not run.seat_passed:  # else there is nothing to give out until Redis answers
            self.changed = True

    def _progressed(self, run: Run, value: bytes) -> None:
        run.progress = value
        self._commands.send_latest(("progress", run.number), lambda: progress(run.job.lease, run.progress or b"0"))

    def _take_row(self, run: Run, row: str) -> None:
        run.lines.append(row)
        if len(run.rows) < _ROWS_WAITING_MAX:
            run.rows.append(row)
        else:
            run.rows_dropped += 1
        self._commands.send_latest(("log", run.number), lambda: log_op(run))

    def _log_cause(self, run: Run, failure: Failure) -> None:
        """Put a death, which the job itself could not tell of, in its log, where dashboards show it."""
        if failure.evidence is not None:
            run.rows.append(f"heavyq: {failure.reason}: {failure.detail}")
            self._commands.send_latest(("log", run.number), lambda: log_op(run))

    # ---- stopping

    def drain(self) -> None:
        """Lease nothing more; children without a job go."""
        self.draining = True
        for served in self.served:
            if served.waiter:
                served.waiter.stop()
        for run in tuple(self._waiting):
            self._apply(run, life.StopAsked())
        self._retire_idle()

    def _retire_idle(self) -> None:
        for child in tuple(self.crew.children.values()):
            idle = isinstance(child.state, child_life.Ready) and child.state.run is None
            if idle or isinstance(child.state, child_life.Starting):
                self.crew.apply(child, child_life.RetireAsked("the worker ends"))

    def hand_back_all(self) -> None:
        """Stop what runs, and give it back."""
        for run in tuple(self.runs.values()):
            self._apply(run, life.StopAsked())

    def last_words(self) -> list[Op[Settled]]:
        """Return what to tell Redis when the worker ends by a bug: outcomes that are known, else hand backs."""
        return [
            self._settle_op(run, run.state.settlement if isinstance(run.state, life.Settling) else life.HandBack())
            for run in self.runs.values()
            if not isinstance(run.state, life.Ended)
        ]

    @property
    def over(self) -> bool:
        """True when nothing is held, asked for, or left to be told to Redis."""
        return not self.runs and self._asked == 0 and self._commands.idle

    @property
    def nothing_left_to_do(self) -> bool:
        """True when every queue is empty, as far as is known: no job waits, is delayed, or runs here."""
        return self.over and all(s.is_empty for s in self.served)

    def tick(self) -> None:
        """Let time pass: wake what slept, take samples, try again what had to wait."""
        now_s = monotonic_s()
        for served in self.served:
            if served.asleep_until_s and served.asleep_until_s <= now_s:
                served.asleep_until_s = 0.0
                served.may_have_work = True
        if self.draining:
            self._retire_idle()
        self.changed = True


def _leaving(child: ChildProcess) -> bool:
    """True for a child without a run that cannot take one either: it still holds its seat."""
    state = child.state
    if isinstance(state, child_life.Ready) and state.run is None:
        return not state.clean or child.killed_by_us is not None or child.dead
    return isinstance(state, child_life.Retiring)
