"""Which queue is leased from next, and which child serves it: a fold over the runs and the children. Pure.

A lease is taken only for a free seat. Decides turns, limits and children; performs nothing. Driven by the
worker's control whenever a seat, a queue or a child changes.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QueueView:
    """One queue as the fleet sees it.

    limit: how many of its jobs may be held here at once. held: runs and unanswered leases. may_have_work: a
    lease is worth asking for.
    """

    limit: int
    held: int
    may_have_work: bool


@dataclass(frozen=True, slots=True)
class ChildView:
    """One child as the fleet sees it.

    idle: a job may be sent to it. starting: not ready yet. leaving: its seat falls free soon. None: it is busy.
    """

    child: int
    kind: Hashable
    idle: bool = False
    starting: bool = False
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class UseChild:
    child: int


@dataclass(frozen=True, slots=True)
class RetireChild:
    """An idle child that does not fit has to go first."""

    child: int


@dataclass(frozen=True, slots=True)
class MakeChild:
    pass


@dataclass(frozen=True, slots=True)
class WaitForChild:
    """One is on its way, or a seat must fall free first."""


Placement = UseChild | RetireChild | MakeChild | WaitForChild


def free_seats(*, concurrency: int, runs: int, leases_asked: int, children_leaving: int) -> int:
    """Return how many leases may be asked for now.

    children_leaving: children without a run that are retiring or still cleaning up; they hold their seat.
    """
    return max(0, concurrency - runs - leases_asked - children_leaving)


def next_queue(queues: Sequence[QueueView], after: int) -> int | None:
    """Return the index of the queue whose turn it is, looking from the one behind `after`; None if none is due."""
    for step in range(1, len(queues) + 1):
        index = (after + step) % len(queues)
        queue = queues[index]
        if queue.may_have_work and queue.held < queue.limit:
            return index
    return None


def place(kind: Hashable, children: Sequence[ChildView], *, concurrency: int, waiting_ahead: int) -> Placement:
    """Return where a leased job of this kind goes.

    waiting_ahead: leased jobs of the same kind that already wait for a child which is starting.
    """
    fitting = [c for c in children if c.kind == kind]
    for child in fitting:
        if child.idle:
            return UseChild(child.child)
    if sum(c.starting for c in fitting) > waiting_ahead:
        return WaitForChild()
    if len(children) < concurrency:
        return MakeChild()
    if sum(c.leaving for c in children) > waiting_ahead:
        return WaitForChild()
    for child in children:
        if child.idle:
            return RetireChild(child.child)
    return WaitForChild()
