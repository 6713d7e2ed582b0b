"""The life of one run: from a lease to the one settlement that ends it. Pure: no clock, no process, no Redis.

Decides what is done with a job at each event; the worker's control performs the actions. A run ends once, and
is settled exactly once or not at all (a lost lease writes nothing).

    begin ──> Leased ──Assigned──> Running ──Reported/Raised/Postponed/ChildLost──> Settling ──Settled──> Ended
      │          │                    │                                              ^    ^ Refused: again, as failed
      │          └─StopAsked──────────┼──────────────────────────────────────────────┤
      │            Condemned          └─StopAsked/LeaseLost/Condemned──> Stopping ───┘ (a lost lease: Ended)
      └─ a job that must not run (unreadable, defa, draining) ──> Settling
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from heavyq.core.outcome import MEMORY_DEATHS, Failure, Usage
from heavyq.core.retry import STRIKES_MAX, After, Backoff, Final, Now, decide_memory_retry, decide_retry
from heavyq.errors import ProtocolError

FULL_DELAY_MS = 5_000  # a container that was full needs a moment


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What the decisions need to know of a leased job.

    made: attempts made before this run (`atm`). roll: a random number in [0, 1), for the backoff's jitter.
    unreadable: why the hash cannot be run. deferred: the failure that `defa` asks for. strikes: deaths by memory, or
    beside others, before this run. memory_retry: the queue lets a death by memory be run again. strategy: the queue has
    a backoff strategy of its own.
    """

    made: int
    attempts: int
    backoff: Backoff | None
    roll: float
    unreadable: Failure | None = None
    deferred: Failure | None = None
    strikes: int = 0
    memory_retry: bool = False
    strategy: bool = False


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
class Snooze:
    """Back to delayed with no attempt burnt: the job asked for it."""

    usage: Usage
    delay_ms: int


@dataclass(frozen=True, slots=True)
class WaitForChildren:
    """Wait until the job's children are done; then it runs again, from the start, with no attempt burnt."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class HandBack:
    """Back to the head of wait with no attempt burnt.

    strikes: of a job that may have killed the child that it shared: it runs alone next. limit_ms: the queue's jobs are
    to wait so long: the job has met a rate limit.
    """

    strikes: int | None = None
    limit_ms: int | None = None


Settlement = Complete | Fail | RetryNow | RetryLater | Strike | Snooze | WaitForChildren | HandBack


class StopReason(enum.Enum):
    HANDED_BACK = "handed back"
    LEASE_LOST = "lease lost"
    CONDEMNED = "condemned"


# States: each carries only what is valid in it.
@dataclass(frozen=True, slots=True)
class Leased:
    facts: JobFacts


@dataclass(frozen=True, slots=True)
class Running:
    facts: JobFacts


@dataclass(frozen=True, slots=True)
class Stopping:
    """failure: of a job that is condemned, what it fails with once it has stopped."""

    facts: JobFacts
    why: StopReason
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Settling:
    """facts: of a job whose children may forbid the settlement: then they decide what follows."""

    settlement: Settlement
    facts: JobFacts | None = None


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
    """The child reported that the job failed.

    final: whatever its attempts. retry_ms: the job, or its queue's strategy, has said when to try again: -1 is never;
    None: nothing was said.
    """

    failure: Failure
    usage: Usage
    final: bool = False
    retry_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Postponed:
    """The job asked to be run again later: it is no failure, and burns no attempt."""

    what: Literal["snooze", "rate_limited", "children"]
    delay_ms: int
    usage: Usage


@dataclass(frozen=True, slots=True)
class Stopped:
    """The child, which has other jobs, reported that this one has stopped as it was told."""

    usage: Usage


Blame = Literal["its own", "one of many", "another's"]


@dataclass(frozen=True, slots=True)
class ChildLost:
    """The child is dead, its channel was drained, and no whole report of this run was in it.

    blame: whose fault it was: this run's; that of one of the runs which shared the child, nobody knows which; or
    another's for sure.
    """

    failure: Failure
    usage: Usage
    blame: Blame = "its own"


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """The lease is not ours any more: another worker may run the job."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """The worker must let go of the job now and give it back."""


@dataclass(frozen=True, slots=True)
class Condemned:
    """The job must stop and has failed: it is over its memory or its time, or somebody has cancelled it.

    at_once: its child is killed, whoever shares it; else the job may first be told.
    """

    failure: Failure
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """Redis answered the settlement. lost: the lease was not ours, and nothing was written."""

    lost: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """Redis did not take the settlement: the job's children forbid it. failure: what it fails with instead."""

    failure: Failure


RunEvent = (
    Assigned
    | Reported
    | Raised
    | Postponed
    | Stopped
    | ChildLost
    | LeaseLost
    | StopAsked
    | Condemned
    | Settled
    | Refused
)


# Actions: imperatives.
@dataclass(frozen=True, slots=True)
class SendJob:
    """Send the job to the child that was assigned."""


@dataclass(frozen=True, slots=True)
class StopJob:
    """Let the job stop: kill its child and all below it; if the child has other jobs, tell it first."""


@dataclass(frozen=True, slots=True)
class KillChild:
    """Kill the child and all below it, whoever shares it."""


@dataclass(frozen=True, slots=True)
class Settle:
    """Write the settlement; repeat it until Redis answers."""

    settlement: Settlement


@dataclass(frozen=True, slots=True)
class Release:
    """The run is over: stop renewing, free its seat."""


Action = SendJob | StopJob | KillChild | Settle | Release


