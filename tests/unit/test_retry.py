"""core.retry: which transition follows a failure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heavyq.core.outcome import NEVER_RETRIED, REASONS
from heavyq.core.retry import DELAY_MAX_MS, After, Backoff, Final, Now, Verdict, decide_retry


def no_chance() -> float:
    raise AssertionError("no jitter, so nothing may be drawn")


def decide(
    made: int = 0,
    attempts: int = 3,
    backoff: Backoff | None = None,
    reason: str = "exception",
    draw: float | None = None,
) -> Verdict:
    rand = no_chance if draw is None else lambda: draw
    return decide_retry(made=made, attempts=attempts, backoff=backoff, reason=reason, rand=rand)


@pytest.mark.parametrize(("attempts", "runs"), [(-1, 1), (0, 1), (1, 1), (2, 2), (3, 3)])
def test_attempts_are_the_number_of_runs(attempts: int, runs: int) -> None:
    made = 0
    while decide(made=made, attempts=attempts) == Now():
        made += 1
    assert made + 1 == runs


def test_a_job_retried_by_hand_after_its_last_attempt_fails_for_good_again() -> None:
    assert decide(made=7, attempts=3) == Final()


@pytest.mark.parametrize("reason", sorted(NEVER_RETRIED))
def test_some_reasons_are_never_retried(reason: str) -> None:
    assert decide(reason=reason, backoff=Backoff("fixed", 10)) == Final()


@pytest.mark.parametrize("reason", sorted(set(REASONS) - NEVER_RETRIED))
def test_the_others_are(reason: str) -> None:
    assert decide(reason=reason) == Now()


def test_without_a_backoff_the_retry_is_at_once() -> None:
    assert decide(backoff=None) == Now()


@pytest.mark.parametrize("delay_ms", [0, -1, -5000])
def test_a_backoff_of_no_time_is_at_once(delay_ms: int) -> None:
    for kind in ("fixed", "exponential"):
        assert decide(backoff=Backoff(kind, delay_ms)) == Now()
        assert decide(backoff=Backoff(kind, delay_ms, 1.0), draw=0.5) == Now()


def test_fixed_waits_the_same_each_time() -> None:
    waits = [decide(made=made, attempts=9, backoff=Backoff("fixed", 500)) for made in range(4)]
    assert waits == [After(500)] * 4


def test_exponential_doubles() -> None:
    waits = [decide(made=made, attempts=9, backoff=Backoff("exponential", 1000)) for made in range(4)]
    assert waits == [After(1000), After(2000), After(4000), After(8000)]


@pytest.mark.parametrize(("draw", "delay_ms"), [(0.0, 500), (0.5, 750), (0.999999, 999)])
def test_jitter_draws_its_part_of_the_wait(draw: float, delay_ms: int) -> None:
    assert decide(backoff=Backoff("fixed", 1000, 0.5), draw=draw) == After(delay_ms)
    assert decide(made=1, backoff=Backoff("exponential", 500, 0.5), draw=draw) == After(delay_ms)


def test_full_jitter_may_come_to_no_wait_at_all() -> None:
    assert decide(backoff=Backoff("fixed", 1000, 1.0), draw=0.0) == Now()


def test_an_unknown_strategy_is_named_and_never_guessed() -> None:
    verdict = decide(backoff=Backoff("polite", 1000))
    assert isinstance(verdict, Final)
    assert verdict.why is not None
    assert '"polite"' in verdict.why


def test_an_unknown_strategy_on_the_last_attempt_is_no_news() -> None:
    assert decide(made=2, backoff=Backoff("polite", 1000)) == Final()


def test_a_wait_never_grows_beyond_what_the_queue_can_hold() -> None:
    for made in (60, 10**9):
        assert decide(made=made, attempts=2 * 10**9, backoff=Backoff("exponential", 1000)) == After(DELAY_MAX_MS)
    assert decide(backoff=Backoff("fixed", 10**30)) == After(DELAY_MAX_MS)


@given(
    made=st.integers(0, 10**6),
    attempts=st.integers(-(2**53), 2**53),
    kind=st.sampled_from(["fixed", "exponential", "", "x"]),
    delay_ms=st.integers(-(2**53), 2**53),
    jitter=st.floats(-2, 3),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_every_verdict_can_be_carried_out(
    made: int, attempts: int, kind: str, delay_ms: int, jitter: float, draw: float
) -> None:
    verdict = decide(made, attempts, Backoff(kind, delay_ms, jitter), draw=draw)
    if isinstance(verdict, After):
        assert 1 <= verdict.delay_ms <= DELAY_MAX_MS
    if made + 1 >= attempts:
        assert verdict == Final()


@given(jitter=st.floats(0.01, 1), draw=st.floats(0, 1, exclude_max=True), delay_ms=st.integers(100, 10**9))
def test_jitter_stays_within_its_part(jitter: float, draw: float, delay_ms: int) -> None:
    # conformance: C-071
    verdict = decide(backoff=Backoff("fixed", delay_ms, jitter), draw=draw)
    waited_ms = verdict.delay_ms if isinstance(verdict, After) else 0
    assert delay_ms * (1 - jitter) - 1 <= waited_ms <= delay_ms
