"""The processes below the supervisor: zygotes, children, strays. The one reaper.

Owns who is whose: makes children through the zygote, adopts them, judges what falls to us, and tells control of
births, frames and deaths. Leases nothing and settles nothing. `core.child` decides, this performs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import structlog

from heavyq.bullmq.keys import QueueKey
from heavyq.config import wants_traceback
from heavyq.core import child as life
from heavyq.core.memory import IDLE_WORTH_BYTES
from heavyq.core.outcome import exited
from heavyq.errors import ConfigError, HeavyqError
from heavyq.job import wire
from heavyq.linux import procfs
from heavyq.linux.clock import monotonic_s
from heavyq.linux.frames import Frame, pack
from heavyq.linux.groups import Group, Groups
from heavyq.linux.process import children_of
from heavyq.worker.deaths import Death, Deaths, Ended, reap
from heavyq.worker.loop import Loop
from heavyq.worker.meter import ChildMeter
from heavyq.worker.nursery import Nursery, NurseryEvents
from heavyq.worker.oom import OomRises
from heavyq.worker.process import ChildProcess
from heavyq.worker.sweeper import Remover, Sweeper
from heavyq.worker.watch import Watch
from heavyq.worker.zygote import ZygoteEvents

FAILURES_IN_A_ROW_MAX = 5
_PAUSE_FIRST_S = 0.1
_LONG_LIFE_S = 60.0  # a zygote that lived so long had imported well: its end begins a new count
_GROUP_GRACE_S = 2.0  # multiprocessing's trackers have a second to empty /dev/shm
_SLOW_START_S = 30.0
_FROZEN_MAX_S = 10.0  # the kernel did not let the watch read it
_CLOSED_TICKS = 3  # a process that dies closes its files a while before its pidfd tells of it


@dataclass(frozen=True)
class ChildKind:
    """The child options of a queue. Children of equal kind serve any queue that needs it.

    seats: how many jobs share a child. queue: of a child that is shared: it serves no other.
    """

    nice: int
    oom_score_adj: int
    limits: life.ChildLimits
    start_method: Literal["fork", "spawn"] = "fork"
    seats: int = 1
    queue: QueueKey | None = None

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Asked dozens of times for each job."""
        limits = self.limits
        return hash((self.nice, self.oom_score_adj, limits, self.start_method, self.seats, self.queue))


@dataclass(frozen=True, slots=True)
class CrewEvents:
    """What control is told, on the control loop."""

    ready: Callable[[ChildProcess], None]
    report: Callable[[ChildProcess, Frame], None]
    line: Callable[[ChildProcess, str], None]
    died: Callable[[ChildProcess, Death], None]


@dataclass(frozen=True, slots=True)
class CrewTools:
    """What the crew works with. groups: None where the kernel gives no child a group of its own."""

    sweeper: Sweeper
    remover: Remover
    watch: Watch
    rises: OomRises
    groups: Groups | None


