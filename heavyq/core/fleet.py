"""Which queue is leased from next, and which child serves it: a fold over the runs and the children. Pure.

A lease is taken only for a free seat. Decides turns, limits and children; performs nothing. Driven by the
worker's control whenever a seat, a queue or a child changes.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class QueueView(NamedTuple):
    """One queue as the fleet sees it.

    limit: how many of its jobs may be held here at once. held: runs and unanswered leases. may_have_work: a
    lease is worth asking for.
    """

    limit: int
    held: int
    may_have_work: bool


class ChildView(NamedTuple):
    """One child as the fleet sees it.

    seats: how many jobs it can have at once. runs: how many it has. free: how many may be sent to it now. starting: not
    ready yet. leaving: it has no job and can take none; its place falls free soon.
    """

    child: int
    kind: Hashable
    seats: int = 1
    runs: int = 0
    free: int = 0
    starting: bool = False
    leaving: bool = False

    @property
    def idle(self) -> bool:
        """True when it has no job and may be sent one."""
        return self.free > 0 and not self.runs


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


class KindView(NamedTuple):
    """The children of one kind, together.

    seats: of one child. busy: children that have a job. open: free seats in them. idle: children, born or on their way,
    that have none. claims: seats that are spoken for: jobs without a child, leases and settlements without an answer.
    """

    seats: int
    busy: int = 0
    open: int = 0
    idle: int = 0
    claims: int = 0

    def children_for(self, claims: int) -> int:
        """Return how many children without a job the claims need, beside the seats that are open."""
        return -(-max(0, claims - self.open) // self.seats)


def count_kinds(children: Sequence[ChildView], seats: Mapping[Any, int], claims: Mapping[Any, int]) -> Kinds:
    """Return what stands of each kind. seats: of one child, for every kind. claims: see KindView."""
    stands = {kind: [0, 0, 0] for kind in seats}  # busy, open, idle
    for child in children:
        here = stands.get(child.kind)
        if here is None:
            continue
        if child.runs:
            here[0] += 1
            here[1] += child.free
        elif child.free or child.starting:
            here[2] += 1
    return {
        kind: KindView(seats[kind], busy, open_seats, idle, claims.get(kind, 0))
        for kind, (busy, open_seats, idle) in stands.items()
    }


Kinds = Mapping[Hashable, KindView]


def fits(kind: Hashable, kinds: Kinds, *, concurrency: int, leaving: int, may_make: bool) -> bool:
    """Tell whether one job more of this kind would find a seat.

    concurrency: how many children there may be. leaving: those without a job that cannot take one either. may_make:
    further children can be made now.
    """
    places = leaving
    for name, view in kinds.items():
        places += view.busy + view.children_for(view.claims + (name == kind))
    if places > concurrency:
        return False
    here = kinds[kind]
    return may_make or here.children_for(here.claims + 1) <= here.idle


def shares(kind: Hashable, kinds: Kinds) -> bool:
    """Tell whether one job more of this kind would go to a child that has others.

    While another queue waits for a child at all, it may not: such a child would never fall free.
    """
    here = kinds[kind]
    return here.claims < here.open


def next_queue(queues: Sequence[QueueView], after: int) -> int | None:
    """Return the index of the queue whose turn it is, looking from the one behind `after`; None if none is due."""
    for step in range(1, len(queues) + 1):
        index = (after + step) % len(queues)
        queue = queues[index]
        if queue.may_have_work and queue.held < queue.limit:
            return index
    return None


def place(
    kind: Hashable, children: Sequence[ChildView], *, concurrency: int, waiting_ahead: int, alone: bool = False
) -> Placement:
    """Return where a leased job of this kind goes: one shared child is filled before another is begun.

    waiting_ahead: leased jobs of the same kind that already wait for a child which is starting. alone: the job may
    share with no other.
    """
    fitting = [c for c in children if c.kind == kind]
    takers = [c for c in fitting if c.idle or (c.free and not alone)]
    if takers:
        return UseChild(max(takers, key=lambda c: c.runs).child)
    if sum(c.seats for c in fitting if c.starting) > waiting_ahead:
        return WaitForChild()
    if len(children) < concurrency:
        return MakeChild()
    if sum(c.seats for c in children if c.leaving) > waiting_ahead:
        return WaitForChild()
    for child in children:
        if child.idle:
            return RetireChild(child.child)
    return WaitForChild()


def coming(kind: Hashable, children: Sequence[ChildView]) -> int:
    """Return how many seats are on their way: in children of the kind that start, and in those that leave."""
    return sum(c.seats for c in children if (c.starting and c.kind == kind) or c.leaving)
