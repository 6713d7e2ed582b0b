"""The oracle for what an operator does: the same steps by BullMQ and by heavyq leave the same keyspace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from heavyq.errors import NoSuchJob, WrongState
from tests.interop.operators import Operator

if TYPE_CHECKING:
    from tests.interop.twins import Twins


@pytest.fixture
def operator(twins: Twins) -> Operator:
    return Operator(twins)


def test_a_delayed_job_is_promoted(twins: Twins, operator: Operator) -> None:
    # conformance: C-168
    plain, urgent = twins.add(delay=5000), twins.add(delay=4000, priority=3)
    last = twins.add(delay=6000)
    waiting = twins.add()
    twins.pop_markers()
    for job_id in (plain, urgent, last):
        operator.promote(job_id)
    twins.pop_markers()
    assert [twins.fetch().id for _ in range(4)] == [waiting, plain, last, urgent]
    for job_id, error in ((plain, WrongState), ("none", NoSuchJob)):
        with pytest.raises(error):
            operator.promote(job_id)


def test_promoting_at_the_concurrency_limit_or_while_paused(twins: Twins, operator: Operator) -> None:
    twins.meta(concurrency=1, version=f"bullmq:{twins.bull.node.version}")
    twins.add()
    twins.fetch()
    twins.pop_markers()
    operator.promote(twins.add(delay=5000))
    operator.pause()
    operator.promote(twins.add(delay=5000))
    operator.promote(twins.add(delay=5000, priority=1))
    twins.pop_markers()


def test_a_delayed_job_comes_due_at_another_moment(twins: Twins, operator: Operator) -> None:
    # conformance: C-168
    first, second = twins.add(delay=1000), twins.add(delay=2000)
    twins.pop_markers()
    twins.later(10)
    operator.change_delay(first, 3000)
    operator.change_delay(first, 3000)
    operator.change_delay(second, 2500)
    assert twins.pop_markers() == [(b"1", float(twins.ours.now + 2500))]
    operator.change_delay(first, 2500)
    operator.change_delay(second, 0)
    assert twins.fetch().id == second
    twins.later(2500)
    assert twins.fetch().id == first
    for job_id, error in ((first, WrongState), ("none", NoSuchJob)):
        with pytest.raises(error):
            operator.change_delay(job_id, 5)


def test_priorities_change_where_a_job_waits(twins: Twins, operator: Operator) -> None:
    # conformance: C-168
    ids = [twins.add() for _ in range(4)] + [twins.add(priority=5) for _ in range(3)]
    operator.change_priority(ids[1], 5)
    operator.change_priority(ids[4], 0)
    operator.change_priority(ids[5], 1)
    operator.change_priority(ids[2], 0)
    operator.change_priority(ids[3], 0, lifo=True)
    operator.change_priority(ids[0], 5, lifo=True, but="marker")
    order = []
    while held := twins.try_fetch():
        order.append(held.id)
    assert order == [ids[n] for n in (3, 4, 2, 5, 0, 6, 1)]


def test_priorities_of_jobs_that_do_not_wait_only_change_in_the_hash(twins: Twins, operator: Operator) -> None:
    twins.add()
    twins.complete(twins.fetch())
    twins.add(delay=500)
    active = twins.add()
    held = twins.fetch()
    assert held.id == active
    for job_id in ("1", "2", active):
        operator.change_priority(job_id, 7)
    twins.hand_back(held, but="marker")
    twins.later(500)
    assert twins.fetch().id == active
    assert twins.fetch().id == "2"
    with pytest.raises(NoSuchJob):
        operator.change_priority("none", 1)


def test_markers_of_changed_priorities(twins: Twins, operator: Operator) -> None:
    job_id = twins.add()
    for priority, lifo in ((3, False), (4, False), (0, False), (0, True), (2, False), (0, True)):
        twins.pop_markers()
        operator.change_priority(job_id, priority, lifo=lifo)
    twins.meta(concurrency=1)
    twins.add(lifo=True)
    twins.fetch()
    twins.pop_markers()
    operator.change_priority(job_id, 2)
    operator.change_priority(job_id, 0)


def test_payloads_change_in_every_state(twins: Twins, operator: Operator) -> None:
    # conformance: C-062
    twins.add(attempts=2)
    delayed = twins.add(delay=500)
    held = twins.fetch()
    operator.update_data(held.id, {"é": [1.5, None]})
    operator.update_data(delayed, "text")
    twins.fail(held)
    held = twins.fetch()
    operator.update_data(held.id, None)
    twins.complete(held)
    operator.update_data(held.id, 7)
    with pytest.raises(NoSuchJob):
        operator.update_data("none", 1)


def test_log_rows_are_added_and_cleared(twins: Twins, operator: Operator) -> None:
    # conformance: C-061
    job_id = twins.add()
    for number in range(4):
        operator.add_log(job_id, f"row {number} é")
    operator.add_log(job_id, "kept", keep=3)
    operator.add_log(job_id, "", keep=9)
    operator.clear_logs(job_id, keep=2)
    operator.clear_logs(job_id, keep=5)
    operator.clear_logs(job_id)
    with pytest.raises(NoSuchJob):
        operator.add_log("none", "row")


@pytest.mark.parametrize("reset", [False, True])
def test_a_failed_job_runs_again(twins: Twins, operator: Operator, reset: bool) -> None:
    # conformance: C-078 C-080
    first = twins.add(attempts=2, stackTraceLimit=5)
    for _ in range(2):
        twins.fail(twins.fetch())
        twins.later(3)
    waiting = twins.add()
    operator.reprocess(first, "failed", reset=reset)
    twins.complete(twins.fetch())
    held = twins.fetch()
    assert held.id == first
    twins.fail(held, "again")
    twins.later(3)
    if reset:
        held = twins.fetch()
        twins.complete(held)
        operator.reprocess(first, "completed", reset=True)
    for job_id, error in ((waiting, WrongState), ("none", NoSuchJob)):
        with pytest.raises(error):
            operator.reprocess(job_id, "failed")


def test_a_completed_job_runs_again_before_all_others_with_lifo(twins: Twins, operator: Operator) -> None:
    lifo = twins.add(lifo=True, removeOnFail=True)
    twins.complete(twins.fetch(), [1])
    twins.add()
    operator.reprocess(lifo, "completed")
    held = twins.fetch()
    assert held.id == lifo
    twins.fail(held)


def test_priority_counts_when_a_job_runs_again(twins: Twins, operator: Operator) -> None:
    # conformance: C-079
    if twins.bull.node.generation == "5":
        pytest.skip("BullMQ 5 forgets the priority of a job that runs again")
    first = twins.add(priority=3)
    twins.fail(twins.fetch())
    lifo = twins.add(priority=3, lifo=True)
    twins.fail(twins.fetch())
    twins.add(priority=3)
    twins.pop_markers()
    operator.reprocess(first, "failed")
    operator.reprocess(lifo, "failed")
    twins.pop_markers()


def test_a_job_runs_again_in_a_paused_or_full_queue(twins: Twins, operator: Operator) -> None:
    # conformance: C-103
    for _ in range(3):
        twins.add()
        twins.fail(twins.fetch())
    twins.meta(version=f"bullmq:{twins.bull.node.version}", concurrency=1)
    twins.add()
    twins.fetch()
    twins.pop_markers()
    operator.reprocess("1", "failed")
    operator.pause()
    operator.reprocess("2", "failed")
    twins.pop_markers()
    operator.resume()
    operator.reprocess("3", "failed")


@pytest.mark.parametrize("state", ["failed", "completed"])
def test_many_jobs_run_again_those_that_were_over_first_before_others(
    twins: Twins, operator: Operator, state: str
) -> None:
    # conformance: C-166
    for _ in range(7):
        twins.add()
        held = twins.fetch()
        twins.fail(held) if state == "failed" else twins.complete(held)
        twins.later(10)
    twins.pop_markers()
    operator.retry_jobs(state, until_ms=twins.ours.now - 31)
    operator.retry_jobs(state, count=2)
    operator.retry_jobs(state)
    twins.pop_markers()
    assert [twins.fetch().id for _ in range(7)] == [str(n) for n in range(1, 8)]


def test_all_delayed_jobs_are_promoted(twins: Twins, operator: Operator) -> None:
    # conformance: C-167
    operator.promote_jobs()
    for n in range(5):
        twins.add(delay=1000 - n)
    twins.pop_markers()
    # BullMQ leaves `delay` in the hash; that it is of no account is seen by taking it out there too.
    twins.bull("promoteJobs", opts={"count": 2})
    for n in range(1, 6):
        twins.theirs.raw.hset(twins.theirs.key(str(n)), "delay", "0")
    operator.promote_jobs(count=2)
    twins.pop_markers()
    assert [twins.fetch().id for _ in range(5)] == ["5", "4", "3", "2", "1"]


def test_settings_of_the_queue(twins: Twins, operator: Operator) -> None:
    # conformance: C-106
    operator.set_concurrency(3)
    operator.set_rate_limit(5, 1000)
    operator.set_concurrency(2)
    operator.set_rate_limit(7, 60_000)
    operator.rate_limit(5000)
    operator.end_rate_limit()
    operator.rate_limit(9000)
    twins.add()
    assert twins.try_fetch() is None
    operator.end_rate_limit()
    assert twins.fetch().id == "1"
    operator.set_concurrency(None)
    operator.set_rate_limit(None)
