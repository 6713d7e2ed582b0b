"""Who sits where: what waits for a child, and whether one job more would find a seat.

Owns the waiting list, and the figures that `core.fleet` decides by. Leases nothing and knows no Redis: control asks
before each lease, and is told which child takes whom. Runs on the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, assert_never

from heavyq.bullmq.keys import QueueKey
from heavyq.core import child as life
from heavyq.core import fleet
from heavyq.worker.crew import Crew
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
        self.waiting: list[Guest] = []

    def drop(self, guest: Guest) -> None:
        """It needs no seat any more."""
        if guest in self.waiting:
            self.waiting.remove(guest)

    # ---- leases

    def look(self) -> Look:
        """Return what stands now, to ask several things of it."""
        views = self._views()
        claims: dict[object, int] = {}
        for one in self._served:
            claims[one.kind] = claims.get(one.kind, 0) + one.asked + one.settling
        for guest in self.waiting:
            kind = self._by_key[guest.queue].kind
            claims[kind] += kind.seats if guest.alone else 1
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
        ahead: list[Guest] = []
        for guest in tuple(self.waiting):
            child = self._place(guest, ahead)
            if child is None:
                ahead.append(guest)
            else:
                self.waiting.remove(guest)
                take(guest, child)

    def _place(self, guest: Guest, ahead: Iterable[Guest]) -> ChildProcess | None:
        kind = self._by_key[guest.queue].kind
        waiting_ahead = sum(self._by_key[other.queue].kind == kind for other in ahead)
        placement = fleet.place(
            kind, self._views(), concurrency=self._concurrency, waiting_ahead=waiting_ahead, alone=guest.alone
        )
        match placement:
            case fleet.UseChild(number):
                return self._crew.children[number]
            case fleet.MakeChild():
                if self._crew.may_make:
                    self._crew.make(kind)
            case fleet.RetireChild(number):
                self._crew.apply(self._crew.children[number], life.RetireAsked("another queue needs its seat"))
            case fleet.WaitForChild():
                pass
            case _:
                assert_never(placement)
        return None

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
