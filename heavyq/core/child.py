"""The life of one child process. Pure: no pid, no clock, no signal; times and sizes come with the events.

Decides when a child may take a job, when it is retired, when it is killed. Knows nothing of what a run means.

    Starting ──ChildReady──> Ready ──(limits reached, not wanted, draining)──> Retiring ──ChildExited──> Gone
        └──────────────── ChildExited ────────────────────────────────────────────────────────────────────┘
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import assert_never

from heavyq.core.memory import in_words
from heavyq.errors import ProtocolError

START_LIMIT_S = 600.0
RETIRE_LIMIT_S = 10.0
CLEAN_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class ChildLimits:
    """When a child is replaced after a job. recycle_rss_bytes: of its own memory, above what it was born with."""

    max_jobs: int | None
    recycle_rss_bytes: int | None
    max_age_s: float | None


@dataclass(frozen=True, slots=True)
class Starting:
    asked_s: float


@dataclass(frozen=True, slots=True)
class Ready:
    """It can take jobs.

    seats: how many at once; more than one only for async processors. runs: those that it has. alone: the one that it
    has shares with nobody. clean: nothing of an earlier job is left below it. over_s: when its last job ended. worn:
    why it takes no more jobs, and goes when those that it has are over. leaked: that is for a leak.
    """

    born_s: float
    seats: int = 1
    runs: frozenset[int] = field(default_factory=frozenset)
    alone: bool = False
    clean: bool = True
    jobs_done: int = 0
    over_s: float = 0.0
    worn: str | None = None
    leaked: bool = False

    @property
    def idle(self) -> bool:
        """True when it has no job and can take one."""
        return not self.runs and self.free > 0

    @property
    def free(self) -> int:
        """How many jobs may be sent to it."""
        if not self.clean or self.alone or self.worn:
            return 0
        return self.seats - len(self.runs)


@dataclass(frozen=True, slots=True)
class Retiring:
    why: str
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Gone:
    """failed: it died before it was ever ready."""

    failed: bool


ChildState = Starting | Ready | Retiring | Gone


@dataclass(frozen=True, slots=True)
class ChildReady:
    pass


@dataclass(frozen=True, slots=True)
class RunTaken:
    """It gets a job. alone: no other beside it."""

    run: int
    alone: bool = False


@dataclass(frozen=True, slots=True)
class RunOver:
    """A job of it has reported.

    clean: the child says that nothing is left below it. grown_bytes: what it holds above what it was born with.
    """

    run: int
    clean: bool
    grown_bytes: int


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What the job had left below the child was killed. whole: nothing could not be removed."""

    whole: bool


@dataclass(frozen=True, slots=True)
class RetireAsked:
    why: str


@dataclass(frozen=True, slots=True)
class Ticked:
    pass


@dataclass(frozen=True, slots=True)
class ChildExited:
    pass


ChildEvent = ChildReady | RunTaken | RunOver | Cleaned | RetireAsked | Ticked | ChildExited


