"""`core.fleet`: turns, limits and children."""

from __future__ import annotations

from heavyq.core.fleet import (
    ChildView,
    MakeChild,
    QueueView,
    RetireChild,
    UseChild,
    WaitForChild,
    free_seats,
    next_queue,
    place,
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


def test_child_that_is_leaving_holds_its_seat():
    assert free_seats(concurrency=2, runs=1, leases_asked=0, children_leaving=1) == 0
    assert free_seats(concurrency=2, runs=1, leases_asked=0, children_leaving=0) == 1
    assert free_seats(concurrency=2, runs=1, leases_asked=1, children_leaving=0) == 0


def test_idle_child_of_the_kind_is_used_first():
    children = [ChildView(1, "b", idle=True), ChildView(2, "a", idle=True)]
    assert place("a", children, concurrency=2, waiting_ahead=0) == UseChild(2)


def test_child_is_made_only_when_none_is_on_its_way():
    starting = [ChildView(1, "a", starting=True)]
    assert place("a", starting, concurrency=2, waiting_ahead=0) == WaitForChild()
    assert place("a", starting, concurrency=2, waiting_ahead=1) == MakeChild()


def test_idle_child_that_does_not_fit_makes_room():
    children = [ChildView(1, "b", idle=True)]
    assert place("a", children, concurrency=1, waiting_ahead=0) == RetireChild(1)


def test_busy_children_are_waited_for():
    children = [ChildView(1, "b")]
    assert place("a", children, concurrency=1, waiting_ahead=0) == WaitForChild()


def test_one_child_is_retired_for_one_job():
    children = [ChildView(1, "b", leaving=True), ChildView(2, "b", idle=True)]
    assert place("a", children, concurrency=2, waiting_ahead=0) == WaitForChild()
    assert place("a", children, concurrency=2, waiting_ahead=1) == RetireChild(2)
