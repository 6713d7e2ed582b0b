"""The watch thread: looks at the memory of the jobs and of the container, and says who must stop.

Owns when the next look is and what is asked of a child that seems over its limit: it is frozen, read exactly, and let
go if the quick meter was wrong. Kills nothing and ends no run: control does, told by one call. What is decided is
`core.memory`'s. Looks once a second while no child has a job, and not at all while there is no child.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from heavyq.core import memory
from heavyq.core.outcome import Failure, MemorySeen, container_full, over_its_limit
from heavyq.linux import procfs
from heavyq.linux.clock import monotonic_s
from heavyq.worker.meter import ChildMeter, RunMeter
from heavyq.worker.oom import OomRises
from heavyq.worker.part import Inbox, Part

_VICTIM_GAP_S = 1.0  # what was killed gives its memory back within this; else the next one goes
_COMPLAINT_GAP_S = 60.0
_DYING_MAX_S = 2.0  # so long room is expected of who is dying
_REST_FACTOR = 3
_IDLE_LOOK_S = 1.0  # a thread that a job left behind may take memory in an idle child


class Container(Protocol):
    """What the worker runs in: its limit, and what it holds without page cache (None: cannot be read now)."""

    @property
    def limit_bytes(self) -> int: ...

    def use_bytes(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Excess:
    """A child that is to be stopped. It stands still until control kills it or lets it go.

    run: the run that held too much; None: an idle child that the container has no room for.
    """

    child: int
    run: int | None
    failure: Failure


@dataclass(frozen=True, slots=True)
class WatchEvents:
    """What control is told, on the control loop.

    excess: a child is to be stopped. crowded: the container is nearly full, and no job is to blame.
    """

    excess: Callable[[Excess], None]
    crowded: Callable[[int, int], None]


class Watch(Part):
    """The thread."""

    def __init__(
        self,
        container: Container,
        rises: OomRises,
        events: WatchEvents,
        inbox: Inbox,
        died: Callable[[Part, BaseException], None],
    ) -> None:
        super().__init__("watch", inbox, died)
        self._container, self._rises, self._events = container, rises, events
        self._mark_bytes = memory.mark_bytes(container.limit_bytes)
        self._lock = threading.Lock()
        self._meters: list[ChildMeter] = []
        self._wake = threading.Event()
        self._next_s = math.inf  # when the next look is; inf: a look is going on, or nobody has a job
        self._soonest_s = math.inf  # what the runs that have begun since the last look asked for
        self.full = False  # the container's use is at its mark: no time to begin a job
        self._victim: ChildMeter | None = None
        self._victim_s, self._dying_since_s = -math.inf, math.inf
        self._complained_s = self._not_before_s = -math.inf

    # ---- called by control

    def add(self, meter: ChildMeter) -> None:
        """Measure this child from now on."""
        with self._lock:
            self._meters.append(meter)

    def drop(self, meter: ChildMeter) -> None:
        """The child is gone: the watch closes what it has open for it."""
        meter.run = None
        meter.gone = True
        self._wake.set()

    def begin(self, meter: ChildMeter, run: RunMeter) -> None:
        """A run begins in this child."""
        meter.run = run
        wait_s = memory.next_look_s([run.limit_bytes] if run.limit_bytes is not None else [])
        self._soonest_s = min(self._soonest_s, wait_s)
        if monotonic_s() + wait_s < self._next_s:
            self._wake.set()

    def stop(self) -> None:
        super().stop()
        self._wake.set()

    # ---- the thread

    def work(self) -> None:
        while not self.stopping.is_set():
            self._next_s = math.inf  # a run that begins now wakes us: we may have passed its child already
            self._wake.clear()
            began_s = monotonic_s()
            wait_s = self._look(began_s)
            if wait_s is not None:
                ended_s = monotonic_s()
                wait_s = max(wait_s, (ended_s - began_s) * _REST_FACTOR)  # a thousand processes take long to look at
                self._next_s = ended_s + wait_s
            self._wake.wait(wait_s)

    def _present(self) -> list[ChildMeter]:
        """Return the children that live, and close what is open for the others."""
        with self._lock:
            gone = [meter for meter in self._meters if meter.gone]
            self._meters = [meter for meter in self._meters if not meter.gone]
            present = list(self._meters)
        for meter in gone:
            meter.close()
        return present

    def _look(self, now_s: float) -> float | None:
        """Look at every job once; return when to look again, None if there is none."""
        begun_s, self._soonest_s = self._soonest_s, math.inf
        meters = self._present()
        headroom: list[int] = []
        for meter in meters:
            run = meter.run
            if run is None or meter.frozen_s is not None:
                continue
            run.take(now_s, *meter.tree())
            if run.limit_bytes is not None:
                headroom.append(self._hold_to_limit(meter, run, run.limit_bytes, now_s))
        if not meters and not self.full:
            return None
        self._rises.look(now_s)
        used = self._container.use_bytes()
        self.full = used is not None and used >= self._mark_bytes
        if used is not None:
            headroom.append(self._mark_bytes - used)
            if not self.full:
                self._dying_since_s = math.inf
            else:
                self._make_room([meter for meter in meters if meter.frozen_s is None], used, now_s)
        if all(meter.run is None for meter in meters):
            return min(begun_s, _IDLE_LOOK_S)  # jobs too short to be seen must not wake us one by one
        return memory.next_look_s(headroom)

    # ---- the job's limit

    def _hold_to_limit(self, meter: ChildMeter, run: RunMeter, limit: int, now_s: float) -> int:
        """Stop the run if it is over its limit for sure; return how far it is from it."""
        run.excuse = memory.still_excused(run.excuse, run.charge_bytes, now_s)
        headroom = memory.headroom_bytes(run.charge_bytes, limit, run.excuse)
        if headroom > 0:
            return headroom
        frozen_s = monotonic_s()
        meter.freeze()
        try:
            sure = _read_exactly(meter, run)
            if sure < limit:
                took_s = monotonic_s() - frozen_s
                run.excuse = memory.reprieve(
                    charge_bytes=run.charge_bytes, confirmed=sure, now_s=monotonic_s(), took_s=took_s
                )
                meter.thaw()
                return limit - sure
            run.take(now_s, sure, run.peak_rss_bytes)  # exact, and later than the sample: it may be more
            failure = over_its_limit(run.seen(meter.processes()), limit)
        except BaseException:
            meter.thaw()  # nobody else would
            raise
        self.inbox.post(self._events.excess, Excess(meter.number, run.run, failure))
        return 0

    # ---- the container

    def _make_room(self, meters: list[ChildMeter], used: int, now_s: float) -> None:
        """The container is nearly full: stop the child whose loss is cheapest. meters: of those that run."""
        if self._victim is not None and not self._victim.gone and now_s - self._victim_s < _VICTIM_GAP_S:
            return
        if self._somebody_dies(meters, now_s):
            return
        holders, exact = {m.number: _holder(m, now_s) for m in meters}, set()
        while (victim := memory.cheapest_loss(list(holders.values()))) is not None and victim not in exact:
            exact.add(victim)  # the quick meter asks only; it counts forks many times
            holders[victim] = _confirmed_holder(next(m for m in meters if m.number == victim), holders[victim])
        if victim is None and now_s >= self._not_before_s:
            # Nobody has taken anything, as it seems: who has written over the zygote's pages is seen only exactly.
            victim = memory.cheapest_loss([_exact_holder(meter, now_s) for meter in meters])
            ended_s = monotonic_s()
            self._not_before_s = ended_s + max(_VICTIM_GAP_S, (ended_s - now_s) * memory.REST_FACTOR)
        if victim is None:
            if now_s - self._complained_s >= _COMPLAINT_GAP_S:
                self._complained_s = now_s
                self.inbox.post(self._events.crowded, used, self._container.limit_bytes)
            return
        self._victim_s, self._victim = now_s, next(m for m in meters if m.number == victim)
        self._stop_for_room(self._victim, used)

    def _somebody_dies(self, meters: list[ChildMeter], now_s: float) -> bool:
        """Tell whether memory is being given back just now: the kernel, or somebody else, was quicker."""
        if not any(procfs.is_dying(meter.pid) for meter in meters):
            self._dying_since_s = math.inf
            return False
        self._dying_since_s = min(self._dying_since_s, now_s)
        return now_s - self._dying_since_s < _DYING_MAX_S

    def _stop_for_room(self, meter: ChildMeter, used: int) -> None:
        run = meter.run
        meter.freeze()
        try:
            own = meter.own_bytes()
            seen = run.seen(meter.processes()) if run else MemorySeen(own, own)
            full = replace(seen, container_bytes=used, container_limit_bytes=self._container.limit_bytes)
            failure = container_full(full, run.limit_bytes if run else None)
        except BaseException:
            meter.thaw()
            raise
        self.inbox.post(self._events.excess, Excess(meter.number, run.run if run else None, failure))


def _read_exactly(meter: ChildMeter, run: RunMeter) -> int:
    """Return what the job holds for sure; 0 for one that is gone, or cannot be read now."""
    child, below = meter.held()
    if child is None:
        return 0
    return memory.confirmed_bytes(
        charge_bytes=run.charge_bytes,
        birth_bytes=meter.birth_bytes,
        child=child,
        below=below,
        lent_bytes=meter.lent_bytes(),
        born_bytes=meter.born_bytes,
    )


def _confirmed_holder(meter: ChildMeter, quick: memory.Holder) -> memory.Holder:
    run = meter.run
    if run is None:
        return quick
    run.charge_bytes = run.peak_bytes = min(quick.charge_bytes, _read_exactly(meter, run))
    return replace(quick, charge_bytes=run.charge_bytes)


def _exact_holder(meter: ChildMeter, now_s: float) -> memory.Holder:
    holder, run = _holder(meter, now_s), meter.run
    child, below = meter.held()
    if child is None:
        return replace(holder, charge_bytes=0)
    own = child.anon_bytes - child.lazy_free_bytes - meter.birth_bytes
    divided = memory.divided_bytes(
        child, below, own_bytes=own, lent_bytes=meter.lent_bytes(), born_bytes=meter.born_bytes
    )
    if run is not None:
        run.charge_bytes = max(run.charge_bytes, divided)  # what it may be stopped for
    return replace(holder, charge_bytes=divided)


def _holder(meter: ChildMeter, now_s: float) -> memory.Holder:
    run = meter.run
    if run is None:
        return memory.Holder(meter.number, meter.idle_bytes(), None, None)
    return memory.Holder(meter.number, run.charge_bytes, now_s - run.began_s, run.request_bytes)
