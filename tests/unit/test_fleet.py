"""`core.fleet`: turns, limits and children."""

from __future__ import annotations

from heavyq.core.fleet import (
    ChildView,
    MakeChild,
    QueueView,
    RetireChild,
    UseChild,
    WaitForChild,
    count_kinds,
    fits,
    next_queue,
    place,
    shares,
)


def queue(*, held=0, limit=2, work=True):
    return QueueView(limit, held, work)


def test_turns_rotate_over_the_queues_that_have_work():
    queues = [queue(), queue(work=False), queue()]
    turn, order = -1, []
    for _ in range(4):
        turn = next_queue(queues, turn)
        order.append(turn)
    assert order == [0, 2, 0, 2]


def test_queue_at_its_limit_is_passed_over():
    assert next_queue([queue(held=2), queue()], -1) == 1
    assert next_queue([queue(held=2)], -1) is None


def free(kind, children, claims=0, *, concurrency=2, seats=1, may_make=True):
    """Tell whether one job more of the kind would find a seat."""
    kinds = count_kinds(children, {"a": seats, "b": 1}, {kind: claims})
    leaving = sum(child.leaving for child in children)
    return fits(kind, kinds, concurrency=concurrency, leaving=leaving, may_make=may_make)


def test_child_that_is_leaving_holds_its_seat():
    busy, leaving = ChildView(1, "a", runs=1), ChildView(2, "a", leaving=True)
    assert not free("a", [busy, leaving])
    assert free("a", [busy])
    assert not free("a", [busy], claims=1)


def test_idle_child_of_another_kind_holds_no_seat():
    assert free("a", [ChildView(1, "b", free=1)], concurrency=1)


def test_shared_child_has_room_for_as_many_jobs_as_it_has_seats():
    child = ChildView(1, "a", seats=3, runs=1, free=2)
    assert free("a", [child], claims=1, concurrency=1, seats=3)
    assert not free("a", [child], claims=2, concurrency=1, seats=3)
    assert free("a", [child], claims=2, concurrency=2, seats=3)


def test_nothing_is_leased_for_a_child_that_cannot_be_made_now():
    assert not free("a", [], may_make=False)
    assert free("a", [ChildView(1, "a", free=1)], may_make=False)
    assert not free("a", [ChildView(1, "a", free=1)], claims=1, may_make=False)


def test_one_job_more_shares_a_child_only_while_a_seat_is_open_in_it():
    children = [ChildView(1, "a", seats=3, runs=1, free=2)]
    assert shares("a", count_kinds(children, {"a": 3}, {"a": 1}))
    assert not shares("a", count_kinds(children, {"a": 3}, {"a": 2}))


def test_one_shared_child_is_filled_before_another_is_begun():
    children = [ChildView(1, "a", seats=9, runs=1, free=8), ChildView(2, "a", seats=9, runs=5, free=4)]
    assert place("a", children, concurrency=2, waiting_ahead=0) == UseChild(2)


def test_job_that_is_to_run_alone_shares_no_child():
    children = [ChildView(1, "a", seats=9, runs=1, free=8)]
    assert place("a", children, concurrency=2, waiting_ahead=0, alone=True) == MakeChild()
    assert place("a", children, concurrency=1, waiting_ahead=0, alone=True) == WaitForChild()


def test_idle_child_of_the_kind_is_used_first():
    children = [ChildView(1, "b", free=1), ChildView(2, "a", free=1)]
    assert place("a", children, concurrency=2, waiting_ahead=0) == UseChild(2)


def test_child_is_made_only_when_none_is_on_its_way():
    starting = [ChildView(1, "a", starting=True)]
    assert place("a", starting, concurrency=2, waiting_ahead=0) == WaitForChild()
    assert place("a", starting, concurrency=2, waiting_ahead=1) == MakeChild()


def test_idle_child_that_does_not_fit_makes_room():
    children = [ChildView(1, "b", free=1)]
    assert place("a", children, concurrency=1, waiting_ahead=0) == RetireChild(1)


def test_busy_children_are_waited_for():
    children = [ChildView(1, "b", runs=1)]
    assert place("a", children, concurrency=1, waiting_ahead=0) == WaitForChild()


def test_one_child_is_retired_for_one_job():
    children = [ChildView(1, "b", leaving=True), ChildView(2, "b", free=1)]
    assert place("a", children, concurrency=2, waiting_ahead=0) == WaitForChild()
    assert place("a", children, concurrency=2, waiting_ahead=1) == RetireChild(2)
