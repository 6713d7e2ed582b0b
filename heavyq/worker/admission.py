"""Whether a queue's next job has room: what it needs, against what runs and the worker's memory budget.

Owns how long a queue has been kept waiting for room, and what is learnt when the container was full. Leases nothing and
measures nothing: control asks before it leases, the watch has measured what runs. The rules are `core.memory`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from heavyq.core import memory
from heavyq.core import run as life
from heavyq.worker.runs import Run
from heavyq.worker.served import Served


@dataclass(frozen=True, slots=True)
class Room:
    """What is known of the memory here.

    budget_bytes: for all jobs. charge_of: what a run holds now. born_bytes: what children hold without a job. full: the
    container's use is at its mark.
    """

    budget_bytes: int
    charge_of: Callable[[Run], int]
    born_bytes: Callable[[], int]
    full: Callable[[], bool]


class Admission:
    """The room for one worker's jobs."""

    def __init__(self, served: Sequence[Served], room: Room) -> None:
        self._served, self._room = served, room

    def look(self, runs: Iterable[Run], now_s: float) -> Served | None:
        """Find out for every queue whether its next job would fit now. To be called before each lease.

        Return a queue that would go first, as it has had no room for long, if only it is known that a job waits in it.
        """
        full = self._room.full()
        if full or not any(one.request_bytes for one in self._served):
            for one in self._served:
                one.has_room, one.blocked_since_s = not full, None
            asks = (s for s in self._served if full and s.may_have_work and now_s - s.seen_work_s >= memory.PATIENCE_S)
            return next(asks, None)  # a burst must learn that nothing waits
        held = self._held(runs)
        reserved = [one for _, one in held]
        budget = self._room.budget_bytes - self._room.born_bytes()
        for one in self._served:  # one job can always run: what children hold without a job must not keep all out
            one.has_room = not held or not one.request_bytes or memory.fits(one.request_bytes, budget, reserved)
            self._note_blocked(one, now_s)
        return self._let_go_first(held, budget, now_s)

    @property
    def wants_room(self) -> bool:
        """True while a queue that may have work has no room for it, and children without a job hold some."""
        blocked = any(one.blocked_since_s is not None and one.may_have_work for one in self._served)
        return blocked and self._room.born_bytes() > 0

    def learn(self, served: Served, peak_bytes: int, *, full: bool) -> None:
        """Take to heart what a job held: full: it died as the container was full; else it went well."""
        if full or served.need_bytes:
            served.need_bytes = memory.learnt_need_bytes(
                served.need_bytes, peak_bytes, self._room.budget_bytes - self._room.born_bytes(), full=full
            )

    @staticmethod
    def _note_blocked(one: Served, now_s: float) -> None:
        if one.has_room or not one.worth_asking(now_s) or one.held >= one.limit:
            one.blocked_since_s = None
        elif one.blocked_since_s is None:
            one.blocked_since_s = now_s

    def _let_go_first(self, held: list[tuple[Served, memory.Reserved]], budget: int, now_s: float) -> Served | None:
        """Leave no room to others while a queue has waited for its own too long."""
        index = memory.goes_first([one.blocked_since_s for one in self._served], now_s)
        if index is None:
            return None
        first = self._served[index]
        beyond = [reserved for one, reserved in held if not one.request_bytes]
        if not memory.fits(first.request_bytes, budget, beyond):
            # What stands in its way are jobs that ask for nothing: holding back others is no help; nor must a fear, or
            # this queue's long wait, keep it or the next one out for ever.
            first.need_bytes, first.blocked_since_s = first.need_bytes // 2, now_s
            return None
        assert first.blocked_since_s is not None
        if first.seen_work_s < max(first.blocked_since_s, now_s - memory.PATIENCE_S):
            return first
        for one in self._served:
            one.has_room &= not one.request_bytes
        return None

    def _held(self, runs: Iterable[Run]) -> list[tuple[Served, memory.Reserved]]:
        """Return what is reserved: by the runs that are in a child or wait for one, and by leases without an answer."""
        by_key = {one.key: one for one in self._served}
        held = [
            (one, memory.Reserved(one.request_bytes, self._room.charge_of(run)))
            for run in runs
            if isinstance(run.state, life.Leased | life.Running | life.Stopping)
            for one in (by_key[run.queue],)
        ]
        return held + [(one, memory.Reserved(one.request_bytes, 0)) for one in self._served for _ in range(one.asked)]
