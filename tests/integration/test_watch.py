"""The watch thread on real processes: who is over a limit is stopped, frozen; who only seems to be goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from heavyq.core.memory import MIB
from heavyq.linux import procfs
from heavyq.linux.clock import monotonic_s
from heavyq.linux.process import children_of
from heavyq.worker.meter import ChildMeter, RunMeter
from heavyq.worker.oom import OomRises
from heavyq.worker.part import Inbox
from heavyq.worker.watch import Excess, Watch, WatchEvents
from tests.support import procs
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOLDS = "import sys, time; mine = b'x' * (int(sys.argv[1]) << 20); print('ready', flush=True); input()"
POOL = """
import os, sys
mine = b"x" * (int(sys.argv[1]) << 20)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(4):
    if os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
sys.stdin.read()
"""
VFORK = """
import os, sys
mine = b"x" * (int(sys.argv[1]) << 20)
print("ready", flush=True)
os.posix_spawn("/bin/sleep", ["sleep", "600"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 9, sys.argv[2], os.O_RDONLY, 0)])
"""


class Room:
    """A container that holds what the test says."""

    limit_bytes = 1 << 40

    def __init__(self, used=0):
        self.used = used

    def use_bytes(self):
        return self.used


class NoKills:
    name = "none"

    def read(self):
        return 0


class Told:
    """What the watch has told control."""

    def __init__(self):
        self.inbox = Inbox()
        self.excess: list[Excess] = []
        self.crowded: list[tuple[int, int]] = []
        self.deaths: list[BaseException] = []

    def watch(self, room: Room) -> Watch:
        events = WatchEvents(self.excess.append, lambda *sizes: self.crowded.append(sizes))
        return Watch(room, OomRises(NoKills()), events, self.inbox, lambda _, error: self.deaths.append(error))

    def hears(self, look: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
        def delivered() -> object:
            self.inbox.deliver()
            assert not self.deaths, self.deaths
            return look()

        eventually(delivered, timeout_s, what)


@pytest.fixture
def told() -> Iterator[Told]:
    one = Told()
    yield one
    os.close(one.inbox.fd)


@pytest.fixture
def start(told: Told) -> Iterator[Callable[..., tuple[Watch, list[ChildMeter]]]]:
    """Start a watch over processes that hold so much, each with a run."""
    started: list[subprocess.Popen[str]] = []
    watches: list[Watch] = []
    fds: list[int] = []
    meters: list[ChildMeter] = []

    def begin(*holding: int, room: Room | None = None, limit_mib: int | None = None, code: str = HOLDS, more: str = ""):
        watch = told.watch(room or Room())
        watches.append(watch)
        watch.start()
        for number, mib in enumerate(holding, 1):
            one = subprocess.Popen(
                [sys.executable, "-c", code, str(mib), more], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            started.append(one)
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
            fds.append(os.pidfd_open(one.pid))
            meter = ChildMeter(number, one.pid, fds[-1], None)
            meter.birth_bytes = 8 * MIB  # what an interpreter holds: these were not forked from a zygote
            meter.born_bytes = 0
            if code == POOL:
                assert one.stdin is not None
                one.stdin.write("go on\n")
                one.stdin.flush()
            meters.append(meter)
            watch.add(meter)
            limit = None if limit_mib is None else limit_mib * MIB
            watch.begin(meter, RunMeter(number, monotonic_s(), limit, None))
        return watch, meters

    yield begin
    for meter in meters:
        watches[0].drop(meter)
    eventually(lambda: all(meter.closed for meter in meters), 5, "the watch closes what it has opened")
    for watch in watches:
        watch.stop()
        watch.join(5)
    for one in started:
        for pid in (*children_of(one.pid), one.pid):
            os.kill(pid, signal.SIGKILL)
        one.communicate()
    for fd in fds:
        os.close(fd)


def state(meter: ChildMeter) -> str:
    found = procs.look(meter.pid)
    assert found is not None
    return found.state


def test_who_is_over_its_limit_is_frozen_and_told_with_its_size(told, start):
    _, (meter,) = start(100, limit_mib=64)
    told.hears(lambda: told.excess, "the excess")
    (excess,) = told.excess
    assert (excess.child, excess.run, excess.failure.reason) == (1, 1, "memory_limit")
    assert excess.failure.evidence is not None
    assert 90 * MIB < excess.failure.evidence["peak_bytes"] < 120 * MIB
    eventually(lambda: state(meter) == "T", 5, "it stands still")


def test_who_is_under_its_limit_is_measured_and_left_alone(told, start):
    _, (meter,) = start(100, limit_mib=256)
    run = meter.run
    assert run is not None
    eventually(lambda: len(run.timeline.points()) >= 3, 10, "it is looked at again and again")
    assert 90 * MIB < run.charge_bytes < 120 * MIB
    told.inbox.deliver()
    assert told.excess == []
    assert state(meter) in {"S", "R"}


def test_memory_that_forks_share_is_counted_once_and_the_job_goes_on(told, start):
    _, (meter,) = start(100, limit_mib=256, code=POOL)
    run = meter.run
    assert run is not None
    eventually(lambda: run.excuse, 10, "it seemed over its limit, was read exactly, and was excused")
    eventually(lambda: run.charge_bytes > 400 * MIB, 10, "all its forks are there")
    eventually(lambda: state(meter) != "T", 5, "it goes on")
    told.inbox.deliver()
    assert told.excess == []


def test_a_job_that_starts_a_program_does_not_seem_twice_its_size(told, start, tmp_path):
    """Between vfork and exec the new process is the job's own memory: it waits there until the pipe has a writer."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    _, (meter,) = start(100, limit_mib=160, code=VFORK, more=str(pipe))
    run = meter.run
    assert run is not None
    (between,) = eventually(lambda: children_of(meter.pid), 5, "the new process is there")
    assert (procfs.charge_bytes(between) or 0) > 100 * MIB, "else there is nothing to be mistaken about"
    looks = len(run.timeline.points())
    eventually(lambda: len(run.timeline.points()) >= looks + 3, 10, "it is looked at meanwhile")
    told.inbox.deliver()
    assert told.excess == []
    assert run.excuse is None
    assert run.peak_bytes < 120 * MIB
    os.close(os.open(pipe, os.O_WRONLY))


def test_what_its_processes_hold_is_the_jobs(told, start):
    _, (_, meter) = start(1, 100, limit_mib=64)
    assert meter.run is not None
    told.hears(lambda: told.excess, "the excess")
    assert [excess.child for excess in told.excess] == [2]


def test_when_the_container_is_nearly_full_one_job_at_a_time_is_stopped(told, start):
    room = Room()
    _, meters = start(40, 200, room=room)
    eventually(lambda: all(m.run is not None and m.run.charge_bytes for m in meters), 5, "both are measured")
    room.used = Room.limit_bytes
    told.hears(lambda: told.excess, "the excess")
    (excess,) = told.excess
    assert excess.child == 2
    assert excess.failure.evidence is not None
    assert excess.failure.evidence["limit_of"] == "container"
    eventually(
        lambda: [state(meter) for meter in meters] == ["S", "T"], 5, "the larger stands still, the other goes on"
    )


def test_when_others_have_filled_the_container_no_job_is_blamed(told, start):
    _, (meter,) = start(1, room=Room(Room.limit_bytes))
    told.hears(lambda: told.crowded, "the complaint")
    assert told.excess == []
    assert state(meter) in {"S", "R"}
