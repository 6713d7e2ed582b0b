"""The pure core as one worker: runs, children and fleet together, under any order of events that can happen.

A hypothesis state machine plays Redis, the processes and the operator; `core` decides. Whatever comes: no child has two
jobs, no job two children, no more children than seats, each job is settled once or lost, and a drain always ends.
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
LIMITS = child_life.ChildLimits(max_jobs=3, recycle_rss_bytes=100, max_age_s=None)


class Worker(RuleBasedStateMachine):
    @initialize(seats=st.integers(1, 3))
    def start(self, seats: int) -> None:
        self.seats = seats
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
        self.children[number], _ = child_life.decide(self.children[number], event, self.now_s, LIMITS)

    def living(self) -> dict[int, child_life.ChildState]:
        return {n: s for n, s in self.children.items() if not isinstance(s, child_life.Gone)}

    def busy(self) -> dict[int, int]:
        """Run by child."""
        return {n: s.run for n, s in self.living().items() if isinstance(s, child_life.Ready) and s.run is not None}

    def place(self) -> None:
        waiting = [n for n, s in self.runs.items() if isinstance(s, run_life.Leased)]
        for ahead, number in enumerate(waiting):
            views = [
                fleet.ChildView(
                    n,
                    "kind",
                    idle=isinstance(s, child_life.Ready) and s.idle,
                    starting=isinstance(s, child_life.Starting),
                    leaving=isinstance(s, child_life.Retiring),
                )
                for n, s in self.living().items()
            ]
            match fleet.place("kind", views, concurrency=self.seats, waiting_ahead=ahead):
                case fleet.UseChild(child):
                    self.apply_child(child, child_life.RunTaken(number))
                    self.child_of[number] = child
                    self.apply_run(number, run_life.Assigned())
                case fleet.MakeChild():
                    self.children[self.next] = child_life.Starting(self.now_s)
                    self.next += 1

    # ---- what may happen

    def free_seats(self) -> int:
        held = sum(not isinstance(s, run_life.Ended) for s in self.runs.values())
        leaving = sum(isinstance(s, child_life.Retiring) for s in self.living().values())
        return fleet.free_seats(concurrency=self.seats, runs=held, leases_asked=0, children_leaving=leaving)

    @precondition(lambda self: not self.draining and self.free_seats())
    @rule(attempts=st.integers(0, 2), deferred=st.sampled_from([False, False, False, True]))
    def lease(self, attempts: int, deferred: bool) -> None:
        facts = run_life.JobFacts(0, attempts, None, 0.5, deferred=KILLED if deferred else None)
        self.runs[self.next], actions = run_life.begin(facts, draining=self.draining)
        self.leased.add(self.next)
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
        child = data.draw(st.sampled_from(sorted(busy)))
        number = busy[child]
        self.apply_child(child, child_life.RunOver(clean, grown))
        del self.child_of[number]
        self.apply_run(number, run_life.Reported(b"1", USAGE) if ok else run_life.Raised(BOOM, USAGE))
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
        number = self.busy().get(child)
        self.apply_child(child, child_life.ChildExited())
        if number is not None:
            del self.child_of[number]
            self.apply_run(number, run_life.ChildLost(KILLED, USAGE))

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
            self.apply_run(busy[data.draw(st.sampled_from(sorted(busy)))], run_life.MemoryExceeded(FULL))

    @rule(data=st.data(), lost=st.booleans())
    def redis_answers(self, data: st.DataObject, lost: bool) -> None:
        settling = [n for n, s in self.runs.items() if isinstance(s, run_life.Settling)]
        if settling:
            self.apply_run(data.draw(st.sampled_from(settling)), run_life.Settled(lost))

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
            if isinstance(state, child_life.Starting) or (isinstance(state, child_life.Ready) and state.run is None):
                self.apply_child(number, child_life.RetireAsked("drain"))

    # ---- what must hold

    @invariant()
    def a_job_has_one_child_and_a_child_one_job(self) -> None:
        busy = self.busy()
        assert {child: run for run, child in self.child_of.items()} == busy
        for number in busy.values():
            assert isinstance(self.runs[number], run_life.Running | run_life.Stopping)

    @invariant()
    def there_are_no_more_children_than_seats(self) -> None:
        assert len(self.living()) <= self.seats

    @invariant()
    def nothing_is_settled_twice(self) -> None:
        assert all(count == 1 for count in self.settled.values())

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
