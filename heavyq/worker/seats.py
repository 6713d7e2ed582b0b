"""Who sits where: what waits for a child, and whether one job more would find a seat.

Owns the waiting list, and the figures that `core.fleet` decides by. Leases nothing and knows no Redis: control asks
before each lease, and is told which child takes whom. Runs on the loop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol, assert_never

from heavyq.bullmq.keys import QueueKey
from heavyq.core import child as life
from heavyq.core import fleet
from heavyq.worker.crew import ChildKind, Crew
from heavyq.worker.process import ChildProcess
from heavyq.worker.served import Served


class Guest(Protocol):
    """What needs a seat: a run, or an errand. child: the one that has it. alone: it shares a child with no other."""

    number: int
    child: int | None

    @property
    def queue(self) -> QueueKey: ...

    @property
    def alone(self) -> bool: ...


class Seats:
    """The seats of one worker's children."""

    def __init__(self, served: Sequence[Served], crew: Crew, concurrency: int) -> None:
        self._served, self._crew, self._concurrency = served, crew, concurrency
        self._by_key = {one.key: one for one in served}
        self._of_one = {one.kind: one.kind.seats for one in served}
        self._mixed = len(self._of_one) > 1 and max(self._of_one.values()) > 1
        self._waiting: dict[int, Guest] = {}
        self._claimed: Counter[ChildKind] = Counter()  # seats that the waiting ones claim

    @property
    def waiting(self) -> tuple[Guest, ...]:
        """What waits for a child, in order."""
        return tuple(self._waiting.values())

    def add(self, guest: Guest) -> None:
        """It waits for a child."""
        self._waiting[guest.number] = guest
        self._claimed[self._kind(guest)] += self._claim(guest)

    def drop(self, guest: Guest) -> None:
        """It needs no seat any more, or has one."""
        if self._waiting.pop(guest.number, None) is not None:
            self._claimed[self._kind(guest)] -= self._claim(guest)

    # ---- leases

    def look(self) -> Look:
        """Return what stands now, to ask several things of it."""
        views = self._views()
        claims = self._claimed.copy()
        for one in self._served:
            claims[one.kind] += one.asked + one.settling
        return Look(
            fleet.count_kinds(views, self._of_one, claims),
            concurrency=self._concurrency,
            leaving=sum(view.leaving for view in views),
            may_make=self._crew.may_make,
            mixed=self._mixed,
        )

    # ---- children

    def place_all(self, take: Callable[[Guest, ChildProcess], None]) -> None:
        """Give what waits to children; ask for children where there is none yet."""
        if not self._waiting:
            return
        views: list[fleet.ChildView] = []  # as long as nothing was done to the children
        ahead, full = Counter[ChildKind](), set[ChildKind]()
        for guest in self.waiting:
            kind = self._kind(guest)
            if kind in full:
                continue
            views = views or self._views()
            placement = self._place(guest, views, ahead[kind])
            match placement:
                case fleet.UseChild(number):
                    self.drop(guest)
                    take(guest, self._crew.children[number])
                    views = []
                    continue
                case fleet.MakeChild():
                    if self._crew.may_make:
                        self._crew.make(kind)
                        views = []
                case fleet.RetireChild(number):
                    self._crew.apply(self._crew.children[number], life.RetireAsked("another queue needs its seat"))
                    views = []
                case fleet.WaitForChild() if ahead[kind] >= fleet.coming(kind, views):
                    full.add(kind)  # who comes after it gets the same answer
                case fleet.WaitForChild():
                    pass
                case _:
                    assert_never(placement)
            ahead[kind] += 1

    def _place(self, guest: Guest, views: Sequence[fleet.ChildView], ahead: int) -> fleet.Placement:
        kind = self._kind(guest)
        return fleet.place(kind, views, concurrency=self._concurrency, waiting_ahead=ahead, alone=guest.alone)

    def _kind(self, guest: Guest) -> ChildKind:
        return self._by_key[guest.queue].kind

    def _claim(self, guest: Guest) -> int:
        return self._kind(guest).seats if guest.alone else 1

    def _views(self) -> list[fleet.ChildView]:
        return [_view(child) for child in self._crew.children.values()]


class Look:
    """The seats as they stood at one moment."""

    def __init__(self, kinds: fleet.Kinds, *, concurrency: int, leaving: int, may_make: bool, mixed: bool) -> None:
        self._kinds, self._concurrency, self._leaving = kinds, concurrency, leaving
        self._may_make, self._mixed = may_make, mixed

    def fits(self, served: Served) -> bool:
        """Tell whether one job more of the queue would find a seat."""
        return fleet.fits(
            served.kind, self._kinds, concurrency=self._concurrency, leaving=self._leaving, may_make=self._may_make
        )

    def waits(self, served: Served) -> bool:
        """Tell whether the queue has no child at all, and can have none: children that are shared must fall free."""
        if not self._mixed:
            return False
        here = self._kinds[served.kind]
        return not here.busy and not here.claims and not self.fits(served)

    def shares(self, served: Served) -> bool:
        """Tell whether one job more of the queue would go to a child that has others."""
        return fleet.shares(served.kind, self._kinds)


def _view(child: ChildProcess) -> fleet.ChildView:
    state, usable = child.state, child.killed_by_us is None and not child.dead
    if isinstance(state, life.Ready):
        free = state.free if usable else 0
        leaving = not state.runs and not free
        return fleet.ChildView(child.number, child.kind, state.seats, len(state.runs), free, leaving=leaving)
    return fleet.ChildView(
        child.number,
        child.kind,
        child.seats,
        starting=isinstance(state, life.Starting),
        leaving=isinstance(state, life.Retiring),
    )
