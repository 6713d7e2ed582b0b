"""The supervisor: phases of a worker's life, signals, and the end of all of it.

Owns the order of things: import first, then Redis, then serving, then draining; each is a state of the loop,
never a call that blocks, so that the guard sees the loop move. Never imports user code.

    importing ──catalogue──> connecting ──server answers──> serving ──TERM, INT, burst, fatal──> draining ──> ended
"""

from __future__ import annotations

import contextlib
import enum
import os
import resource
import shutil
import signal
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import structlog
from setproctitle import setproctitle

from heavyq.bullmq.keys import QueueKey, worker_client_name
from heavyq.bullmq.ops.open_queue import open_queue
from heavyq.bullmq.ops.wake import wake
from heavyq.config import QueueSettings, RunSettings, wants_traceback
from heavyq.core.memory import in_words
from heavyq.errors import ConfigError, HeavyqError, ProtocolError, RedisError
from heavyq.linux.clock import monotonic_s
from heavyq.linux.groups import Groups
from heavyq.linux.process import become_subreaper, die_with_parent, kill_all_below
from heavyq.store import embedded
from heavyq.store.client import Client
from heavyq.worker import log as worker_log
from heavyq.worker import room
from heavyq.worker.accounts import Accounts
from heavyq.worker.catalogue import Catalogue, kinds_of, read_catalogue
from heavyq.worker.commands import Command, Commands
from heavyq.worker.connecting import Connect
from heavyq.worker.control import Control
from heavyq.worker.crew import ChildKind, Crew, CrewEvents, CrewTools
from heavyq.worker.guard import FORWARDED, GUARD_DIED, STARTING_LIMIT_S, Pulse
from heavyq.worker.janitor import Janitor, Watched
from heavyq.worker.loop import TICK_S, Loop, SignalPipe
from heavyq.worker.oom import OomRises
from heavyq.worker.part import Part
from heavyq.worker.renewal import Renewal, Vouched
from heavyq.worker.served import Served
from heavyq.worker.sweeper import Remover, Sweeper
from heavyq.worker.waiter import Waiter
from heavyq.worker.watch import Watch, WatchEvents
from heavyq.worker.zygote import ZygoteEvents

_SETTLE_LIMIT_S = 15.0
_REMOVE_LIMIT_S = 5.0
_pulse: Pulse | None = None


def attach(pulse: Pulse) -> None:
    """Remember the guard's pulse; called in the supervisor before anything else."""
    global _pulse  # noqa: PLW0603 - one supervisor a process; the command line stands between guard and `run`
    _pulse = pulse


def run(settings: RunSettings) -> int:
    """Run a worker until it is asked to end; return its exit code.

    Raises ConfigError for a module or a setting that cannot work, RedisError when Redis is not reachable at start.
    """
    if _pulse is None:
        raise ConfigError("a worker is started by the command `heavyq run`, which makes its guard first")
    return Supervisor(settings, _pulse).run()


class Phase(enum.Enum):
    IMPORTING = "importing"
    CONNECTING = "connecting"
    SERVING = "serving"
    DRAINING = "draining"
    ENDED = "ended"


