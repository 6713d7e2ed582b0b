"""Control: the runs of one worker, from their lease to their end.

Owns every run, and the errands that follow from its end. Decisions are `core.run`'s; leases are asked for by `leasing`,
seats are counted by `seats`, Redis is behind `commands`, processes are behind `crew`. Runs on the loop, never blocks.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, assert_never

import structlog

from heavyq.bullmq.job_hash import PARENT_KEY, JobRecord
from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.lease import LeasedJob
from heavyq.bullmq.op import Op
from heavyq.bullmq.ops import Settled
from heavyq.bullmq.ops.checkpoint import checkpoint
from heavyq.bullmq.ops.find import find
from heavyq.bullmq.ops.progress import progress
from heavyq.bullmq.schedule import duty_of
from heavyq.core import child as child_life
from heavyq.core import memory
from heavyq.core import run as life
from heavyq.core.outcome import CHILDREN_FAILED, CHILDREN_PENDING, Failure, Usage, cancelled, hung, out_of_time
from heavyq.errors import HeavyqError, ProtocolError
from heavyq.job import wire
from heavyq.linux.clock import epoch_ms, monotonic_s
from heavyq.linux.frames import Frame, pack, pack_parts
from heavyq.worker.accounts import Accounts
from heavyq.worker.admission import Admission, Room
from heavyq.worker.commands import Command, Commands
from heavyq.worker.crew import Crew
from heavyq.worker.deaths import Death
from heavyq.worker.errands import Errands
from heavyq.worker.leasing import Leasing
from heavyq.worker.notes import Notes, about
from heavyq.worker.process import ChildProcess
from heavyq.worker.renewal import Vouched
from heavyq.worker.runs import Rules, Run, check_report, log_op, read_job, settle_op
from heavyq.worker.seats import Guest, Seats
from heavyq.worker.served import Served
from heavyq.worker.watch import Excess

STOP_GRACE_S = 5.0  # for a job that shares its child, to end by itself once it was told
_ROWS_WAITING_MAX = 1_000


class Control:
    """The state of one worker, and what is done at each event."""

    def __init__(
        self,
        served: Sequence[Served],
        commands: Commands,
        vouched: Vouched,
        accounts: Accounts,
        crew: Crew,
        *,
        worker_id: str,
        name: str | None,
        concurrency: int,
        budget_bytes: int,
        budget_is_set: bool,
    ) -> None:
        self.served, self.crew = served, crew
        self._accounts, self._notes = accounts, Notes()
        # A budget that somebody has set is for jobs alone.
        born = (lambda: 0) if budget_is_set else (lambda: crew.born_bytes)
        room = Room(budget_bytes, self._charge_of, born, accounts.container_is_full)
        self._admission = Admission(served, room)
        self._by_key = {s.key: s for s in served}
        self._rules = {s.key: _rules(s) for s in served}
        self._commands, self._vouched = commands, vouched
        self._numbers = itertools.count(1)
        self._seats = Seats(served, crew, concurrency)
        self._leasing = Leasing(
            served, commands, self._seats, self._admission, self._begin, worker_id=worker_id, name=name
        )
        self._errands = Errands(self._by_key, self._seats, crew, self._numbers)
        self.runs: dict[int, Run] = {}
        self._by_token: dict[str, Run] = {}
        self.draining = False
        self._finding = 0  # jobs that were asked for, to tell the @on functions of them
        self.changed = True
        self._log = structlog.get_logger().bind(thread="control")
        self._tells_all = self._log.is_enabled_for(logging.DEBUG)

    # ---- the loop's turn

    def turned(self) -> None:
        """The loop went round: move the counter that lets the renewal thread go on, and act on what has changed."""
        self._vouched.rounds += 1
        if self.changed or self._leasing.changed:
            self.changed = self._leasing.changed = False
            self._dispatch()

    def _dispatch(self) -> None:
        """Give leased jobs to children, lease for what is free, wait for work: once a turn, if anything changed."""
        self._seats.place_all(self._take_seat)
        if not self.draining:
            self._leasing.ask(self.runs.values())
            if self._leasing.wants_room:
                self.crew.make_room()
        self._leasing.put_back_markers()

    def _take_seat(self, guest: Guest, child: ChildProcess) -> None:
        guest.child = child.number
        self.crew.apply(child, child_life.RunTaken(guest.number, alone=guest.alone))
        if isinstance(guest, Run):
            self._apply(guest, life.Assigned())
        else:
            self._errands.begin(guest.number, child)

    def _charge_of(self, run: Run) -> int:
        """Return what a run holds: as the watch saw it last, or its child alone now, whichever is more."""
        child = self.crew.children.get(run.child) if run.child is not None else None
        own = child.meter.own_bytes() if child is not None and child.meter is not None else 0
        charge = max(own, run.meter.charge_bytes if run.meter else 0)
        return charge if child is None else charge // max(1, len(_runs_of(child)))

    # ---- a run's events

    def _begin(self, served: Served, job: LeasedJob, asked_s: float) -> None:
        """A job was leased. What it owes its scheduler comes first: planned before it runs, it is planned if we die."""
        self._plan_next(job)
        facts, opts = read_job(job, random.random(), self._rules[served.key])  # noqa: S311 - jitter, no secret
        state, actions = life.begin(facts, draining=self.draining)
        alone = served.kind.seats > 1 and (facts.strikes > 0 or opts.memory_limit_bytes is not None)
        progress_raw = job.fields.get(b"progress")
        run = Run(next(self._numbers), job, facts, opts, state, monotonic_s(), alone=alone, progress=progress_raw)
        self.runs[run.number] = run
        self._by_token[job.lease.token] = run
        self._vouched.add(job.lease, served.lock_ms, asked_s)
        self._notes.begin(run)
        if isinstance(state, life.Leased):
            self._seats.add(run)
        self._perform(run, actions)

    def _plan_next(self, job: LeasedJob) -> None:
        """Plan the next job of the scheduler that has made this one."""
        if b"rjk" not in job.fields:
            return
        where = {"queue": job.lease.queue.name, "job": job.lease.job_id}
        try:
            duty = duty_of(job.fields, job.lease.job_id, epoch_ms(), job.lease.queue)
        except HeavyqError as error:
            self._log.error("the scheduler's next job is not planned; this one runs", **where, why=str(error))
            return

        def planned(reply: object) -> None:
            if isinstance(reply, HeavyqError):
                self._log.error("the scheduler's next job is not planned; this one runs", **where, why=str(reply))

        if duty is not None:
            self._commands.send(Command(duty, planned))

    def _apply(self, run: Run, event: life.RunEvent) -> None:
        self._enter(run, event, *life.decide(run.state, event))

    def _enter(self, run: Run, event: life.RunEvent, state: life.RunState, actions: tuple[life.Action, ...]) -> None:
        run.state = state
        if self._tells_all:
            self._log.debug("run", **about(run), happened=type(event).__name__, now=type(run.state).__name__)
        self._perform(run, actions)

    def _perform(self, run: Run, actions: tuple[life.Action, ...]) -> None:
        for action in actions:
            match action:
                case life.SendJob():
                    self._send_job(run)
                case life.StopJob():
                    self._stop_job(run)
                case life.KillChild():
                    self._kill_for(run, "its job must stop")
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
        limit = run.opts.memory_limit_bytes or settings.memory_limit
        head = {
            "run": run.number,
            "queue": ours.queue.name,
            "prefix": ours.queue.prefix,
            "id": ours.job_id,
            "fence": ours.fence,
            "made": run.facts.made,
            "started": ours.started,
            "parent_key": _text(fields.get(PARENT_KEY)),
            "max_result": settings.max_result,
            "memory_rlimit": limit if settings.memory_rlimit and child.seats == 1 else None,
        }
        self._set_time(run)
        parts = [fields.get(name, b"") for name in wire.JOB_PARTS]
        self._accounts.open(run, child, settings, limit)
        child.send(*pack_parts(wire.JOB, head, parts))

    def _set_time(self, run: Run) -> None:
        run.moved_s = monotonic_s()
        limit_s = self._timeout_s(run)
        run.until_s = None if limit_s is None else run.moved_s + limit_s

    def _timeout_s(self, run: Run) -> float | None:
        own_ms = run.opts.timeout_ms
        return self._by_key[run.queue].settings.timeout_s if own_ms is None else own_ms / 1000

    def _progress_timeout_s(self, run: Run) -> float | None:
        own_ms = run.opts.progress_timeout_ms
        return self._by_key[run.queue].settings.progress_timeout_s if own_ms is None else own_ms / 1000

    # ---- stopping one job

    def _stop_job(self, run: Run) -> None:
        """Stop a job: what shares its child goes on, if the job ends by itself when it is told."""
        child = self.crew.children.get(run.child) if run.child is not None else None
        if child is None:
            return
        if child.seats == 1:
            self.crew.kill(child, "its job must stop")
            return
        why = run.state.why.value if isinstance(run.state, life.Stopping) else ""
        run.stop_by_s = monotonic_s() + STOP_GRACE_S
        child.send(pack(wire.STOP, {"run": run.number, "why": why}))

    def _kill_for(self, run: Run, why: str) -> None:
        if run.child in self.crew.children:
            child = self.crew.children[run.child]
            child.culprit = run.number if child.culprit is None else child.culprit
            self.crew.kill(child, why)

    def _look_at_clocks(self, now_s: float) -> None:
        """Stop what is over its time, and kill what did not stop when it was told."""
        for run in tuple(self.runs.values()):
            if isinstance(run.state, life.Running):
                still_s = self._progress_timeout_s(run)
                if run.until_s is not None and now_s >= run.until_s:
                    self._apply(run, life.Condemned(out_of_time(self._timeout_s(run) or 0.0)))
                elif still_s is not None and now_s - run.moved_s >= still_s:
                    self._apply(run, life.Condemned(hung(still_s)))
            elif isinstance(run.state, life.Stopping) and run.stop_by_s is not None and now_s >= run.stop_by_s:
                self._stop_late(run)

    def _stop_late(self, run: Run) -> None:
        """A job did not stop when it was told; or the child has not even heard, for another job blocks its loop."""
        if run.told:
            self._kill_for(run, f"a job of it did not stop within {STOP_GRACE_S:g} s of being told")
        elif run.child in self.crew.children:
            why = f"it has not answered for {STOP_GRACE_S:g} s: a job blocks its event loop"
            self.crew.kill(self.crew.children[run.child], why)

    def cancel_asked(self, token: str, reason: str) -> None:
        """Somebody has cancelled a job that we hold."""
        run = self._by_token.get(token)
        if run is not None and not isinstance(run.state, life.Stopping):
            self._log.warning("cancelled", **about(run), why=reason)
            self._apply(run, life.Condemned(cancelled(reason)))
            self.changed = True

    def lease_lost(self, token: str) -> None:
        """Renewal found that a lease is not ours any more."""
        self._vouched.drop(token)
        run = self._by_token.get(token)
        if run is not None and not isinstance(run.state, life.Settling):
            self._log.error("lease lost: the job is stopped, nothing of it is written", **about(run))
            self._apply(run, life.LeaseLost())
            self.changed = True

    # ---- settling

    def _settle(self, run: Run, settlement: life.Settlement) -> None:
        """Write the outcome. Words and lessons come after it: whatever fails there costs a line in a log."""
        self._seats.drop(run)
        self._claim_seat(run, claims=True)
        if isinstance(settlement, life.HandBack) and settlement.limit_ms:
            self._by_key[run.queue].sleep(settlement.limit_ms / 1000)  # now: other leases may be answered before it is
        settle = Command(self._settle_op(run, settlement), lambda reply: self._settled(run, settlement, reply))
        if isinstance(settlement, life.Fail | life.RetryNow | life.RetryLater | life.Strike):
            self._log_cause(run, settlement.failure)  # while the job's log is still ours
        following = None if self.draining else self._leasing.behind(run, self.runs.values())
        if following is None:
            self._commands.send(settle)
        else:
            self._claim_seat(run, claims=False)  # its seat is that lease's
            self._commands.send(settle, following)
        self._notes.end(run, settlement)
        self._learn(run, settlement)

    def _claim_seat(self, run: Run, *, claims: bool) -> None:
        """While a settle is unanswered its seat takes no lease but the one that was sent with it."""
        self._by_key[run.queue].settling += claims - run.claims_seat
        run.claims_seat = claims

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
        rules = self._rules[run.queue]
        try:
            return settle_op(run, settlement, rules)
        except Exception as error:  # noqa: BLE001 - one job's fields must not end the worker
            self._log.error("the job's own fields are left out of its outcome", **about(run), error=repr(error)[:500])
            bare = Failure("unreadable", f"its fields cannot be written back: {type(error).__name__}")
            run.forget_fields()
            return settle_op(run, life.Fail(bare, None), rules)

    def _settled(self, run: Run, settlement: life.Settlement, reply: str | HeavyqError) -> None:
        self._claim_seat(run, claims=False)
        self.changed = True
        served = self._by_key[run.queue]
        served.may_have_work, served.due_ms = True, None  # its place in the queue changed: ask once more
        match reply:
            case "pending_children" | "failed_children":
                refusal = CHILDREN_PENDING if reply == "pending_children" else CHILDREN_FAILED
                self._apply(run, life.Refused(refusal))
                return
            case HeavyqError():
                self._log.error("the outcome could not be written", **about(run), error=str(reply))
            case "lost":
                self._log.error("the lease was lost: nothing was written", **about(run))
            case "settled":
                self._errands.follow(run, settlement)
        self._apply(run, life.Settled(lost=reply != "settled"))

    def _release(self, run: Run) -> None:
        token = run.job.lease.token
        self._vouched.drop(token)
        self._by_token.pop(token, None)
        self.runs.pop(run.number, None)
        self._seats.drop(run)
        self._by_key[run.queue].held -= 1

    # ---- what waiters and the janitor say

    def woken(self, key: QueueKey, popped: bool) -> None:
        """A waiter came back: with the queue's marker, or because its time was over."""
        self._leasing.woken(key, popped)

    def swept(self, key: QueueKey, job_ids: Sequence[str]) -> None:
        """The janitor put stalled jobs back to wait."""
        served = self._by_key[key]
        served.may_have_work = True
        self.changed = True
        if "stalled" in served.traits.hooks:
            for job_id in job_ids:
                self._finding += 1
                self._commands.send(Command(find(key, job_id), partial(self._stalled, key)))

    def _stalled(self, key: QueueKey, record: JobRecord | HeavyqError | None) -> None:
        self._finding -= 1
        if isinstance(record, JobRecord):
            self._errands.stalled(key, record)
            self.changed = True

    # ---- what children say

    def child_ready(self, _child: ChildProcess) -> None:
        """A child was born, or has cleaned up."""
        self.changed = True

    def child_said(self, child: ChildProcess, frame: Frame) -> None:
        """A frame about a job of the child. Of a run that is over, what is still on the way counts for nothing."""
        if frame.kind in wire.REPORTS:
            run = self._run_in(child, frame.head["run"])
            if run is not None:
                self._reported(run, child, frame)
            return
        if frame.kind == wire.HOOKED:
            self._errands.over(child, frame.head)
            self.changed = True
            return
        number, value = (frame.head["run"], b"") if frame.kind == wire.TOLD else wire.split_run(frame.body)
        run = self._run_in(child, number)
        if run is None:
            return
        match frame.kind:
            case wire.TOLD:
                run.told = True
            case wire.PROGRESS:
                self._progressed(run, value)
            case wire.LOG:
                self._take_row(run, value.decode("utf-8", "replace"))
            case wire.CHECKPOINT:
                run.moved_s = monotonic_s()
                key = ("checkpoint", run.number)
                self._commands.send_latest(key, lambda: checkpoint(run.job.lease, value))
            case _:
                raise ProtocolError(f"unknown frame {frame.kind!r}")

    def child_printed(self, child: ChildProcess, line: str) -> None:
        """A line of the child's stdout or stderr: to the worker's log, and to the job's if it can be no other's."""
        runs = [run for run in map(self.runs.get, _runs_of(child)) if run is not None]
        if len(runs) != 1 or self._errands.has_some_in(child):
            self._log.info(line, child=child.number)
            return
        self._log.info(line, **about(runs[0]))
        self._take_row(runs[0], line)

    def child_died(self, child: ChildProcess, death: Death) -> None:
        """A child is dead, reaped and drained."""
        lost = [run for run in self.runs.values() if run.child == child.number]
        alone = len(lost) == 1 and not self._errands.has_some_in(child)
        for run in lost:
            used = Usage(
                peak_rss_bytes=death.max_rss_bytes,
                cpu_s=round(max(0.0, (death.cpu_s or 0.0) - child.cpu_told_s), 3) if len(lost) == 1 else 0.0,
                wall_s=round(monotonic_s() - run.leased_s, 3),
            )
            failure = self._accounts.cause(run, child, death)
            run.child = None
            usage = self._accounts.measured(run, used)
            blame = _blame(child, run, alone=alone)
            if blame == "one of many" and isinstance(run.state, life.Running):
                run.rows.append(
                    f"heavyq: the child that this job shared with {len(lost) - 1} others died: {failure.detail}"
                )
                self._commands.send_latest(("log", run.number), partial(log_op, run))
            self._apply(run, life.ChildLost(failure, usage, blame))
        self._errands.child_died(child)
        self.changed = True

    def memory_exceeded(self, excess: Excess) -> None:
        """The watch has frozen a child whose job holds too much, or found an idle one that there is no room for."""
        child = self.crew.children.get(excess.child)
        if child is None:
            return
        meter = child.meter
        runs = [run for run in map(self.runs.get, _runs_of(child)) if run is not None]
        same = meter is not None and meter.run is not None and meter.run.run == excess.run
        if runs and same and len(runs) == 1:
            self._apply(runs[0], life.Condemned(excess.failure, at_once=True))
        elif runs and same:  # which of them it is, nobody can tell
            self._log.error("a child of several jobs is killed", child=child.number, why=excess.failure.detail)
            self.crew.kill(child, excess.failure.detail)
        elif meter is not None and not child.killed_by_us:
            if excess.run is None and not _runs_of(child):
                self._log.warning("an idle child is killed: the container is nearly full", child=child.number)
                self.crew.kill(child, excess.failure.detail)
            else:
                meter.thaw()  # the run that it was about is over

    def crowded(self, used_bytes: int, limit_bytes: int) -> None:
        """The container is nearly full, and no job of ours holds what would make room."""
        use, limit = memory.in_words(used_bytes), memory.in_words(limit_bytes)
        self._log.warning("the container is nearly full, and not by a job: none is begun", used=use, limit=limit)

    def _run_in(self, child: ChildProcess, number: object) -> Run | None:
        """Return the run of this number, if this child has it: user code can write to our socket."""
        run = self.runs.get(number) if isinstance(number, int) else None
        return run if run is not None and run.child == child.number else None

    def _reported(self, run: Run, child: ChildProcess, frame: Frame) -> None:
        head = frame.head
        usage, cpu_total_s = check_report(run, frame)
        child.drain_lines()
        child.cpu_told_s = cpu_total_s
        self._accounts.close(run, child, self.crew, clean=bool(head["clean"]))
        usage = self._accounts.measured(run, usage)
        event = self._report(run, child, frame, usage)
        settled = life.decide(run.state, event)  # what a job tells of itself may be beyond us: then its child pays
        run.child = None  # from here on the child may have another run
        self._enter(run, event, *settled)
        if self._seats.waiting or run.claims_seat:  # else there is nothing to give out until Redis answers
            self.changed = True

    def _report(self, run: Run, child: ChildProcess, frame: Frame, usage: Usage) -> life.RunEvent:
        head: Mapping[str, Any] = frame.head
        if frame.kind == wire.RESULT:
            return life.Reported(frame.body, usage)
        if frame.kind == wire.STOPPED:
            return life.Stopped(usage)
        if frame.kind == wire.LATER:
            return life.Postponed(head["what"], head["delay_ms"], usage)
        stack = frame.body.decode("utf-8", "replace") or None
        failure = Failure(head["reason"], head["detail"], stack=stack, evidence=head.get("evidence"))
        told = self._accounts.cause_told(run, child, failure)
        return life.Raised(told, usage, final=bool(head.get("final")), retry_ms=head.get("retry_ms"))

    def _progressed(self, run: Run, value: bytes) -> None:
        run.progress = value
        run.moved_s = monotonic_s()
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

    # ---- ending

    def drain(self) -> None:
        """Lease nothing more; children without a job go."""
        self.draining = True
        self._leasing.stop()
        for guest in self._seats.waiting:
            if isinstance(guest, Run):
                self._apply(guest, life.StopAsked())
        self._retire_idle()

    def _retire_idle(self) -> None:
        self._errands.drop_hopeless()
        if self._errands.waiting or any(self._has_errand_to_come(run) for run in self.runs.values()):
            return  # one of these children will be needed for it
        for child in tuple(self.crew.children.values()):
            idle = isinstance(child.state, child_life.Ready) and not child.state.runs
            if idle or isinstance(child.state, child_life.Starting):
                self.crew.apply(child, child_life.RetireAsked("the worker ends"))

    def _has_errand_to_come(self, run: Run) -> bool:
        return isinstance(run.state, life.Settling) and bool(self._by_key[run.queue].traits.hooks)

    def hand_back_all(self) -> None:
        """Stop what runs, and give it back."""
        for run in tuple(self.runs.values()):
            self._apply(run, life.StopAsked())
        self._errands.stop()

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
        return (
            not self.runs
            and not self._leasing.unanswered
            and self._errands.idle
            and not self._finding
            and self._commands.idle
        )

    @property
    def nothing_left_to_do(self) -> bool:
        """True when every queue is empty, as far as is known: no job waits, is delayed, or runs here."""
        return self.over and all(s.is_empty for s in self.served)

    def tick(self) -> None:
        """Let time pass: wake what slept, stop what is over its time, try again what had to wait."""
        now_s = monotonic_s()
        self._leasing.tick()
        self._look_at_clocks(now_s)
        self._errands.tick(now_s)
        if self.draining:
            self._retire_idle()
        self.changed = True


def _rules(served: Served) -> Rules:
    settings = served.settings
    return Rules(
        memory_retry=settings.on_memory_limit == "retry",
        strategy=served.traits.strategy,
        starts_max=settings.max_started_attempts,
        metrics_points=settings.metrics_points or 0,
        keep_completed=served.traits.keep_completed,
        keep_failed=served.traits.keep_failed,
    )


def _runs_of(child: ChildProcess) -> frozenset[int]:
    """Return the numbers of the runs, and of the errands, that a child has."""
    return child.state.runs if isinstance(child.state, child_life.Ready) else frozenset()


def _blame(child: ChildProcess, run: Run, *, alone: bool) -> life.Blame:
    """Tell whose fault a child's death is to this run. alone: nothing else was in the child."""
    if child.culprit is not None:
        return "its own" if child.culprit == run.number else "another's"
    return "its own" if alone else "one of many"


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode("utf-8", "replace")
