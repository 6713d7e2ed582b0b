"""Leasing: whose turn it is, when a lease is worth asking for, and the waiting for work while there is none.

Owns the turns over the queues, the leases that are asked for, and the waiters. A lease is asked for only if the job
would find a seat and memory, and the answer is control's: what is leased, begins there. Runs on the loop, never blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, assert_never

import structlog

from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.lease import LeasedJob, LeaseRefused, LeaseReply, NothingToLease
from heavyq.bullmq.ops.counts import Counts, counts
from heavyq.bullmq.ops.lease import lease
from heavyq.bullmq.ops.wake import wake
from heavyq.core import fleet
from heavyq.errors import HeavyqError
from heavyq.linux.clock import epoch_ms, monotonic_s
from heavyq.worker.admission import Admission
from heavyq.worker.commands import Command, Commands
from heavyq.worker.runs import Run
from heavyq.worker.seats import Seats
from heavyq.worker.served import Served

_BLOCK_S = 5.0  # BullMQ's drainDelay: how long an idle worker trusts the marker alone
_BLOCK_MAX_S = 10.0
_REFUSED_PAUSE_S = 1.0
_ASK_AGAIN_S = 0.5  # how often it is asked whether a queue that has no child has work


class Leasing:
    """The leases of one worker, until they are answered."""

    def __init__(
        self,
        served: Sequence[Served],
        commands: Commands,
        seats: Seats,
        admission: Admission,
        leased: Callable[[Served, LeasedJob, float], None],
        *,
        worker_id: str,
        name: str | None,
    ) -> None:
        self._served, self._commands, self._seats, self._admission = served, commands, seats, admission
        self._by_key = {one.key: one for one in served}
        self._begin = leased
        self._worker_id, self._name = worker_id, name
        self._tokens = itertools.count(1)
        self._turn = -1
        self.changed = True  # something happened that may make a lease worth asking for
        self.wants_room = False  # a queue waits for memory that children without a job hold
        self._log = structlog.get_logger().bind(thread="control")

    @property
    def unanswered(self) -> int:
        """How many leases have no answer yet."""
        return sum(one.asked for one in self._served)

    def ask(self, runs: Collection[Run]) -> None:
        """Lease for what is free; where nothing can be had, wait for it. runs: all that there are."""
        while (served := self._next_queue(runs)) is not None:
            self._commands.send(self._command(served))
        wants_room = self._admission.wants_room and not self.unanswered and not self._seats.waiting
        to_arm = [one for one in self._served if self._may_arm(one)]
        self.wants_room = False
        if to_arm or wants_room:
            look = self._seats.look()
            for one in to_arm:
                if look.fits(one):
                    self._arm(one)
            self.wants_room = wants_room and any(look.fits(one) for one in self._served)

    def behind(self, run: Run, runs: Collection[Run]) -> Command | None:
        """Return the lease that goes with a settlement in one round trip, for the seat that falls free with it."""
        own = self._by_key[run.queue]
        own.held -= 1
        own.settling -= run.claims_seat
        served = self._next_queue(runs)
        own.settling += run.claims_seat
        own.held += 1
        return None if served is None else self._command(served)

    def put_back_markers(self) -> None:
        """Put back the markers that were taken and are not for us now: another worker may want them."""
        for served in self._served:
            if served.marker_taken:
                served.marker_taken = False
                self._commands.send(Command(wake(served.key)))

    # ---- turns

    def _next_queue(self, runs: Collection[Run]) -> Served | None:
        now_s = monotonic_s()
        if (unsure := self._admission.look(runs, now_s)) is not None:
            self._ask_for_work(unsure, now_s)
        due = [s.has_room and s.held < s.limit and s.worth_asking(now_s) for s in self._served]
        if not any(due):
            return None
        look = self._seats.look()
        starved = any(
            self._starves(s, now_s) for s, is_due in zip(self._served, due, strict=True) if is_due and look.waits(s)
        )
        views = [
            fleet.QueueView(s.limit, s.held, is_due and look.fits(s) and not (starved and look.shares(s)))
            for s, is_due in zip(self._served, due, strict=True)
        ]
        index = fleet.next_queue(views, self._turn)
        if index is None:
            return None
        self._turn = index
        return self._served[index]

    def _starves(self, served: Served, now_s: float) -> bool:
        """Tell whether a queue that has no child, and finds no place for one, is known to have work."""
        if now_s - served.asked_work_s >= _ASK_AGAIN_S:
            self._ask_for_work(served, now_s)
        return now_s - served.sure_work_s < 2 * _ASK_AGAIN_S

    def _ask_for_work(self, served: Served, now_s: float) -> None:
        """Find out whether a job waits in a queue that cannot be leased from, before others are held back for it."""
        served.seen_work_s = served.asked_work_s = now_s  # the answer takes it back if nothing is there

        def answer(reply: Counts | HeavyqError) -> None:
            if isinstance(reply, Counts):
                served.may_have_work = self._has_work(served, reply)
                if served.may_have_work:
                    served.sure_work_s = monotonic_s()
                else:
                    served.empty_since_s = monotonic_s()
                    served.blocked_since_s = None
            self.changed = True

        self._commands.send(Command(counts(served.key), answer))

    @staticmethod
    def _has_work(served: Served, reply: Counts) -> bool:
        """Tell whether a lease would find a job: only it promotes what is delayed and due."""
        due = reply.delayed and (served.due_ms or 0) <= epoch_ms()
        return not reply.paused and bool(reply.waiting or reply.prioritized or due)

    # ---- one lease

    def _command(self, served: Served) -> Command:
        token = f"hq:{self._worker_id}:{next(self._tokens)}"
        asked_s = monotonic_s()
        op: dict[str, Any] = {
            "token": token,
            "now_ms": epoch_ms(),
            "lock_ms": served.lock_ms,
            "worker_name": self._name,
            "limiter": served.settings.limiter,
        }
        served.asked += 1
        served.held += 1
        served.marker_taken = False
        return Command(
            lease(served.key, **op),
            lambda reply: self._answered(served, reply, asked_s),
            again=partial(lease, served.key, **op, replay=True),
        )

    def _answered(self, served: Served, reply: LeaseReply | HeavyqError, asked_s: float) -> None:
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
                if reply.wait_ms:
                    served.sleep(reply.wait_ms / 1000)
            case HeavyqError():
                self._log.error("redis refused a lease", queue=served.key.name, error=str(reply))
                self._found_nothing(served, None)
                served.sleep(_REFUSED_PAUSE_S)
            case _:
                assert_never(reply)
        self.changed = True

    def _found_nothing(self, served: Served, due_ms: int | None) -> None:
        served.held -= 1
        served.may_have_work = False
        served.due_ms = due_ms
        served.empty_since_s = monotonic_s()

    # ---- waiting for work

    @staticmethod
    def _may_arm(served: Served) -> bool:
        waiter = served.waiter
        if waiter is None or waiter.busy or served.may_have_work:
            return False
        return served.held < served.limit and served.has_room

    def _arm(self, served: Served) -> None:
        assert served.waiter is not None
        timeout_s = _BLOCK_S
        if served.due_ms is not None:
            timeout_s = min(_BLOCK_MAX_S, max(0.001, (served.due_ms - epoch_ms()) / 1000))
        served.waiter.arm(timeout_s)

    def woken(self, key: QueueKey, popped: bool) -> None:
        """A waiter came back: with the queue's marker, or because its time was over."""
        served = self._by_key[key]
        assert served.waiter is not None
        served.waiter.busy = False
        served.may_have_work = served.asleep_until_s <= monotonic_s()
        served.marker_taken |= popped
        self.changed = True

    def tick(self) -> None:
        """Let time pass: wake what slept."""
        now_s = monotonic_s()
        for served in self._served:
            if served.asleep_until_s and served.asleep_until_s <= now_s:
                served.asleep_until_s = 0.0
                served.may_have_work = True
        self.changed = True

    def stop(self) -> None:
        """Wait for no more work."""
        for served in self._served:
            if served.waiter:
                served.waiter.stop()
