"""The life of one run: from a lease to the one settlement that ends it. Pure: no clock, no process, no Redis.

Decides what is done with a job at each event; the worker's control performs the actions. A run ends once, and
is settled exactly once or not at all (a lost lease writes nothing).

    begin ──> Leased ──Assigned──> Running ──Reported/Raised/ChildLost──> Settling ──Settled──> Ended
      │          │                    │                                      ^
      │          └─StopAsked──────────┼──────────────────────────────────────┤
      │                               └─StopAsked/LeaseLost/MemoryExceeded──> Stopping ─┘ (a lost lease: Ended)
      └─ a job that must not run (unreadable, defa, a duty not built, draining) ──> Settling
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import assert_never

from heavyq.core.outcome import MEMORY_DEATHS, Failure, Usage
from heavyq.core.retry import STRIKES_MAX, After, Backoff, Final, Now, decide_memory_retry, decide_retry
from heavyq.errors import ProtocolError

DUTY_DELAY_MS = 60_000
FULL_DELAY_MS = 5_000  # a container that was full needs a moment


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What the decisions need to know of a leased job.

    made: attempts made before this run (`atm`). roll: a random number in [0, 1), for the backoff's jitter.
    unreadable: why the hash cannot be run. deferred: the failure that `defa` asks for. duty: what the job
    would need that is not built yet. strikes: deaths by memory before this run. memory_retry: the queue lets such a
    job run again.
    """

    made: int
    attempts: int
    backoff: Backoff | None
    roll: float
    unreadable: Failure | None = None
    deferred: Failure | None = None
    duty: str | None = None
    strikes: int = 0
    memory_retry: bool = False


# What is written when the run ends. Each is one script.
@dataclass(frozen=True, slots=True)
class Complete:
    result: bytes
    usage: Usage


@dataclass(frozen=True, slots=True)
class Fail:
    failure: Failure
    usage: Usage | None


@dataclass(frozen=True, slots=True)
class RetryNow:
    failure: Failure
    usage: Usage | None


@dataclass(frozen=True, slots=True)
class RetryLater:
    failure: Failure
    usage: Usage | None
    delay_ms: int


@dataclass(frozen=True, slots=True)
class Strike:
    """Back to delayed after a death by memory: no attempt burnt, one strike more. strikes: with this one."""

    failure: Failure
    usage: Usage | None
    delay_ms: int
    strikes: int


@dataclass(frozen=True, slots=True)
class Defer:
    """Back to delayed with no attempt burnt: the job needs a duty that this worker has not got."""

    duty: str
    delay_ms: int = DUTY_DELAY_MS


@dataclass(frozen=True, slots=True)
class HandBack:
    """Back to the head of wait with no attempt burnt."""


Settlement = Complete | Fail | RetryNow | RetryLater | Strike | Defer | HandBack


class StopReason(enum.Enum):
    HANDED_BACK = "handed back"
    LEASE_LOST = "lease lost"
    MEMORY = "memory"


# States: each carries only what is valid in it.
@dataclass(frozen=True, slots=True)
class Leased:
    facts: JobFacts


@dataclass(frozen=True, slots=True)
class Running:
    facts: JobFacts


@dataclass(frozen=True, slots=True)
class Stopping:
    """failure: of a stop for memory, what the job fails with once its child is dead."""

    facts: JobFacts
    why: StopReason
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Settling:
    settlement: Settlement


@dataclass(frozen=True, slots=True)
class Ended:
    lost: bool


RunState = Leased | Running | Stopping | Settling | Ended


# Events: past participles.
@dataclass(frozen=True, slots=True)
class Assigned:
    """A ready child took the job."""


@dataclass(frozen=True, slots=True)
class Reported:
    """The result arrived whole."""

    result: bytes
    usage: Usage


@dataclass(frozen=True, slots=True)
class Raised:
    """The child reported that the job failed."""

    failure: Failure
    usage: Usage


@dataclass(frozen=True, slots=True)
class ChildLost:
    """The child is dead, its channel was drained, and no whole report was in it."""

    failure: Failure
    usage: Usage


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """The lease is not ours any more: another worker may run the job."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """The worker must let go of the job now and give it back."""


@dataclass(frozen=True, slots=True)
class MemoryExceeded:
    """The job holds more memory than it may, or than the container has left. failure: why, with the evidence."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Settled:
    """Redis answered the settlement. lost: the lease was not ours, and nothing was written."""

    lost: bool


RunEvent = Assigned | Reported | Raised | ChildLost | LeaseLost | StopAsked | MemoryExceeded | Settled


# Actions: imperatives.
@dataclass(frozen=True, slots=True)
class SendJob:
    """Send the job to the child that was assigned."""


@dataclass(frozen=True, slots=True)
class KillChild:
    """Kill the child and all below it."""


@dataclass(frozen=True, slots=True)
class Settle:
    """Write the settlement; repeat it until Redis answers."""

    settlement: Settlement


@dataclass(frozen=True, slots=True)
class Release:
    """The run is over: stop renewing, free its seat."""


Action = SendJob | KillChild | Settle | Release


def begin(facts: JobFacts, *, draining: bool) -> tuple[RunState, tuple[Action, ...]]:
    """Return the first state of a run whose job was just leased."""
    if facts.duty:  # first: to fail a parent's child without keeping the parent's books would hang the parent
        return _settle(Defer(facts.duty))
    if facts.unreadable:
        return _settle(Fail(facts.unreadable, None))
    if facts.deferred:
        return _settle(Fail(facts.deferred, None))
    if draining:
        return _settle(HandBack())
    return Leased(facts), ()