class Supervisor:
    """One worker."""

    def __init__(self, settings: RunSettings, pulse: Pulse) -> None:
        self._settings, self._pulse = settings, pulse
        self._phase = Phase.IMPORTING
        self._failure: HeavyqError | None = None
        self._exit_code = 0
        self._guard_pid = os.getppid()
        self._worker_id = pulse.name
        self._parts: list[Part] = []
        self._drain_deadline_s = self._end_deadline_s = 0.0
        self._stopping_now = False
        self._next_tick_s = 0.0
        self._control: Control | None = None
        self._default_url: str | None = None
        self._base: Path | None = None
        self._groups: Groups | None = None
        self._crew: Crew
        self._catalogue: Catalogue

    def run(self) -> int:
        setproctitle("heavyq supervisor")
        log_thread = worker_log.open_log(self._settings.log_format, self._settings.log_level)
        self._log = structlog.get_logger().bind(thread="control")
        self._loop = Loop()
        self._take_signals()
        try:
            self._base = _make_base(self._pulse.name)
            self._start_crew(self._base)
            while self._phase is not Phase.ENDED:
                self._turn()
        except Exception:
            self._give_back()
            raise
        finally:
            kill_all_below(tick=self._pulse.beat)
            self._leave_groups()
            self._remove_base()
            log_thread.close()
        if self._failure:
            raise self._failure
        return self._exit_code

    def _take_signals(self) -> None:
        """Handlers first, then the tie to the guard, then unblock: in this order nothing is missed."""
        nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        SignalPipe(self._loop, (*FORWARDED, GUARD_DIED, signal.SIGCHLD), self._signalled)
        if nohup:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        die_with_parent(GUARD_DIED)
        if os.getppid() != self._guard_pid:
            self._die_with_guard()
        become_subreaper()
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._nofile = soft
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))

    def _turn(self) -> None:
        self._loop.turn()
        self._pulse.beat()
        if monotonic_s() >= self._next_tick_s:
            self._next_tick_s = monotonic_s() + TICK_S
            self._tick()
        self._crew.turned()
        if self._control:
            self._control.turned()
            if self._phase is Phase.DRAINING:
                self._turn_drain(self._control)

    def _tick(self) -> None:
        if os.getppid() != self._guard_pid:
            self._die_with_guard()
        self._crew.tick()
        fatal = self._crew.fatal
        if fatal and self._phase is not Phase.DRAINING:
            if self._phase is Phase.IMPORTING:
                names = ", ".join(name.removesuffix(".*") for name in self._settings.modules)
                fatal = type(fatal)(f"cannot import {names}: {fatal} (try: python -c 'import {names}')")
            self._fail(fatal)
        if self._control is None:
            return
        self._control.tick()
        if self._phase is Phase.SERVING and self._settings.burst and self._control.nothing_left_to_do:
            self._log.info("burst: nothing is left to do")
            self._drain()

    # ---- importing

    def _start_crew(self, base: Path) -> None:
        self._room = room.look_around([self._guard_pid, os.getpid()], base.name)
        self._rises = OomRises(self._room.oom_counter)
        seen = WatchEvents(
            excess=lambda excess: self._control.memory_exceeded(excess) if self._control else None,
            crowded=lambda *sizes: self._control.crowded(*sizes) if self._control else None,
        )
        inbox, died = self._loop.inbox, self._part_died
        self._watch = Watch(self._room.container, self._rises, seen, inbox, died)
        tools = CrewTools(Sweeper(inbox, died), Remover(inbox, died), self._watch, self._rises, self._room.groups)
        self._accounts = Accounts(self._watch, self._rises)
        self._start(tools.sweeper, tools.remover, self._watch)
        events = CrewEvents(
            ready=lambda child: self._control.child_ready(child) if self._control else None,
            report=lambda child, frame: self._control.child_said(child, frame) if self._control else None,
            line=lambda child, line: self._control.child_printed(child, line) if self._control else None,
            died=lambda *what: self._control.child_died(*what) if self._control else None,
        )
        self._crew = Crew(self._loop, tools, base, events)
        self._groups = self._room.groups
        # `__main__` has started the embedded server if it may be needed; processors must find the same one.
        self._default_url = self._settings.redis_url or (embedded.ensure() if embedded.available() else None)
        self._zygote_config = {
            "modules": list(self._settings.modules),
            "redis_url": self._default_url,
            "prefix": self._settings.prefix,
            "nofile": self._nofile,
            "bare": False,
        }
        asked = self._settings.concurrency
        self._threads = max(1, self._room.cores // asked) if asked else 1
        self._zygote_events = ZygoteEvents(
            catalogue=self._imported,
            broken=self._broken,
            line=lambda line: self._log.info(line, process="zygote"),
            forked=lambda *_: None,
            not_forked=lambda *_: None,
            checked=self._checked,
        )
        self._log.info("importing", modules=list(self._settings.modules))
        self._crew.start_zygote(self._zygote_config, self._zygote_events, threads=self._threads)

    def _broken(self, error: str, trace: str) -> None:
        if wants_traceback(os.environ):
            self._log.error("traceback of the import\n" + trace)
        names = ", ".join(self._settings.modules)
        self._fail(ConfigError(f"cannot import {names}: {error} (HEAVYQ_TRACEBACK=1 shows all of it)"))

    def _imported(self, raw: Mapping[str, Any]) -> None:
        if self._phase is not Phase.IMPORTING:  # a zygote was replaced: the same modules, imported anew
            return
        try:
            self._budget_bytes = room.budget_bytes(self._room, self._settings.memory_budget, self._own_pids())
            self._catalogue = read_catalogue(raw, self._settings, self._default_url, self._budget_bytes)
            room.check_requests(self._catalogue.queues, self._budget_bytes)
        except HeavyqError as error:
            self._fail(error)
            return
        methods = {settings.start_method for settings in self._catalogue.queues.values()}
        if "spawn" in methods:
            self._crew.start_bare_zygote(self._zygote_config, self._zygote_events, threads=self._threads)
        if "fork" in methods:
            self._crew.check_forks()
        else:
            self._crew.end_zygote()
            self._connect()

    def _own_pids(self) -> list[int]:
        return [self._guard_pid, os.getpid(), *self._crew.zygote_pids]

    def _checked(self, problem: str | None, stack: str, warning: str | None = None) -> None:
        """The zygote has tried whether a forked child can work at all."""
        if warning is not None:
            self._log.warning(warning, process="zygote")
        if self._phase is not Phase.IMPORTING:
            return
        if problem is None:
            self._connect()
            return
        if stack:
            self._log.error("stack of the child that was tried\n" + stack)
        self._fail(ConfigError(problem))

    # ---- connecting

    def _connect(self) -> None:
        if embedded.serves(self._catalogue.url):
            self._log.info(embedded.notice())
        self._phase = Phase.CONNECTING
        limit_s = self._settings.connect_timeout_s
        self._start(Connect(self._client, limit_s, self._tried, self._loop.inbox, self._part_died))

    def _client(self, name: str | None = None) -> Client:
        """Return a connection of its own for one thread."""
        return Client(self._catalogue.url, name=name)

    def _tried(self, problem: HeavyqError | None) -> None:
        if self._phase is not Phase.CONNECTING:
            return
        if problem is None:
            self._serve_all()
        else:
            self._fail(problem)

    def _serve_all(self) -> None:
        inbox = self._loop.inbox
        vouched = Vouched()
        commands = Commands(self._client(), inbox, self._part_died)
        kinds = kinds_of(self._catalogue.queues, self._catalogue.traits)
        served = [self._serve(key, settings, kinds[key]) for key, settings in self._catalogue.queues.items()]
        self._commands = commands
        self._control = control = Control(
            served,
            commands,
            vouched,
            self._accounts,
            self._crew,
            worker_id=self._worker_id,
            name=self._settings.name,
            concurrency=self._catalogue.concurrency,
            budget_bytes=self._budget_bytes,
            budget_is_set=self._settings.memory_budget is not None,
        )
        self._crew.concurrency = self._catalogue.concurrency
        for one in served:
            client = self._client(self._shown_as(one.key))
            one.waiter = Waiter(one.key, client, control.woken, inbox, self._part_died)
            commands.send(Command(open_queue(one.key)))
        watched = [Watched(s.key, s.settings.stalled_interval_s, s.settings.max_stalled_count) for s in served]
        self._start(
            commands,
            Renewal(self._client(), vouched, control.lease_lost, control.cancel_asked, inbox, self._part_died),
            Janitor(self._client(), watched, control.swept, inbox, self._part_died),
            *(s.waiter for s in served if s.waiter),
        )
        self._phase = Phase.SERVING
        self._pulse.set_limit(self._settings.failover_after_s or STARTING_LIMIT_S)
        self._tell_room()
        self._log.info(
            "serving",
            queues=[s.key.name for s in served],
            concurrency=self._catalogue.concurrency,
            worker=self._worker_id,
            pid=self._guard_pid,
        )

    def _tell_room(self) -> None:
        """Say what was found to run in, and what follows from it."""
        catalogue, container = self._catalogue, self._room.container
        self._log.info(
            "memory",
            limit=in_words(container.limit_bytes),
            of=container.source,
            for_jobs=in_words(self._budget_bytes),
            kernel_groups="one per child" if self._room.groups else f"none: {self._room.no_groups}",
        )
        self._log.info("cores", cores=self._room.cores, threads_per_child=self._threads)
        if catalogue.capped:
            self._log.warning(
                "fewer children than the queues ask for: memory takes no more",
                concurrency=catalogue.concurrency,
                asked=catalogue.capped,
            )
        if tight := room.too_tight(catalogue.queues, catalogue.concurrency, self._budget_bytes):
            self._log.warning(tight)
        for words in room.without_effect(catalogue.queues):
            self._log.warning(words)

    def _shown_as(self, key: QueueKey) -> str | None:
        """Return the name by which BullMQ lists this worker of a queue, None if Redis would not take it."""
        name = worker_client_name(key, self._settings.name)
        if name.isascii() and name.isprintable() and " " not in name:
            return name
        self._log.warning("no list of workers will show this one: Redis takes no such name", name=name)
        return None

    def _serve(self, key: QueueKey, settings: QueueSettings, kind: ChildKind) -> Served:
        limit = self._catalogue.concurrency * kind.seats if settings.concurrency is None else settings.concurrency
        return Served(key, settings, kind, limit, self._catalogue.traits[key])

    # ---- ending

    def _signalled(self, signum: int) -> None:
        if signum == signal.SIGCHLD:
            self._crew.judge()
        elif signum == GUARD_DIED:
            self._die_with_guard()
        elif signum in {signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT}:
            self._asked_to_end(signum)
        else:
            self._log.info("signal taken, nothing is done for it yet", signal=signal.Signals(signum).name)

    def _asked_to_end(self, signum: int) -> None:
        name = signal.Signals(signum).name
        if self._phase is Phase.DRAINING:
            if signum in {signal.SIGINT, signal.SIGQUIT}:
                self._log.warning("stopping now", signal=name)
                self._drain_deadline_s = 0.0
            return
        self._log.info("draining", signal=name, drain_timeout_s=self._settings.drain_timeout_s)
        self._drain()
        if signum == signal.SIGQUIT:
            self._drain_deadline_s = 0.0

    def _fail(self, error: HeavyqError) -> None:
        """The worker can start nothing more: what runs may run out, then it ends with the error."""
        self._log.error("the worker ends", why=str(error))
        self._failure = self._failure or error
        self._drain()

    def _drain(self) -> None:
        if self._phase is Phase.DRAINING:
            return
        self._phase = Phase.DRAINING
        self._drain_deadline_s = self._loop.now_s + self._settings.drain_timeout_s
        self._crew.leave()
        if self._control is None:  # nothing was leased yet
            self._phase = Phase.ENDED
            return
        self._control.drain()

    def _turn_drain(self, control: Control) -> None:
        now_s = self._loop.now_s
        if now_s >= self._drain_deadline_s and not self._stopping_now:
            self._stopping_now = True
            self._end_deadline_s = now_s + _SETTLE_LIMIT_S
            control.hand_back_all()
        if control.over and not self._crew.children:
            self._leave()
        elif self._stopping_now and now_s >= self._end_deadline_s:
            left = [run.job.lease.job_id for run in control.runs.values()]
            if left:
                self._log.error("ended with outcomes that Redis did not take; their locks will expire", jobs=left)
                self._exit_code = 1
            self._leave()

    def _leave(self) -> None:
        """Last words to Redis: whatever marker a waiter took on its way out is put back."""
        self._pulse.set_limit(STARTING_LIMIT_S)  # the last steps block: a last call to Redis, the removal of workdirs
        for part in self._parts:
            part.stop()
        control = self._control
        with contextlib.suppress(RedisError):
            if control and not self._commands.away:
                for served in control.served:
                    if served.waiter:
                        served.waiter.close()
                client = Client(self._catalogue.url, timeout_s=2.0)
                client.run_many([wake(served.key) for served in control.served])
                client.close()
        self._accounts.tell_leaks()
        self._log.info("ended", exit_code=self._failure.exit_code if self._failure else self._exit_code)
        self._phase = Phase.ENDED

    def _give_back(self) -> None:
        """A bug of ours ends the worker: kill what runs, then give it back, or its locks would hold it for hours."""
        self._pulse.set_limit(STARTING_LIMIT_S)
        for part in self._parts:
            part.stop()
        kill_all_below(tick=self._pulse.beat)
        if self._control is None:
            return
        self._commands.join(2.0)  # a lease that is under way is ours too
        with contextlib.suppress(Exception):
            self._control.draining = True
            self._loop.inbox.deliver()
        client = Client(self._catalogue.url, timeout_s=2.0)
        for op in self._control.last_words():
            with contextlib.suppress(Exception):  # one that cannot be told must not keep back the others
                client.run(op)
        client.close()

    def _die_with_guard(self) -> NoReturn:
        kill_all_below(tick=self._pulse.beat)
        self._remove_base(within_s=0.3)  # nobody waits for us any more: be gone
        os._exit(1)

    def _leave_groups(self) -> None:
        """Remove the kernel groups of children; all that was in them is dead."""
        if self._groups is not None:
            self._crew.remove_groups()
            self._groups.close()

    def _remove_base(self, within_s: float = _REMOVE_LIMIT_S) -> None:
        """Remove what is left of the workdirs, within a time: a job may have left a million files."""
        if self._base is None:
            return
        thread = threading.Thread(target=shutil.rmtree, args=(self._base, True), daemon=True)
        thread.start()
        deadline_s = monotonic_s() + within_s
        while thread.is_alive() and monotonic_s() < deadline_s:
            thread.join(0.1)
            self._pulse.beat()

    # ---- threads

    def _start(self, *parts: Part) -> None:
        for part in parts:
            self._parts.append(part)
            part.start()

    def _part_died(self, part: Part, error: BaseException) -> None:
        self._log.error("a thread died", thread=part.name, error=repr(error), exc_info=error)
        if part.vital:
            raise ProtocolError(f"the {part.name} thread died: {error!r}") from error
        self._exit_code = 1
        self._drain()


def _make_base(name: str) -> Path:
    """Make the folder of the jobs' workdirs, and see that the kernel tells who is whose child."""
    if not Path("/proc/thread-self/children").exists():
        raise ConfigError(
            "the kernel has no /proc/PID/task/TID/children (CONFIG_PROC_CHILDREN): heavyq cannot clean up here"
        )
    try:
        return Path(tempfile.mkdtemp(prefix=f"heavyq-{name}-"))
    except OSError as error:
        raise ConfigError(f"no folder for the jobs' files: {error}; set TMPDIR to one that can be written") from error
