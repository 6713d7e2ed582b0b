"""The kernel's own kills for want of memory, as far as a counter tells of them.

Owns the counter's last value and the rises that no death has been credited with. Reads one small file; both the
control loop and the watch thread may ask. Never guesses: without a rise there is no such kill.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Protocol

from heavyq.core.outcome import OomKill

_CREDIT_S = 2.0  # a child's death follows its kill by milliseconds; the loop may be late
_CROSSING_S = 0.25  # a look at a child and the kernel's kill of it may cross
_KEPT = 64


class Counter(Protocol):
    """A counter of kills. read() gives None when it cannot be read now."""

    @property
    def name(self) -> str: ...

    def read(self) -> int | None: ...


class OomRises:
    """The rises of one counter. Each is credited to one death at most."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._last = counter.read()
        self._rises: deque[tuple[float, OomKill]] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()

    def look(self, now_s: float) -> None:
        """Note what has risen since the last look."""
        with self._lock:
            now = self._counter.read()
            if now is None:
                return
            if self._last is not None:
                for count in range(max(self._last, now - _KEPT), now):
                    self._rises.append((now_s, OomKill(self._counter.name, count, count + 1)))
            self._last = now

    def any_fresh(self, now_s: float) -> bool:
        """Tell whether a death may be credited with a rise now."""
        self.look(now_s)
        with self._lock:
            return any(now_s - at_s <= _CREDIT_S for at_s, _ in self._rises)

    def take(self, now_s: float, alive_s: float) -> OomKill | None:
        """Credit a death with the oldest fresh rise; None if there is none.

        alive_s: when the dead was last seen alive. A rise from well before that was the kill of another.
        """
        with self._lock:
            for rise in self._rises:
                if now_s - rise[0] <= _CREDIT_S and rise[0] >= alive_s - _CROSSING_S:
                    self._rises.remove(rise)
                    return rise[1]
        return None

    def since(self, then_s: float, now_s: float) -> OomKill | None:
        """Return the last rise since a moment that no death was credited with, and leave it."""
        self.look(now_s)
        with self._lock:
            found = [kill for at_s, kill in self._rises if at_s >= then_s]
        return found[-1] if found else None