def decide(state: RunState, event: RunEvent) -> tuple[RunState, tuple[Action, ...]]:
    """Return the next state of one run and the actions to perform, in order.

    Raises ProtocolError for an event that cannot happen in the state: a bug of the shell.
    """
    match state:
        case Leased():
            return _leased(state, event)
        case Running():
            return _running(state, event)
        case Stopping():
            return _stopping(state, event)
        case Settling():
            return _settling(state, event)
        case Ended():
            return _ended(state, event)
        case _:
            assert_never(state)


def _leased(state: Leased, event: RunEvent) -> tuple[RunState, tuple[Action, ...]]:
    match event:
        case Assigned():
            return Running(state.facts), (SendJob(),)
        case LeaseLost():
            return Ended(lost=True), (Release(),)
        case StopAsked():
            return _settle(HandBack())
        case Reported() | Raised() | ChildLost() | MemoryExceeded() | Settled():
            raise _impossible(state, event)
        case _:
            assert_never(event)


def _running(state: Running, event: RunEvent) -> tuple[RunState, tuple[Action, ...]]:
    match event:
        case Reported():
            return _settle(Complete(event.result, event.usage))
        case Raised() | ChildLost():
            return _settle(_after_failure(state.facts, event.failure, event.usage))
        case LeaseLost():
            return Stopping(state.facts, StopReason.LEASE_LOST), (KillChild(),)
        case StopAsked():
            return Stopping(state.facts, StopReason.HANDED_BACK), (KillChild(),)
        case MemoryExceeded():
            return Stopping(state.facts, StopReason.MEMORY, event.failure), (KillChild(),)
        case Assigned() | Settled():
            raise _impossible(state, event)
        case _:
            assert_never(event)


def _stopping(state: Stopping, event: RunEvent) -> tuple[RunState, tuple[Action, ...]]:
    lost = state.why is StopReason.LEASE_LOST
    match event:
        case Reported() | Raised() | ChildLost() if lost:
            return Ended(lost=True), (Release(),)
        case Reported():  # a result that arrived whole wins over every stop but a lost lease
            return _settle(Complete(event.result, event.usage))
        case Raised():
            return _settle(_after_failure(state.facts, event.failure, event.usage))
        case ChildLost() if state.failure is not None:
            first = event.failure if event.failure.reason == "oom_killed" else state.failure  # the kernel was quicker
            return _settle(_after_failure(state.facts, first, event.usage))
        case ChildLost():
            return _settle(HandBack())
        case LeaseLost():
            return replace(state, why=StopReason.LEASE_LOST), ()
        case StopAsked() | MemoryExceeded():  # asked again: the kill is under way
            return state, ()
        case Assigned() | Settled():
            raise _impossible(state, event)
        case _:
            assert_never(event)


def _settling(state: Settling, event: RunEvent) -> tuple[RunState, tuple[Action, ...]]:
    match event:
        case Settled():
            return Ended(lost=event.lost), (Release(),)
        case LeaseLost() | StopAsked() | ChildLost() | MemoryExceeded():  # the script judges whose lease it is
            return state, ()
        case Assigned() | Reported() | Raised():
            raise _impossible(state, event)
        case _:
            assert_never(event)


def _ended(state: Ended, event: RunEvent) -> tuple[RunState, tuple[Action, ...]]:
    match event:
        case LeaseLost() | StopAsked() | ChildLost() | MemoryExceeded():
            return state, ()
        case Reported() | Raised() if state.lost:  # the child of a lost lease had not died yet
            return state, ()
        case Assigned() | Reported() | Raised() | Settled():
            raise _impossible(state, event)
        case _:
            assert_never(event)


def _after_failure(facts: JobFacts, failure: Failure, usage: Usage) -> Settlement:
    """Apply the job's own attempts and backoff; a death by memory has its own rule."""
    if failure.reason in MEMORY_DEATHS:
        return _after_memory_death(facts, failure, usage)
    verdict = decide_retry(
        made=facts.made,
        attempts=facts.attempts,
        backoff=facts.backoff,
        reason=failure.reason,
        rand=lambda: facts.roll,
    )
    match verdict:
        case Final():
            note = verdict.why
            return Fail(replace(failure, detail=f"{failure.detail} ({note})") if note else failure, usage)
        case Now():
            return RetryNow(failure, usage)
        case After():
            return RetryLater(failure, usage, verdict.delay_ms)
        case _:
            assert_never(verdict)


def _after_memory_death(facts: JobFacts, failure: Failure, usage: Usage) -> Settlement:
    shared = failure.by_the_container  # others may have filled it: such a job is always run again
    if not facts.memory_retry and not shared:
        return Fail(failure, usage)
    least_ms = FULL_DELAY_MS if shared else 0
    match decide_memory_retry(strikes=facts.strikes, backoff=facts.backoff, rand=lambda: facts.roll):
        case Final(why) if not shared or facts.strikes + 1 >= STRIKES_MAX:
            return Fail(replace(failure, detail=f"{failure.detail} ({why})"), usage)
        case Final() | Now():
            return Strike(failure, usage, least_ms, facts.strikes + 1)
        case After(delay_ms):
            return Strike(failure, usage, max(least_ms, delay_ms), facts.strikes + 1)


def _settle(settlement: Settlement) -> tuple[RunState, tuple[Action, ...]]:
    return Settling(settlement), (Settle(settlement),)


def _impossible(state: RunState, event: RunEvent) -> ProtocolError:
    return ProtocolError(f"{type(event).__name__} cannot happen to a run that is {type(state).__name__}")