class Crew:
    """All processes of one worker below its supervisor."""

    def __init__(self, loop: Loop, tools: CrewTools, base: Path, events: CrewEvents) -> None:
        self._loop, self._sweeper, self._remover = loop, tools.sweeper, tools.remover
        self._watch, self._groups = tools.watch, tools.groups
        self._base, self._events = base, events
        self.concurrency = 1  # how many children; known once the modules are imported
        self.children: dict[int, ChildProcess] = {}
        self._by_pid: dict[int, ChildProcess] = {}
        self._condemned: set[int] = set()
        self._next_number = 1
        self._failures = 0
        self._not_before_s = 0.0
        self._leaving = False
        self._judge_soon = False
        self.fatal: HeavyqError | None = None
        self._log = structlog.get_logger().bind(thread="control")
        self._nurseries: dict[str, Nursery] = {}
        self._born_most_bytes = 0
        self._deaths = Deaths(tools.rises)
        self._old_groups: list[tuple[float, Group]] = []  # of the dead, since when

    def start_zygote(self, config: Mapping[str, Any], events: ZygoteEvents, *, threads: int) -> None:
        """Start the first zygote; a later one replaces it with the same configuration if it dies."""
        self._start_nursery("fork", config, events, threads)

    def start_bare_zygote(self, config: Mapping[str, Any], events: ZygoteEvents, *, threads: int) -> None:
        """Start a zygote that imports nothing: its children import for themselves (start_method "spawn").

        Not twice, should the other zygote have to tell its catalogue again.
        """
        if "spawn" in self._nurseries:
            return
        self._start_nursery("spawn", {**config, "bare": True}, replace(events, catalogue=lambda _: None), threads)

    def _start_nursery(self, method: str, config: Mapping[str, Any], events: ZygoteEvents, threads: int) -> None:
        nursery = self._nurseries[method] = Nursery(
            self._loop,
            config,
            replace(events, forked=self._forked, not_forked=self._not_forked),
            NurseryEvents(failed=self._zygote_failed, given_up=self._give_up, renewed=self._renew),
            threads=threads,
            options_of=_fork_options,
        )
        nursery.start()

    @property
    def zygote_pids(self) -> list[int]:
        """The zygotes that are there."""
        return [pid for nursery in self._nurseries.values() for pid in nursery.pids]

    def end_zygote(self) -> None:
        """Nobody is forked from it: what it has imported is not kept for nothing."""
        self._nurseries["fork"].end()

    def check_forks(self) -> None:
        """Ask the zygote whether its forks can work; its event `checked` answers."""
        self._nurseries["fork"].check()

    def leave(self) -> None:
        """The worker ends: a zygote that dies is not replaced, a child that is not forked yet never is."""
        self._leaving = True
        for nursery in self._nurseries.values():
            nursery.leave()
        for child in tuple(self.children.values()):
            if child.pid is None:
                self._give_up(child)

    # ---- making children

    @property
    def may_make(self) -> bool:
        """False for a moment after a failed start, so that failures do not spin."""
        return monotonic_s() >= self._not_before_s and not self._leaving

    def make(self, kind: ChildKind) -> None:
        """Ask for a child of this kind; `ready` or `died` follows, or a failed start is counted."""
        taken = {c.slot for c in self.children.values()}
        slot = next(n for n in range(self.concurrency) if n not in taken)
        number = self._next_number
        self._next_number += 1
        workdir = self._base / f"child-{number}"
        try:
            workdir.mkdir(mode=0o700, parents=True)
            child = ChildProcess(number, slot, kind, kind.limits, workdir, self._loop.now_s, seats=kind.seats)
        except OSError as error:  # no space, no descriptors: tried again a few times
            self._count_failure(f"{type(error).__name__}: {error}")
            return
        child.group = self._make_group(number)
        self.children[number] = child
        child.watch(self._loop, self._frame, self._events.line, self._broken)
        self._nurseries[kind.start_method].ask(child)

    def _make_group(self, number: int) -> Group | None:
        if self._groups is None:
            return None
        try:
            return self._groups.make(f"{self._base.name}-{number}")
        except OSError as error:
            self._log.warning("a child has no kernel group of its own", child=number, error=str(error))
            return None

    def _renew(self, child: ChildProcess) -> bool:
        child.close_channel()
        try:
            child.open_channel()
        except OSError as error:
            child.start_error = str(error)
            self._gone(child, Death(exited(1)))
            return False
        child.watch(self._loop, self._frame, self._events.line, self._broken)
        return True

    def _give_up(self, child: ChildProcess) -> None:
        if child.number in self.children:
            child.start_error = "it was never forked"
            self._gone(child, Death(exited(1)))

    def _forked(self, number: int, pid: int) -> None:
        child = self.children.get(number)
        if child is None:  # given up meanwhile: it falls to us as a stray
            return
        child.close_their_ends()
        try:
            child.pidfd = os.pidfd_open(pid)  # works on a zombie too
        except OSError as error:  # no descriptor is left: it falls to us as a stray
            child.start_error = str(error)
            self._gone(child, Death(exited(1)))
            return
        child.pid, child.zygote_pid = pid, self._nurseries[_kind(child).start_method].pid
        self._by_pid[pid] = child
        self._loop.watch(child.pidfd, lambda: self._maybe_died(child))
        if child.killed_by_us:  # while it had no name
            self.kill(child, child.killed_by_us)

    def _not_forked(self, number: int, error: str) -> None:
        child = self.children.get(number)
        if child is not None:
            child.start_error = error
            self._gone(child, Death(exited(1)))

    def _zygote_failed(self, what: str, lived_s: float) -> None:
        if lived_s > _LONG_LIFE_S:
            self._failures = 0
        self._count_failure(what, fatal=ConfigError)

    def _count_failure(self, what: str, fatal: type[HeavyqError] = HeavyqError) -> None:
        self._failures += 1
        self._not_before_s = monotonic_s() + _PAUSE_FIRST_S * 2**self._failures
        self._log.error("a process could not be started", why=what, in_a_row=self._failures)
        if self._failures >= FAILURES_IN_A_ROW_MAX:
            self.fatal = fatal(f"{self._failures} starts failed in a row; the last: {what}")

    # ---- frames

    def _frame(self, child: ChildProcess, frame: Frame) -> None:
        if frame.kind == wire.READY:
            self._ready(child, frame)
        elif frame.kind == wire.NOT_READY:
            child.start_error = frame.head["error"]
            if wants_traceback(os.environ):
                self._log.error("traceback of the start\n" + frame.body.decode("utf-8", "replace"))
        else:
            self._events.report(child, frame)

    def _broken(self, child: ChildProcess, error: Exception) -> None:
        """What a child sent makes no sense: the job pays, alone."""
        self._log.error("a child broke the protocol: killing it", child=child.number, error=repr(error)[:500])
        self.kill(child, f"it broke the protocol: {type(error).__name__}: {error}"[:500])

    def _ready(self, child: ChildProcess, frame: Frame) -> None:
        if isinstance(child.state, life.Starting):
            self._failures = 0
            self._measure(child)
            self.apply(child, life.ChildReady())
        else:
            self.apply(child, life.Cleaned(bool(frame.head["whole"])))
        self._events.ready(child)

    def _measure(self, child: ChildProcess) -> None:
        assert child.pid is not None
        assert child.pidfd is not None
        try:
            child.meter = ChildMeter(child.number, child.pid, child.pidfd, child.zygote_pid)
        except OSError as error:
            self._log.error("a child cannot be measured: it is not used", child=child.number, error=str(error))
            self.kill(child, f"it cannot be measured: {error}")
            return
        self._watch.add(child.meter)

    def run_over(self, child: ChildProcess, run: int, own_bytes: int, *, clean: bool) -> tuple[life.Action, ...]:
        """A run of it has reported: it stays or is retired; return what was done."""
        return self.apply(child, life.RunOver(run, clean, own_bytes))

    # ---- decisions

    def apply(self, child: ChildProcess, event: life.ChildEvent) -> tuple[life.Action, ...]:
        """Let `core.child` decide, and perform; return what was done."""
        child.state, actions = life.decide(child.state, event, self._loop.now_s, child.limits, seats=child.seats)
        for action in actions:
            match action:
                case life.AskExit():
                    self._log.debug("child retired", child=child.number, why=action.why)
                    child.send(pack(wire.EXIT))
                case life.Kill():
                    self._log.warning("child killed", child=child.number, pid=child.pid, why=action.why)
                    self.kill(child, action.why)
        return actions

    def kill(self, child: ChildProcess, why: str) -> None:
        """Kill a child and all below it; `died` follows."""
        child.killed_by_us = child.killed_by_us or why
        if child.pid and child.pidfd is not None:
            self._sweeper.kill_tree(child.pid, child.pidfd, partial(self._about_to_kill, child, child.pid))

    def _about_to_kill(self, child: ChildProcess, pid: int) -> None:
        """Note, on the sweeper's thread, whether somebody else was quicker: the kernel, or whoever sends a SIGKILL."""
        child.kill_came_first = child.kill_came_first or not procfs.is_dying(pid)

    def tick(self) -> None:
        """Let time pass for every child; judge what fell to us while no SIGCHLD came."""
        for child in tuple(self.children.values()):
            child.ticks_closed += child.channel_closed
            if child.ticks_closed >= _CLOSED_TICKS and not child.killed_by_us:
                self.kill(child, "it closed its channel to the worker")
            child.release_lines()
            self._tick_child(child)
            self.apply(child, life.Ticked())
        self._judge_deaths()
        for nursery in self._nurseries.values():
            nursery.tick(may_start=self.may_make and self.fatal is None)
        self._old_groups = [
            (since_s, group) for since_s, group in self._old_groups if not self._removed(group, since_s)
        ]
        self.judge()

    def _tick_child(self, child: ChildProcess) -> None:
        slow = isinstance(child.state, life.Starting) and self._loop.now_s - child.asked_s > _SLOW_START_S
        if slow and not child.told_slow:
            child.told_slow = True
            spawned = _kind(child).start_method == "spawn"
            what = "its imports or a @child_start hook" if spawned else "a @child_start hook"
            self._log.warning(f"a child is not ready yet: {what} may hang", child=child.number, after_s=_SLOW_START_S)
        meter = child.meter
        since_s = meter.frozen_s if meter is not None else None  # read once: the watch sets it too
        if meter is not None and since_s is not None and monotonic_s() - since_s > _FROZEN_MAX_S:
            self._log.error("a child stood still and was not judged: it goes on", child=child.number)
            meter.thaw()

    @property
    def born_bytes(self) -> int:
        """What the children have made for themselves before any job, and a next one would."""
        born = [child.meter.born_bytes for child in self.children.values() if child.meter is not None]
        self._born_most_bytes = max([self._born_most_bytes, *born])
        idle = any(isinstance(child.state, life.Ready) and child.state.idle for child in self.children.values())
        needs_another = not idle and len(self.children) < self.concurrency
        return sum(born) + needs_another * self._born_most_bytes

    def make_room(self) -> None:
        """Let an idle child go that holds much without a job; one at a time."""
        if any(isinstance(child.state, life.Retiring) for child in self.children.values()):
            return
        idle = [c for c in self.children.values() if c.meter and isinstance(c.state, life.Ready) and c.state.idle]
        heaviest = max(idle, key=lambda child: child.meter.idle_bytes(), default=None)  # type: ignore[union-attr]
        if heaviest is not None and heaviest.meter is not None and heaviest.meter.idle_bytes() >= IDLE_WORTH_BYTES:
            self.apply(heaviest, life.RetireAsked("it holds memory that a job needs"))

    def turned(self) -> None:
        """The loop went round: look below if a death has left orphans to us."""
        if self._judge_soon:
            self.judge()

    # ---- deaths

    def judge(self) -> None:
        """Reap what is dead, and kill what fell to us and is not ours.

        In this order, or quick deaths are misjudged: list, then hear the zygote's names, then judge that list.
        """
        self._judge_soon = False
        while True:
            listed = children_of(os.getpid())
            zygotes = self.zygote_pids
            for nursery in self._nurseries.values():
                nursery.drain()
                nursery.reap()
            strays = [pid for pid in listed if pid not in self._by_pid and pid not in zygotes]
            found = False
            for pid in strays:
                found |= self._judge_stray(pid)
            if not found:
                return

    def _judge_stray(self, pid: int) -> bool:
        """Reap a stray, or have it killed; True if its own children may have fallen to us now."""
        try:
            done, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            self._condemned.discard(pid)
            return False
        if done:
            self._condemned.discard(pid)
            return True
        if pid not in self._condemned and self._sweeper.kill_stray(pid):
            self._condemned.add(pid)
        return False

    def _maybe_died(self, child: ChildProcess) -> None:
        """Its pidfd is readable: reap it, and find out why it died."""
        ended = self._reap(child)
        if ended is not None:
            self._deaths.add(ended)
            self._judge_deaths()

    def _judge_deaths(self) -> None:
        """Tell control of the dead, and why they died."""
        if self._deaths.in_question:  # who else is dead must be compared, though its pidfd was not heard yet
            self._deaths.add(*filter(None, [self._reap(other) for other in tuple(self._by_pid.values())]))
        for child, death in self._deaths.judge(tuple(self._by_pid.values())):
            child.drain()
            self._gone(child, death)

    def _reap(self, child: ChildProcess) -> Ended | None:
        ended = reap(child)
        if ended is not None:
            assert child.pid is not None
            assert child.pidfd is not None
            self._by_pid.pop(child.pid)
            self._loop.unwatch(child.pidfd)
            child.dead = True
        return ended

    def remove_groups(self) -> None:
        """Remove the groups of all children: the worker ends, and they are dead."""
        for group in (*(group for _, group in self._old_groups), *(c.group for c in self.children.values() if c.group)):
            group.remove()

    def _removed(self, group: Group, since_s: float) -> bool:
        """Remove a dead child's group; what the kill by parentage has left in it after a while is killed as one."""
        if group.remove():
            return True
        if self._loop.now_s - since_s > _GROUP_GRACE_S:
            with contextlib.suppress(OSError):
                group.kill()
        return False

    def _gone(self, child: ChildProcess, death: Death) -> None:
        if child.pid is not None and child.pidfd is not None:
            if self._by_pid.pop(child.pid, None) is not None:
                self._loop.unwatch(child.pidfd)
            os.close(child.pidfd)
        child.close_channel()
        del self.children[child.number]
        if child.meter is not None:
            self._watch.drop(child.meter)
        self.apply(child, life.ChildExited())
        self._remover.remove(child.workdir)
        if child.group is not None:
            self._old_groups.append((self._loop.now_s, child.group))
        if isinstance(child.state, life.Gone) and child.state.failed and not self._leaving:
            self._count_failure(child.start_error or death.failure.detail)
        self._events.died(child, death)
        self._judge_soon = True  # what it left behind fell to us, and no signal tells of that


def _kind(child: ChildProcess) -> ChildKind:
    assert isinstance(child.kind, ChildKind)
    return child.kind


def _fork_options(child: ChildProcess) -> Mapping[str, Any]:
    kind = _kind(child)
    group = child.group.path if child.group else None
    return {"nice": kind.nice, "oom_score_adj": kind.oom_score_adj, "group": group, "seats": kind.seats}