def begin(facts: JobFacts, *, draining: bool) -> tuple[RunState, tuple[Action, ...]]:
    """Return the first state of a run whose job was just leased."""
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
        case Condemned():
            return _settle(Fail(event.failure, None))
        case Reported() | Raised() | Postponed() | Stopped() | ChildLost() | Settled() | Refused():
            raise _impossible(state, event)
        case _:
            assert_never(event)


def _running(state: Running, event: RunEvent) -> tuple[RunState, tuple[Action, ...]]:
    match event:
        case Reported():
            return _settle(Complete(event.result, event.usage), state.facts)
        case Raised():
            return _settle(_after_report(state.facts, event))
        case Postponed():
            return _settle(_postpone(event), state.facts)
        case ChildLost():
            return _settle(_after_death(state.facts, event))
        case LeaseLost():
            return Stopping(state.facts, StopReason.LEASE_LOST), (StopJob(),)
        case StopAsked():
            return Stopping(state.facts, StopReason.HANDED_BACK), (StopJob(),)
        case Condemned():
            return Stopping(state.facts, StopReason.CONDEMNED, event.failure), (_stop(event),)
        case Assigned() | Stopped() | Settled() | Refused():
            raise _impossible(state, event)
        case _:
            assert_never(event)


def _stopping(state: Stopping, event: RunEvent) -> tuple[RunState, tuple[Action, ...]]:
    match event:
        case Reported() | Raised() | Postponed() | Stopped() | ChildLost():
            return _stopped(state, event)
        case LeaseLost():
            return replace(state, why=StopReason.LEASE_LOST), ()
        case Condemned() if event.at_once:
            return state, (KillChild(),)
        case StopAsked() | Condemned():  # asked again: it is under way
            return state, ()
        case Assigned() | Settled() | Refused():
            raise _impossible(state, event)
        case _:
            assert_never(event)


def _stopped(
    state: Stopping, event: Reported | Raised | Postponed | Stopped | ChildLost
) -> tuple[RunState, tuple[Action, ...]]:
    """It runs no more, because of the stop or by itself just before."""
    if state.why is StopReason.LEASE_LOST:
        return Ended(lost=True), (Release(),)
    match event:
        case Reported():  # a result that arrived whole wins over every stop but a lost lease
            return _settle(Complete(event.result, event.usage), state.facts)
        case Raised():
            return _settle(_after_report(state.facts, event))
        case ChildLost() if state.failure is not None and event.failure.reason == "oom_killed":
            return _settle(_after_failure(state.facts, event.failure, event.usage))  # the kernel was quicker
        case _ if state.failure is not None:
            return _settle(_after_failure(state.facts, state.failure, event.usage))
        case Postponed():
            return _settle(_postpone(event), state.facts)
        case Stopped() | ChildLost():
            return _settle(HandBack())


def _settling(state: Settling, event: RunEvent) -> tuple[RunState, tuple[Action, ...]]:
    match event:
        case Settled():
            return Ended(lost=event.lost), (Release(),)
        case Refused() if state.facts is not None and isinstance(state.settlement, Complete | WaitForChildren):
            return _settle(_after_failure(state.facts, event.failure, state.settlement.usage))
        case LeaseLost() | StopAsked() | ChildLost() | Condemned():  # the script judges whose lease it is
            return state, ()
        case Assigned() | Reported() | Raised() | Postponed() | Stopped() | Refused():
            raise _impossible(state, event)
        case _:
            assert_never(event)


def _ended(state: Ended, event: RunEvent) -> tuple[RunState, tuple[Action, ...]]:
    match event:
        case LeaseLost() | StopAsked() | ChildLost() | Condemned():
            return state, ()
        case Reported() | Raised() | Postponed() | Stopped() if state.lost:  # the child had not died yet
            return state, ()
        case Assigned() | Reported() | Raised() | Postponed() | Stopped() | Settled() | Refused():
            raise _impossible(state, event)
        case _:
            assert_never(event)


def _stop(event: Condemned) -> Action:
    return KillChild() if event.at_once else StopJob()


def _postpone(event: Postponed) -> Settlement:
    match event.what:
        case "snooze":
            return Snooze(event.usage, event.delay_ms)
        case "rate_limited":
            return HandBack(limit_ms=event.delay_ms)
        case "children":
            return WaitForChildren(event.usage)
        case _:
            assert_never(event.what)


def _after_death(facts: JobFacts, event: ChildLost) -> Settlement:
    """A child has died under the job. Of several that shared it one was to blame: each runs once more, alone."""
    match event.blame:
        case "its own":
            return _after_failure(facts, event.failure, event.usage)
        case "one of many":
            return HandBack(strikes=facts.strikes + 1)
        case "another's":
            return HandBack()
        case _:
            assert_never(event.blame)


def _after_report(facts: JobFacts, event: Raised) -> Settlement:
    if event.final:
        return Fail(event.failure, event.usage)
    return _after_failure(facts, event.failure, event.usage, event.retry_ms)


def _after_failure(facts: JobFacts, failure: Failure, usage: Usage, retry_ms: int | None = None) -> Settlement:
    """Apply the job's own attempts and backoff; a death by memory has its own rule."""
    if failure.reason in MEMORY_DEATHS:
        return _after_memory_death(facts, failure, usage)
    verdict = decide_retry(
        made=facts.made,
        attempts=facts.attempts,
        backoff=facts.backoff,
        reason=failure.reason,
        rand=lambda: facts.roll,
        told_ms=retry_ms,
        strategy=facts.strategy,
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


def _settle(settlement: Settlement, facts: JobFacts | None = None) -> tuple[RunState, tuple[Action, ...]]:
    return Settling(settlement, facts), (Settle(settlement),)


def _impossible(state: RunState, event: RunEvent) -> ProtocolError:
    return ProtocolError(f"{type(event).__name__} cannot happen to a run that is {type(state).__name__}")
