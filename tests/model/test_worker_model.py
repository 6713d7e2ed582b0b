"""The pure core as one worker: runs, children and fleet together, under any order of events that can happen.

A hypothesis state machine plays Redis, the processes and the operator; `core` decides. Whatever comes: no child has
more jobs than seats, no job two children, no more children than there may be, who runs alone is alone, each job is
settled once or lost (twice if Redis refused the first), and a drain always ends.
"""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from heavyq.core import child as child_life
from heavyq.core import fleet
from heavyq.core import run as run_life
from heavyq.core.outcome import Failure, Usage

USAGE = Usage(1, 0.1, 0.1)
BOOM = Failure("exception", "boom")
KILLED = Failure("signal", "killed", signal=9)
FULL = Failure("memory_limit", "held too much")
OTHER_ENDS = [
    run_life.Raised(BOOM, USAGE),
    run_life.Raised(BOOM, USAGE, final=True),
    run_life.Postponed("snooze", 5, USAGE),
    run_life.Postponed("rate_limited", 5, USAGE),
    run_life.Postponed("children", 0, USAGE),
]
LIMITS = child_life.ChildLimits(max_jobs=3, recycle_rss_bytes=100, max_age_s=None)


class Worker(RuleBasedStateMachine):
    @initialize(concurrency=st.integers(1, 3), seats=st.sampled_from([1, 1, 3]))
    def start(self, concurrency: int, seats: int) -> None:
        self.concurrency, self.seats = concurrency, seats
        self.alone: set[int] = set()
        self.refused: Counter[int] = Counter()
        self.now_s = 0.0
        self.draining = False
        self.next = 1
        self.runs: dict[int, run_life.RunState] = {}
        self.child_of: dict[int, int] = {}
        self.children: dict[int, child_life.ChildState] = {}
        self.settled: Counter[int] = Counter()
        self.lost: set[int] = set()
        self.doomed: set[int] = set()
        self.leased: set[int] = set()

    # ---- what the shell does with decisions

    def apply_run(self, number: int, event: run_life.RunEvent) -> None:
        self.runs[number], actions = run_life.decide(self.runs[number], event)
        self.perform(number, actions)

    def perform(self, number: int, actions: tuple[run_life.Action, ...]) -> None:
        for action in actions:
            if isinstance(action, run_life.Settle):
                assert number not in self.doomed, "a run whose lease was lost writes nothing"
                self.settled[number] += 1
            elif isinstance(action, run_life.Release):
                assert isinstance(self.runs[number], run_life.Ended)
                if self.runs[number].lost and number not in self.settled:
                    self.lost.add(number)

    def apply_child(self, number: int, event: child_life.ChildEvent) -> None:
        state = self.children[number]
        self.children[number], _ = child_life.decide(state, event, self.now_s, LIMITS, seats=self.seats)

    def living(self) -> dict[int, child_life.ChildState]:
        return {n: s for n, s in self.children.items() if not isinstance(s, child_life.Gone)}

    def busy(self) -> dict[int, int]:
        """Child by run."""
        return {r: n for n, s in self.living().items() if isinstance(s, child_life.Ready) for r in s.runs}

    def views(self) -> list[fleet.ChildView]:
        return [self.view(n, s) for n, s in self.living().items()]

    def view(self, number: int, state: child_life.ChildState) -> fleet.ChildView:
        if isinstance(state, child_life.Ready):
            leaving = not state.runs and not state.free
            return fleet.ChildView(number, "kind", self.seats, len(state.runs), state.free, leaving=leaving)
        starting = isinstance(state, child_life.Starting)
        return fleet.ChildView(number, "kind", self.seats, starting=starting, leaving=not starting)

    def waiting(self) -> list[int]:
        return [n for n, s in self.runs.items() if isinstance(s, run_life.Leased)]

    def place(self) -> None:
        ahead = 0
        for number in self.waiting():
            alone = number in self.alone
            match fleet.place("kind", self.views(), concurrency=self.concurrency, waiting_ahead=ahead, alone=alone):
                case fleet.UseChild(child):
                    self.apply_child(child, child_life.RunTaken(number, alone=alone))
                    self.child_of[number] = child
                    self.apply_run(number, run_life.Assigned())
                case fleet.MakeChild():
                    self.children[self.next] = child_life.Starting(self.now_s)
                    self.next += 1
                    ahead += 1
                case fleet.WaitForChild() | fleet.RetireChild():
                    ahead += 1

    # ---- what may happen

    def has_seat(self) -> bool:
        views = self.views()
        settling = sum(isinstance(s, run_life.Settling) for s in self.runs.values())
        claims = settling + sum(self.seats if n in self.alone else 1 for n in self.waiting())
        kinds = fleet.count_kinds(views, {"kind": self.seats}, {"kind": claims})
        leaving = sum(view.leaving for view in views)
        return fleet.fits("kind", kinds, concurrency=self.concurrency, leaving=leaving, may_make=True)

    @precondition(lambda self: not self.draining and self.has_seat())
    @rule(attempts=st.integers(0, 2), deferred=st.sampled_from([False, False, False, True]), alone=st.booleans())
    def lease(self, attempts: int, deferred: bool, alone: bool) -> None:
        facts = run_life.JobFacts(0, attempts, None, 0.5, deferred=KILLED if deferred else None)
        self.runs[self.next], actions = run_life.begin(facts, draining=self.draining)
        self.leased.add(self.next)
        if alone and self.seats > 1:
            self.alone.add(self.next)
        self.perform(self.next, actions)
        self.next += 1
        self.place()

    def starting(self) -> list[int]:
        return [n for n, s in self.living().items() if isinstance(s, child_life.Starting)]

    @precondition(lambda self: self.starting())
    @rule(data=st.data())
    def child_is_ready(self, data: st.DataObject) -> None:
        self.apply_child(data.draw(st.sampled_from(self.starting())), child_life.ChildReady())
        self.place()

    @precondition(lambda self: self.busy())
    @rule(data=st.data(), ok=st.booleans(), clean=st.booleans(), grown=st.sampled_from([0, 200]))
    def job_reports(self, data: st.DataObject, ok: bool, clean: bool, grown: int) -> None:
        busy = self.busy()
        number = data.draw(st.sampled_from(sorted(busy)))
        self.apply_child(busy[number], child_life.RunOver(number, clean, grown))
        del self.child_of[number]
        self.apply_run(number, run_life.Reported(b"1", USAGE) if ok else data.draw(st.sampled_from(OTHER_ENDS)))
        self.place()

    def told_to_stop(self) -> list[int]:
        return [n for n in self.busy() if self.seats > 1 and isinstance(self.runs[n], run_life.Stopping)]

    @precondition(lambda self: self.told_to_stop())
    @rule(data=st.data())
    def job_stops_as_it_was_told(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.told_to_stop()))
        self.apply_child(self.busy()[number], child_life.RunOver(number, clean=True, grown_bytes=0))
        del self.child_of[number]
        self.apply_run(number, run_life.Stopped(USAGE))
        self.place()

    @rule(data=st.data(), whole=st.booleans())
    def child_has_cleaned(self, data: st.DataObject, whole: bool) -> None:
        unclean = [n for n, s in self.living().items() if isinstance(s, child_life.Ready) and not s.clean]
        if unclean:
            self.apply_child(data.draw(st.sampled_from(unclean)), child_life.Cleaned(whole))
            self.place()

    @precondition(lambda self: self.living())
    @rule(data=st.data(), often=st.integers(0, 3))
    def child_dies(self, data: st.DataObject, often: int) -> None:
        if often:
            return
        self.kill(data.draw(st.sampled_from(sorted(self.living()))))
        self.place()

    def kill(self, child: int) -> None:
        had = [number for number, its in self.busy().items() if its == child]
        self.apply_child(child, child_life.ChildExited())
        for number in had:
            del self.child_of[number]
            blame: run_life.Blame = "its own" if len(had) == 1 else "one of many"
            self.apply_run(number, run_life.ChildLost(KILLED, USAGE, blame))

    @rule(data=st.data())
    def lease_is_lost(self, data: st.DataObject) -> None:
        held = [n for n, s in self.runs.items() if not isinstance(s, run_life.Ended)]
        if held:
            number = data.draw(st.sampled_from(held))
            if not isinstance(self.runs[number], run_life.Settling):  # there the script itself judges
                self.doomed.add(number)
            self.apply_run(number, run_life.LeaseLost())

    @rule(data=st.data())
    def job_holds_too_much(self, data: st.DataObject) -> None:
        busy = self.busy()
        if busy:
            number = data.draw(st.sampled_from(sorted(busy)))
            self.apply_run(number, run_life.Condemned(FULL, at_once=data.draw(st.booleans())))

    @rule(data=st.data(), lost=st.booleans())
    def redis_answers(self, data: st.DataObject, lost: bool) -> None:
        settling = [n for n, s in self.runs.items() if isinstance(s, run_life.Settling)]
        if not settling:
            return
        number = data.draw(st.sampled_from(settling))
        settlement = getattr(self.runs[number], "settlement", None)
        may_refuse = isinstance(settlement, run_life.Complete | run_life.WaitForChildren)
        if may_refuse and data.draw(st.booleans()):
            self.refused[number] += 1
            self.apply_run(number, run_life.Refused(BOOM))
        else:
            self.apply_run(number, run_life.Settled(lost))
        self.place()

    @rule(seconds=st.sampled_from([1.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        for number in self.living():
            self.apply_child(number, child_life.Ticked())

    @rule(unlikely=st.integers(0, 15))
    def operator_drains(self, unlikely: int) -> None:
        if unlikely == 15:
            self.drain()

    def drain(self) -> None:
        self.draining = True
        for number, state in list(self.runs.items()):
            if isinstance(state, run_life.Leased):
                self.apply_run(number, run_life.StopAsked())
        for number, state in self.living().items():
            if isinstance(state, child_life.Starting) or (isinstance(state, child_life.Ready) and not state.runs):
                self.apply_child(number, child_life.RetireAsked("drain"))

    # ---- what must hold

    @invariant()
    def a_job_has_one_child_and_a_child_no_more_jobs_than_seats(self) -> None:
        busy = self.busy()
        assert self.child_of == busy
        for number, child in busy.items():
            assert isinstance(self.runs[number], run_life.Running | run_life.Stopping)
            beside = [other for other, its in busy.items() if its == child and other != number]
            assert len(beside) < self.seats
            assert not (beside and number in self.alone)

    @invariant()
    def there_are_no_more_children_than_there_may_be(self) -> None:
        assert len(self.living()) <= self.concurrency

    @invariant()
    def nothing_is_settled_twice(self) -> None:
        assert all(count == 1 + self.refused[number] for number, count in self.settled.items())

    def teardown(self) -> None:
        """Drain, kill what runs, let Redis answer: everything has an end."""
        if not hasattr(self, "runs"):
            return
        self.drain()
        for number, state in list(self.runs.items()):
            if not isinstance(state, run_life.Ended):
                self.apply_run(number, run_life.StopAsked())
        for child in list(self.living()):
            self.kill(child)
        for number, state in list(self.runs.items()):
            if isinstance(state, run_life.Settling):
                self.apply_run(number, run_life.Settled(lost=False))
        assert all(isinstance(state, run_life.Ended) for state in self.runs.values())
        assert self.leased == set(self.settled) | self.lost


Worker.TestCase.settings = settings(max_examples=500, stateful_step_count=60, deadline=None)
TestWorker = Worker.TestCase
