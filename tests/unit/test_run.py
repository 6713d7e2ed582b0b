"""`core.run`: a run is settled exactly once, or not at all when its lease is lost; and it always ends."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heavyq.core import run as life
from heavyq.core.outcome import Failure, Usage
from heavyq.core.retry import Backoff
from heavyq.errors import ProtocolError

USAGE = Usage(1, 0.1, 0.2)
BOOM = Failure("exception", "boom")
KILLED = Failure("signal", "killed", signal=9)


FULL = Failure("memory_limit", "held too much", evidence={"peak_bytes": 5})
KERNEL = Failure("oom_killed", "the kernel killed it", signal=9, evidence={"limit_of": "group"})
CROWDED = Failure("memory_limit", "no room", evidence={"limit_of": "container", "peak_bytes": 9})
SHARED = Failure("oom_killed", "the kernel killed it", signal=9, evidence={"limit_of": "job"})


def facts(**changes):
    base = {"made": 0, "attempts": 1, "backoff": None, "roll": 0.5}
    return life.JobFacts(**{**base, **changes})


def begin_running(**changes):
    state, actions = life.begin(facts(**changes), draining=False)
    assert actions == ()
    state, actions = life.decide(state, life.Assigned())
    assert actions == (life.SendJob(),)
    return state


def test_result_completes():
    state, actions = life.decide(begin_running(), life.Reported(b"1", USAGE))
    assert actions == (life.Settle(life.Complete(b"1", USAGE)),)
    state, actions = life.decide(state, life.Settled(lost=False))
    assert state == life.Ended(lost=False)
    assert actions == (life.Release(),)


@pytest.mark.parametrize("attempts", [1, 3])
def test_job_over_its_memory_limit_fails_for_good_whatever_its_attempts(attempts):
    state, actions = life.decide(begin_running(attempts=attempts), life.Condemned(FULL, at_once=True))
    assert actions == (life.KillChild(),)
    _, (settle,) = life.decide(state, life.ChildLost(KILLED, USAGE))
    assert settle.settlement == life.Fail(FULL, USAGE)


def test_kernel_that_was_quicker_than_our_stop_is_told():
    stopping, _ = life.decide(begin_running(), life.Condemned(FULL, at_once=True))
    _, (settle,) = life.decide(stopping, life.ChildLost(KERNEL, USAGE))
    assert settle.settlement == life.Fail(KERNEL, USAGE)


def test_result_that_arrived_whole_wins_over_a_stop_for_memory():
    stopping, _ = life.decide(begin_running(), life.Condemned(FULL, at_once=True))
    _, (settle,) = life.decide(stopping, life.Reported(b"1", USAGE))
    assert settle.settlement == life.Complete(b"1", USAGE)


def test_memory_death_while_handing_back_is_handed_back():
    stopping, _ = life.decide(begin_running(), life.StopAsked())
    stopping, actions = life.decide(stopping, life.Condemned(FULL, at_once=True))
    assert actions == (life.KillChild(),)
    _, (settle,) = life.decide(stopping, life.ChildLost(KILLED, USAGE))
    assert settle.settlement == life.HandBack()


@pytest.mark.parametrize(
    ("strikes", "backoff", "settlement"),
    [
        (0, None, life.Strike(KERNEL, USAGE, 0, 1)),
        (1, Backoff("fixed", 500, 0.0), life.Strike(KERNEL, USAGE, 500, 2)),
        (1, Backoff("exponential", 500, 0.0), life.Strike(KERNEL, USAGE, 1000, 2)),
    ],
)
def test_memory_death_that_may_be_retried_burns_a_strike_and_no_attempt(strikes, backoff, settlement):
    state = begin_running(strikes=strikes, backoff=backoff, memory_retry=True)
    _, (settle,) = life.decide(state, life.ChildLost(KERNEL, USAGE))
    assert settle.settlement == settlement


@pytest.mark.parametrize("failure", [CROWDED, SHARED], ids=["stopped for room", "killed in a shared group"])
def test_job_that_died_of_a_container_that_others_may_have_filled_is_run_again(failure):
    state = begin_running(attempts=1)
    _, (settle,) = life.decide(state, life.ChildLost(failure, USAGE))
    assert settle.settlement == life.Strike(failure, USAGE, life.FULL_DELAY_MS, 1)


def test_job_that_held_more_than_it_asked_for_is_to_blame_for_a_full_container():
    greedy = Failure("memory_limit", "no room", evidence={**(CROWDED.evidence or {}), "request_bytes": 8})
    _, (settle,) = life.decide(begin_running(), life.ChildLost(greedy, USAGE))
    assert settle.settlement == life.Fail(greedy, USAGE)


def test_third_memory_death_is_the_last_and_says_so():
    state = begin_running(strikes=2, attempts=9, memory_retry=True)
    _, (settle,) = life.decide(state, life.ChildLost(KERNEL, USAGE))
    assert isinstance(settle.settlement, life.Fail)
    assert "3 times" in settle.settlement.failure.detail


@pytest.mark.parametrize(
    ("made", "attempts", "backoff", "kind"),
    [
        (0, 1, None, life.Fail),
        (0, 0, None, life.Fail),
        (0, 2, None, life.RetryNow),
        (0, 2, Backoff("fixed", 500, 0.0), life.RetryLater),
        (1, 2, Backoff("fixed", 500, 0.0), life.Fail),
    ],
)
def test_failure_follows_the_jobs_own_attempts(made, attempts, backoff, kind):
    state = begin_running(made=made, attempts=attempts, backoff=backoff)
    _, (settle,) = life.decide(state, life.Raised(BOOM, USAGE))
    assert isinstance(settle.settlement, kind)


def test_death_of_the_child_is_a_failed_attempt():
    _, (settle,) = life.decide(begin_running(attempts=2), life.ChildLost(KILLED, USAGE))
    assert settle.settlement == life.RetryNow(KILLED, USAGE)


def test_drain_hands_back_after_the_child_is_dead_and_not_before():
    state, actions = life.decide(begin_running(attempts=1), life.StopAsked())
    assert actions == (life.StopJob(),)
    _, (settle,) = life.decide(state, life.ChildLost(KILLED, USAGE))
    assert settle.settlement == life.HandBack()


def test_whole_result_wins_over_a_drain_but_not_over_a_lost_lease():
    stopping, _ = life.decide(begin_running(), life.StopAsked())
    _, (settle,) = life.decide(stopping, life.Reported(b"1", USAGE))
    assert settle.settlement == life.Complete(b"1", USAGE)
    lost, _ = life.decide(begin_running(), life.LeaseLost())
    state, actions = life.decide(lost, life.Reported(b"1", USAGE))
    assert state == life.Ended(lost=True)
    assert actions == (life.Release(),)


def test_lease_lost_while_being_stopped_writes_nothing():
    state, _ = life.decide(begin_running(), life.StopAsked())
    state, _ = life.decide(state, life.LeaseLost())
    _, actions = life.decide(state, life.ChildLost(KILLED, USAGE))
    assert actions == (life.Release(),)


def test_job_that_must_not_run_is_settled_without_a_child():
    for changes, settlement in (
        ({"unreadable": BOOM}, life.Fail(BOOM, None)),
        ({"deferred": KILLED}, life.Fail(KILLED, None)),
    ):
        _, (settle,) = life.begin(facts(**changes), draining=False)
        assert settle.settlement == settlement


@pytest.mark.parametrize(
    ("event", "settlement"),
    [
        (life.Postponed("snooze", 500, USAGE), life.Snooze(USAGE, 500)),
        (life.Postponed("rate_limited", 500, USAGE), life.HandBack(limit_ms=500)),
        (life.Postponed("children", 0, USAGE), life.WaitForChildren(USAGE)),
    ],
)
def test_job_that_asks_to_run_later_burns_no_attempt(event, settlement):
    _, (settle,) = life.decide(begin_running(attempts=1), event)
    assert settle.settlement == settlement


@pytest.mark.parametrize(
    ("report", "settlement"),
    [
        (life.Raised(BOOM, USAGE, final=True), life.Fail(BOOM, USAGE)),
        (life.Raised(BOOM, USAGE, retry_ms=700), life.RetryLater(BOOM, USAGE, 700)),
        (life.Raised(BOOM, USAGE, retry_ms=0), life.RetryNow(BOOM, USAGE)),
        (life.Raised(BOOM, USAGE, retry_ms=-1), life.Fail(BOOM, USAGE)),
    ],
)
def test_job_or_its_strategy_says_when_the_retry_is(report, settlement):
    _, (settle,) = life.decide(begin_running(attempts=3, backoff=Backoff("mine", 0)), report)
    assert settle.settlement == settlement


def test_delay_that_the_job_asks_for_does_not_make_a_further_attempt():
    _, (settle,) = life.decide(begin_running(attempts=1), life.Raised(BOOM, USAGE, retry_ms=700))
    assert settle.settlement == life.Fail(BOOM, USAGE)


@pytest.mark.parametrize(
    ("blame", "settlement"),
    [
        ("its own", life.Fail(KILLED, USAGE)),
        ("one of many", life.HandBack(strikes=1)),
        ("another's", life.HandBack()),
    ],
)
def test_death_of_a_shared_child_costs_an_attempt_only_who_is_known_to_have_caused_it(blame, settlement):
    _, (settle,) = life.decide(begin_running(attempts=1), life.ChildLost(KILLED, USAGE, blame))
    assert settle.settlement == settlement


def test_job_that_was_told_to_stop_is_handed_back_when_it_has():
    state, _ = life.decide(begin_running(attempts=1), life.StopAsked())
    _, (settle,) = life.decide(state, life.Stopped(USAGE))
    assert settle.settlement == life.HandBack()


@pytest.mark.parametrize("end", [life.Stopped(USAGE), life.ChildLost(KILLED, USAGE)])
def test_job_over_its_time_fails_with_that_reason_however_it_stops(end):
    over = Failure("timeout", "too long")
    state, actions = life.decide(begin_running(attempts=2), life.Condemned(over))
    assert actions == (life.StopJob(),)
    _, (settle,) = life.decide(state, end)
    assert settle.settlement == life.RetryNow(over, USAGE)


def test_cancelled_job_is_not_retried():
    gone = Failure("cancelled", "cancelled")
    state, _ = life.decide(begin_running(attempts=9), life.Condemned(gone))
    _, (settle,) = life.decide(state, life.Stopped(USAGE))
    assert settle.settlement == life.Fail(gone, USAGE)


@pytest.mark.parametrize(
    ("why", "kind"), [(Failure("child_failed", "a child failed"), life.Fail), (BOOM, life.RetryNow)]
)
@pytest.mark.parametrize("event", [life.Reported(b"1", USAGE), life.Postponed("children", 0, USAGE)])
def test_outcome_that_the_children_forbid_becomes_a_failure_with_its_attempts(event, why, kind):
    state, _ = life.decide(begin_running(attempts=2), event)
    state, (settle,) = life.decide(state, life.Refused(why))
    assert settle.settlement == kind(why, USAGE)
    assert life.decide(state, life.Settled(lost=False))[0] == life.Ended(lost=False)


def test_lease_that_arrives_while_draining_is_handed_back():
    _, (settle,) = life.begin(facts(), draining=True)
    assert settle.settlement == life.HandBack()


def test_second_report_of_a_run_is_a_protocol_error():
    state, _ = life.decide(begin_running(), life.Reported(b"1", USAGE))
    with pytest.raises(ProtocolError, match="Reported cannot happen to a run that is Settling"):
        life.decide(state, life.Reported(b"2", USAGE))


EVENTS = st.sampled_from(
    [
        life.Assigned(),
        life.Reported(b"1", USAGE),
        life.Raised(BOOM, USAGE),
        life.Raised(BOOM, USAGE, final=True),
        life.Postponed("snooze", 5, USAGE),
        life.Postponed("children", 0, USAGE),
        life.Stopped(USAGE),
        life.ChildLost(KILLED, USAGE),
        life.ChildLost(KILLED, USAGE, "one of many"),
        life.Condemned(BOOM),
        life.LeaseLost(),
        life.StopAsked(),
        life.Condemned(FULL, at_once=True),
        life.Settled(lost=False),
        life.Settled(lost=True),
    ]
)


@settings(max_examples=500)
@given(st.lists(EVENTS, max_size=12), st.booleans(), st.integers(0, 3))
def test_any_history_settles_at_most_once_and_releases_once(events, draining, attempts):
    state, actions = life.begin(facts(attempts=attempts), draining=draining)
    done = list(actions)
    lost_before_settling = False
    for event in events:
        try:
            state, actions = life.decide(state, event)
        except ProtocolError:
            continue  # impossible here: the shell never sends it, and the state is untouched
        lost_before_settling |= isinstance(state, life.Ended) and not any(isinstance(a, life.Settle) for a in done)
        done += actions
    settles = [a for a in done if isinstance(a, life.Settle)]
    releases = [a for a in done if isinstance(a, life.Release)]
    assert len(settles) <= 1
    assert len(releases) == isinstance(state, life.Ended)
    assert not (settles and lost_before_settling), "settled after the lease was lost"
    # whatever happened, these end it
    for event in (life.StopAsked(), life.ChildLost(KILLED, USAGE), life.Settled(lost=False)):
        try:
            state, _ = life.decide(state, event)
        except ProtocolError:
            continue
    assert isinstance(state, life.Ended)
