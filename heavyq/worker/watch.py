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
from heavyq.core.outcome import Failure, container_full, over_its_limit
from heavyq.linux import procfs
from heavyq.linux.clock import monotonic_s
from heavyq.worker.meter import ChildMeter, RunMeter
from heavyq.worker.oom import OomRises
from heavyq.worker.part import Inbox, Part

_VICTIM_GAP_S = 1.0  # what was killed gives its memory back within this; else the next one goes
_COMPLAINT_GAP_S = 60.0
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
    """What control is told, on the control loop. crowded: the container is nearly full, and no job is to blame."""

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
        self._victim: tuple[float, ChildMeter] | None = None
        self._complained_s = self._read_exactly_s = -math.inf

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
            wait_s = self._look()
            if wait_s is not None:
                self._next_s = monotonic_s() + wait_s
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

    def _look(self) -> float | None:
        """Look at every job once; return when to look again, None if there is none."""
        now_s = monotonic_s()
        begun_s, self._soonest_s = self._soonest_s, math.inf
        meters = self._present()
        headroom: list[int] = []
        for meter in meters:
            run = meter.run
            if run is None or run.stopped:
                continue
            run.take(now_s, *meter.tree())
            if run.limit_bytes is not None:
                self._hold_to_limit(meter, run, run.limit_bytes, now_s)
                headroom.append(run.limit_bytes - run.charge_bytes)
        if not meters:
            return None
        self._rises.look(now_s)
        used = self._container.use_bytes()
        if used is not None:
            headroom.append(self._mark_bytes - used)
            if used >= self._mark_bytes:
                self._make_room(meters, used, now_s)
        if all(meter.run is None for meter in meters):
            return min(begun_s, _IDLE_LOOK_S)  # jobs too short to be seen must not wake us one by one
        return memory.next_look_s(headroom)

    def _hold_to_limit(self, meter: ChildMeter, run: RunMeter, limit: int, now_s: float) -> None:
        """Stop the run if it is over its limit for sure."""
        if not memory.seems_over(run.charge_bytes, limit, run.excuse, now_s):
            return
        meter.freeze()
        child, below = meter.held()
        if child is None:
            return
        sure = memory.confirmed_bytes(
            charge_bytes=run.charge_bytes,
            birth_bytes=meter.birth_bytes,
            child=child,
            below=below,
            zygote_lends_bytes=meter.zygote_lends_bytes(),
        )
        if sure < limit:
            run.excuse = memory.reprieve(charge_bytes=run.charge_bytes, confirmed=sure, now_s=now_s)
            meter.thaw()
            return
        run.take(now_s, sure, run.peak_rss_bytes)  # exact, and later than the sample: it may be more
        self._hand_over(meter, run, over_its_limit(run.seen(meter.processes()), limit))

    def _make_room(self, meters: list[ChildMeter], used: int, now_s: float) -> None:
        """The container is nearly full: stop the child whose loss is cheapest."""
        if self._victim is not None and not self._victim[1].gone and now_s - self._victim[0] < _VICTIM_GAP_S:
            return
        if any(
            procfs.is_dying(meter.pid) for meter in meters
        ):  # the kernel was quicker: its victim is still in the books
            return
        victim = memory.cheapest_loss([_holder(meter, now_s) for meter in meters])
        if victim is None and now_s - self._read_exactly_s >= _VICTIM_GAP_S:
            # Nobody has taken anything, as it seems: who has written over the zygote's pages is seen only exactly.
            self._read_exactly_s = now_s
            victim = memory.cheapest_loss([_exact_holder(meter, now_s) for meter in meters])
        if victim is None:
            if now_s - self._complained_s >= _COMPLAINT_GAP_S:
                self._complained_s = now_s
                self.inbox.post(self._events.crowded, used, self._container.limit_bytes)
            return
        meter = next(m for m in meters if m.number == victim)
        self._victim = (now_s, meter)
        run = meter.run or RunMeter(0, now_s, None, None)  # an idle child: nothing is lost with it
        if meter.run is not None:
            meter.freeze()
        else:
            run.charge_bytes = run.peak_bytes = meter.own_bytes()
        seen = replace(
            run.seen(meter.processes()), container_bytes=used, container_limit_bytes=self._container.limit_bytes
        )
        self._hand_over(meter, run, container_full(seen, run.limit_bytes))

    def _hand_over(self, meter: ChildMeter, run: RunMeter, failure: Failure) -> None:
        """Hand the child over to control, frozen."""
        run.stopped = True
        self.inbox.post(self._events.excess, Excess(meter.number, run.run or None, failure))


def _exact_holder(meter: ChildMeter, now_s: float) -> memory.Holder:
    child, below = meter.held()
    if child is None:
        return replace(_holder(meter, now_s), charge_bytes=0)
    divided = memory.divided_bytes(child, below, meter.zygote_lends_bytes())
    if meter.run is not None:
        meter.run.take(now_s, divided, meter.run.peak_rss_bytes)  # what it is stopped for
    return replace(_holder(meter, now_s), charge_bytes=divided)


def _holder(meter: ChildMeter, now_s: float) -> memory.Holder:
    run = meter.run
    if run is None:
        return memory.Holder(meter.number, meter.own_bytes(), None, None)
    return memory.Holder(meter.number, run.charge_bytes, now_s - run.began_s, run.request_bytes)
