"""`core.child`: a child takes one job at a time, is replaced when worn out, and always goes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heavyq.core import child as life
from heavyq.errors import ProtocolError

NONE = life.ChildLimits(None, None, None)
MIB = 2**20


def ready(**changes):
    return life.Ready(born_s=0.0, **changes)


def test_child_is_born_then_takes_a_job_then_is_idle_again():
    state, _ = life.decide(life.Starting(0.0), life.ChildReady(), 1.0, NONE)
    assert state.idle
    state, _ = life.decide(state, life.RunTaken(1), 1.0, NONE)
    assert not state.idle
    state, actions = life.decide(state, life.RunOver(1, clean=True, grown_bytes=9), 2.0, NONE)
    assert state.idle
    assert actions == ()


def test_child_with_leftovers_takes_no_job_until_cleaned():
    state, _ = life.decide(ready(runs=frozenset({1})), life.RunOver(1, clean=False, grown_bytes=0), 1.0, NONE)
    assert not state.idle
    with pytest.raises(ProtocolError):
        life.decide(state, life.RunTaken(2), 1.0, NONE)
    state, _ = life.decide(state, life.Cleaned(whole=True), 1.0, NONE)
    assert state.idle


def test_child_that_cannot_be_cleaned_is_retired():
    state, (action,) = life.decide(ready(clean=False), life.Cleaned(whole=False), 1.0, NONE)
    assert isinstance(state, life.Retiring)
    assert isinstance(action, life.AskExit)


@pytest.mark.parametrize(
    ("limits", "grown", "now_s", "why"),
    [
        (life.ChildLimits(1, None, None), 0, 1.0, "max_jobs_per_child"),
        (life.ChildLimits(None, 50 * MIB, None), 50 * MIB, 1.0, "recycle_rss"),
        (life.ChildLimits(None, None, 60.0), 0, 61.0, "max_child_age"),
    ],
)
def test_worn_out_child_is_replaced_after_its_job(limits, grown, now_s, why):
    state, (action,) = life.decide(
        ready(runs=frozenset({1})), life.RunOver(1, clean=True, grown_bytes=grown), now_s, limits
    )
    assert isinstance(state, life.Retiring)
    assert why in action.why
    assert action.leaked == (why == "recycle_rss")


def test_shared_child_takes_as_many_jobs_as_it_has_seats():
    state, _ = life.decide(life.Starting(0.0), life.ChildReady(), 1.0, NONE, seats=2)
    state, _ = life.decide(state, life.RunTaken(1), 1.0, NONE)
    assert state.free == 1
    assert not state.idle
    state, _ = life.decide(state, life.RunTaken(2), 1.0, NONE)
    with pytest.raises(ProtocolError):
        life.decide(state, life.RunTaken(3), 1.0, NONE)
    state, _ = life.decide(state, life.RunOver(1, clean=True, grown_bytes=0), 1.0, NONE)
    assert state.runs == {2}


def test_job_that_is_to_run_alone_gets_a_shared_child_for_itself():
    state = ready(seats=9)
    alone, _ = life.decide(state, life.RunTaken(1, alone=True), 1.0, NONE)
    assert alone.free == 0
    alone, _ = life.decide(alone, life.RunOver(1, clean=True, grown_bytes=0), 1.0, NONE)
    assert alone.free == 9
    busy, _ = life.decide(state, life.RunTaken(1), 1.0, NONE)
    with pytest.raises(ProtocolError):
        life.decide(busy, life.RunTaken(2, alone=True), 1.0, NONE)


def test_worn_out_shared_child_goes_only_when_its_last_job_is_over():
    limits = life.ChildLimits(2, None, None)
    state = ready(seats=3, runs=frozenset({1, 2, 3}))
    state, _ = life.decide(state, life.RunOver(1, clean=True, grown_bytes=0), 1.0, limits)
    state, actions = life.decide(state, life.RunOver(2, clean=True, grown_bytes=0), 1.0, limits)
    assert actions == ()
    assert state.free == 0
    state, (action,) = life.decide(state, life.RunOver(3, clean=True, grown_bytes=0), 1.0, limits)
    assert isinstance(state, life.Retiring)
    assert "max_jobs_per_child" in action.why


def test_child_that_never_finishes_cleaning_up_is_killed():
    state, _ = life.decide(ready(runs=frozenset({1})), life.RunOver(1, clean=False, grown_bytes=0), 1.0, NONE)
    assert life.decide(state, life.Ticked(), 2.0, NONE) == (state, ())
    state, actions = life.decide(state, life.Ticked(), life.CLEAN_LIMIT_S + 2, NONE)
    assert isinstance(state, life.Retiring)
    assert isinstance(actions[0], life.Kill)


def test_child_that_does_not_end_when_asked_is_killed():
    state, _ = life.decide(ready(), life.RetireAsked("drain"), 0.0, NONE)
    state, actions = life.decide(state, life.Ticked(), life.RETIRE_LIMIT_S + 1, NONE)
    assert isinstance(actions[0], life.Kill)


def test_child_that_is_never_ready_is_killed():
    _, actions = life.decide(life.Starting(0.0), life.Ticked(), life.START_LIMIT_S + 1, NONE)
    assert isinstance(actions[0], life.Kill)


def test_death_before_birth_is_a_failed_start():
    state, _ = life.decide(life.Starting(0.0), life.ChildExited(), 1.0, NONE)
    assert state == life.Gone(failed=True)


EVENTS = st.sampled_from(
    [
        life.ChildReady(),
        life.RunTaken(1),
        life.RunOver(1, clean=True, grown_bytes=0),
        life.RunOver(1, clean=False, grown_bytes=100 * MIB),
        life.Cleaned(whole=True),
        life.Cleaned(whole=False),
        life.RetireAsked("test"),
        life.Ticked(),
    ]
)


@settings(max_examples=300)
@given(st.lists(EVENTS, max_size=20), st.integers(1, 3))
def test_any_history_ends_and_never_holds_two_runs(events, max_jobs):
    limits = life.ChildLimits(max_jobs, 50 * MIB, 100.0)
    state, now_s, done = life.Starting(0.0), 0.0, 0
    for event in events:
        now_s += 1
        held = isinstance(state, life.Ready) and bool(state.runs)
        try:
            state, _ = life.decide(state, event, now_s, limits)
        except ProtocolError:
            continue
        assert not (held and isinstance(event, life.RunTaken))
        done += isinstance(event, life.RunOver)
        assert done <= max_jobs
    state, _ = life.decide(state, life.ChildExited(), now_s, limits)
    assert isinstance(state, life.Gone)
