"""The succession of zygotes, and the requests for children that they have not answered.

Owns which zygote is asked, what becomes of the requests of one that died, and when a new one is started. A request is
answered once, or its child is given up; two children never read one socket. Knows nothing of jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from heavyq.core.child import Starting
from heavyq.linux.clock import monotonic_s
from heavyq.linux.process import kill_pid
from heavyq.worker.loop import Loop
from heavyq.worker.process import ChildProcess
from heavyq.worker.zygote import Zygote, ZygoteEvents

_ANSWER_LIMIT_S = 30.0  # a fork takes milliseconds; a zygote that has imported and does not answer hangs


@dataclass(frozen=True, slots=True)
class NurseryEvents:
    """What the crew is told.

    failed: a zygote could not be started, or ended; with the seconds that it had lived. given_up: nobody will fork
    this child any more. renewed: a child that was not answered needs a new channel before it is asked for again;
    False if it could not be had, and the child is given up.
    """

    failed: Callable[[str, float], None]
    given_up: Callable[[ChildProcess], None]
    renewed: Callable[[ChildProcess], bool]


class Nursery:
    """Asks for children. One zygote is asked at a time; those that died are heard until nobody can answer for them."""

    def __init__(
        self,
        loop: Loop,
        config: Mapping[str, Any],
        zygote_events: ZygoteEvents,
        events: NurseryEvents,
        *,
        threads: int,
        options_of: Callable[[ChildProcess], Mapping[str, Any]],
    ) -> None:
        self._loop, self._config, self._events, self._threads = loop, config, events, threads
        self._zygote_events, self._options_of = zygote_events, options_of
        self._current: Zygote | None = None
        self._dying: list[Zygote] = []
        self._unasked: list[ChildProcess] = []
        self._leaving = False
        self._log = structlog.get_logger().bind(thread="control")

    @property
    def pids(self) -> set[int]:
        """The zygotes' pids: they are no strays."""
        return {z.pid for z in self._all()}

    @property
    def pid(self) -> int | None:
        """The pid of the zygote that is asked now; None while there is none."""
        return self._current.pid if self._current else None

    def start(self) -> None:
        """Start a zygote and hand it what was not asked for yet."""
        try:
            self._current = Zygote(self._loop, self._config, self._zygote_events, threads=self._threads)
        except OSError as error:
            self._events.failed(f"the zygote cannot be started: {error}", 0.0)
            return
        unasked, self._unasked = self._unasked, []
        for child in unasked:
            self.ask(child)

    def ask(self, child: ChildProcess) -> None:
        """Ask for a child, now or as soon as somebody can be asked."""
        child.asked_s = self._loop.now_s
        if self._current is None or not self._current.fork(child, self._options_of(child)):
            self._unasked.append(child)

    def check(self) -> None:
        """Ask the current zygote whether its forks can work; `checked` answers. Nobody answers where there is none."""
        if self._current is not None:
            self._current.check()

    def drain(self) -> None:
        """Hear every name that is there."""
        for zygote in self._all():
            zygote.drain()

    def reap(self) -> None:
        """Notice zygotes that are dead; give their unanswered requests to the next, or give them up."""
        for zygote in self._all():
            code = zygote.reap()
            if code is None:
                continue
            if zygote is self._current:
                self._current = None
                self._dying.append(zygote)
                if not self._leaving:
                    ending = f"exit code {code}" if code >= 0 else f"signal {-code}"
                    self._events.failed(f"the zygote ended ({ending})", monotonic_s() - zygote.born_s)
            if zygote.closed:  # only now is it sure that no middle process of it will answer
                self._dying.remove(zygote)
                for child in zygote.unanswered.values():
                    self._ask_again(child)

    def tick(self, *, may_start: bool) -> None:
        """Start a zygote if there is none; ask again what could not be asked; end a zygote that hangs."""
        if self._current is None and may_start and not self._leaving:
            self.start()
        unasked, self._unasked = self._unasked, []
        for child in unasked:
            self.ask(child)
        zygote = self._current
        if zygote is None or zygote.imported_s is None:
            return
        since_s = [max(child.asked_s, zygote.imported_s) for child in zygote.unanswered.values()]
        if since_s and self._loop.now_s - min(since_s) > _ANSWER_LIMIT_S:
            self._log.error("the zygote does not answer: killing it", pid=zygote.pid)
            kill_pid(zygote.pid)

    def end(self) -> None:
        """No child will be asked for here: end the zygote."""
        self.leave()
        if self._current is not None:
            kill_pid(self._current.pid)

    def leave(self) -> None:
        """The worker ends: nobody is forked any more, a zygote that dies is not replaced."""
        self._leaving = True
        self._unasked.clear()

    def _ask_again(self, child: ChildProcess) -> None:
        if self._leaving or not isinstance(child.state, Starting):
            self._events.given_up(child)
            return
        if self._events.renewed(child):
            self.ask(child)

    def _all(self) -> list[Zygote]:
        return [*self._dying, *([self._current] if self._current else [])]
