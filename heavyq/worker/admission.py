"""Whether a queue's next job has room: what its queue declares, against what runs and the worker's memory budget.

Owns how long a queue has been kept waiting for room. Leases nothing and measures nothing: control asks before it
leases, the watch has measured what runs. The rules are `core.memory`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from heavyq.core import memory
from heavyq.core import run as life
from heavyq.worker.runs import Run
from heavyq.worker.served import Served


class Admission:
    """The room for one worker's jobs. charge_of: what a run holds now, in bytes."""

    def __init__(self, budget_bytes: int, served: Sequence[Served], charge_of: Callable[[Run], int]) -> None:
        self._budget_bytes, self._served, self._charge_of = budget_bytes, served, charge_of
        self._asks = any(one.settings.memory_request for one in served)

    def look(self, runs: Iterable[Run], now_s: float) -> None:
        """Find out for every queue whether its next job would fit now. To be called before each lease."""
        if not self._asks:
            return
        held = self._held(runs)
        for one in self._served:
            request = one.settings.memory_request
            one.has_room = not request or memory.fits(request, self._budget_bytes, held)
            wants = one.worth_asking(now_s) and one.held < one.limit
            if one.has_room or not wants:
                one.blocked_since_s = None
            elif one.blocked_since_s is None:
                one.blocked_since_s = now_s
        first = memory.goes_first([one.blocked_since_s for one in self._served], now_s)
        if first is not None:
            for one in self._served:
                one.has_room &= not one.settings.memory_request

    def _held(self, runs: Iterable[Run]) -> list[memory.Reserved]:
        """Return what is reserved: by the runs that are in a child or wait for one, and by leases without an answer."""
        held = []
        unanswered = {id(one): one.held for one in self._served}
        by_key = {one.key: one for one in self._served}
        for run in runs:
            one = by_key[run.queue]
            unanswered[id(one)] -= 1
            if isinstance(run.state, life.Leased | life.Running | life.Stopping):
                held.append(memory.Reserved(one.settings.memory_request or 0, self._charge_of(run)))
        for one in self._served:
            held += [memory.Reserved(one.settings.memory_request or 0, 0)] * max(0, unanswered[id(one)])
        return held