@dataclass(frozen=True, slots=True)
class AskExit:
    """Send the child its exit frame: it runs its @child_stop hooks and ends. leaked: it has grown too much."""

    why: str
    leaked: bool = False


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill the child and all below it."""

    why: str


Action = AskExit | Kill
Decision = tuple[ChildState, tuple[Action, ...]]


def decide(state: ChildState, event: ChildEvent, now_s: float, limits: ChildLimits, *, seats: int = 1) -> Decision:
    """Return the next state of one child and the actions to perform, in order.

    seats: how many jobs it can have at once.
    Raises ProtocolError for an event that cannot happen in the state: a bug of the shell, or of the child.
    """
    match state:
        case Starting():
            return _starting(state, event, now_s, seats)
        case Ready():
            return _ready(state, event, now_s, limits)
        case Retiring():
            return _retiring(state, event, now_s)
        case Gone():
            if isinstance(event, Ticked | RetireAsked):
                return state, ()
            raise _impossible(state, event)
        case _:
            assert_never(state)


def _starting(state: Starting, event: ChildEvent, now_s: float, seats: int) -> Decision:
    match event:
        case ChildReady():
            return Ready(born_s=now_s, seats=seats), ()
        case ChildExited():
            return Gone(failed=True), ()
        case Ticked() if now_s - state.asked_s > START_LIMIT_S:
            why = f"it was not ready after {START_LIMIT_S:.0f} s (a @child_start hook that hangs?)"
            return Retiring(why, now_s + RETIRE_LIMIT_S), (Kill(why),)
        case Ticked():
            return state, ()
        case RetireAsked():
            return Retiring(event.why, now_s + RETIRE_LIMIT_S), (AskExit(event.why),)
        case RunTaken() | RunOver() | Cleaned():
            raise _impossible(state, event)
        case _:
            assert_never(event)


def _ready(state: Ready, event: ChildEvent, now_s: float, limits: ChildLimits) -> Decision:
    match event:
        case RunTaken() if state.free > 0 and not (event.alone and state.runs):
            return replace(state, runs=state.runs | {event.run}, alone=event.alone), ()
        case RunOver() if event.run in state.runs:
            return _one_over(state, event, now_s, limits)
        case Cleaned() if event.whole:
            return replace(state, clean=True), ()
        case Cleaned():
            why = "what its job left behind could not be removed"
            return _retire(why, now_s) if not state.runs else (replace(state, worn=why), ())
        case RetireAsked() if not state.runs:
            return _retire(event.why, now_s)
        case ChildExited():
            return Gone(failed=False), ()
        case Ticked() if not state.clean and not state.runs and now_s - state.over_s > CLEAN_LIMIT_S:
            why = f"it could not clean up after its job within {CLEAN_LIMIT_S:.0f} s"
            return Retiring(why, now_s + RETIRE_LIMIT_S), (Kill(why),)
        case Ticked():
            return state, ()
        case ChildReady() | RunTaken() | RunOver() | RetireAsked():
            raise _impossible(state, event)
        case _:
            assert_never(event)


def _one_over(state: Ready, event: RunOver, now_s: float, limits: ChildLimits) -> Decision:
    """One job is over; a child that has worn out, and has others, keeps them to their end."""
    others = state.runs - {event.run}
    done = replace(
        state,
        runs=others,
        alone=False,
        clean=event.clean and (state.clean or not others),  # the last one's word counts
        jobs_done=state.jobs_done + 1,
        over_s=now_s,
    )
    if done.worn is None:
        why, leaked = _worn_out(done, event.grown_bytes, now_s, limits)
        if why is not None:
            done = replace(done, worn=why, leaked=leaked)
    if done.worn is None or done.runs:
        return done, ()
    return _retire(done.worn, now_s, leaked=done.leaked)


def _retiring(state: Retiring, event: ChildEvent, now_s: float) -> Decision:
    match event:
        case ChildExited():
            return Gone(failed=False), ()
        case Ticked() if now_s > state.deadline_s:
            why = f"it did not end within {RETIRE_LIMIT_S:.0f} s of being asked"
            return replace(state, deadline_s=now_s + RETIRE_LIMIT_S), (Kill(why),)
        case Ticked() | RetireAsked() | Cleaned() | ChildReady():  # on their way when it was asked to go
            return state, ()
        case RunTaken() | RunOver():
            raise _impossible(state, event)
        case _:
            assert_never(event)


def _worn_out(state: Ready, grown_bytes: int, now_s: float, limits: ChildLimits) -> tuple[str | None, bool]:
    """Return why the child is replaced after its job, None if it is not; and whether that is for a leak."""
    if limits.recycle_rss_bytes is not None and grown_bytes >= limits.recycle_rss_bytes:
        return f"recycle_rss: grown by {in_words(grown_bytes)} since its birth", True
    if limits.max_jobs is not None and state.jobs_done >= limits.max_jobs:
        return f"max_jobs_per_child: {state.jobs_done} jobs done", False
    if limits.max_age_s is not None and now_s - state.born_s >= limits.max_age_s:
        return f"max_child_age: {now_s - state.born_s:.0f} s old", False
    return None, False


def _retire(why: str, now_s: float, *, leaked: bool = False) -> Decision:
    return Retiring(why, now_s + RETIRE_LIMIT_S), (AskExit(why, leaked),)


def _impossible(state: ChildState, event: ChildEvent) -> ProtocolError:
    return ProtocolError(f"{type(event).__name__} cannot happen to a child that is {type(state).__name__}")
