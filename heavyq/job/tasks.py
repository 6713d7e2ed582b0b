"""The life of a child of several seats between its birth and its end: one loop, one task for each job.

Owns the reading of the socket on that loop, the stopping of one job among others, and that what is left behind is
looked at when nothing runs. A job that never yields, or swallows its cancel, is the supervisor's to end, with the
child.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from setproctitle import setproctitle

from heavyq.core.outcome import Failure
from heavyq.errors import ProtocolError
from heavyq.job import hooks, leftovers, memory, records, wire
from heavyq.job.attempt import Attempt, Place, prepare
from heavyq.job.home import LEAVE_S, Home, cpu_s, flush
from heavyq.job.report import Failed, Outcome, Returned, Stopped, frame_of
from heavyq.job.scope import Quit, Scope
from heavyq.linux import procfs

if TYPE_CHECKING:
    from heavyq.job.channel import Channel
    from heavyq.linux.frames import Frame

_BEGINS: Final = (wire.JOB, wire.HOOK)
_AGAIN_S: Final = 4.0  # a cancel can get lost (in `wait_for` of Python 3.11): once more, before the supervisor kills


class _Run:
    """One job. task: its function, while that runs. stopped: it was asked to stop."""

    def __init__(self) -> None:
        self.scope = Scope()
        self.began_s = time.monotonic()
        self.task: asyncio.Task[Any] | None = None
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True
        self._cancel()
        asyncio.get_running_loop().call_later(_AGAIN_S, self._cancel)

    def _cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()


class Tasks:
    """Takes jobs from the channel and runs them side by side. active: jobs and hooks that run or report."""

    def __init__(self, slot: int, channel: Channel, home: Home) -> None:
        self._slot, self._channel, self._home = slot, channel, home
        self._runs: dict[int, _Run] = {}
        self._active = 0
        self._drivers: set[asyncio.Task[None]] = set()  # the loop itself holds tasks weakly
        self._restoring = False
        self._waiting: list[Frame] = []
        self._ending = False

    async def serve(self) -> None:
        """Do what comes until the supervisor says that it is over and nothing runs, or until it is gone."""
        loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._channel.fileno(), self._readable)
        try:
            await self._over
        finally:
            loop.remove_reader(self._channel.fileno())

    # ---- frames

    def _readable(self) -> None:
        try:
            frames = self._channel.receive_ready()
            if frames is None:
                self._end()
                return
            for frame in frames:
                self._take(frame)
        except Exception as error:  # noqa: BLE001 - a bug of ours: it ends the child, and is shown there
            self._end(error)

    def _take(self, frame: Frame) -> None:
        if frame.kind == wire.STOP:  # answered at once: so it is known whether a job blocks the loop
            self._channel.send(wire.TOLD, {"run": frame.head["run"]})
        if self._restoring and frame.kind != wire.EXIT:  # what it would start must not be taken for left over
            self._waiting.append(frame)
        else:
            self._do(frame)

    def _do(self, frame: Frame) -> None:
        if frame.kind in _BEGINS:
            if not self._ending:
                self._begin(frame)
        elif frame.kind == wire.STOP:
            run = self._runs.get(frame.head["run"])
            if run is not None:  # else its report is on the way
                run.stop()
        elif frame.kind == wire.EXIT:
            self._ending = True
            self._end_if_idle()
        else:
            raise ProtocolError(f"a child has no use for a frame {frame.kind!r}")

    def _begin(self, frame: Frame) -> None:
        if not self._active:
            self._home.begin()
        self._active += 1
        if frame.kind == wire.JOB:
            run = self._runs[frame.head["run"]] = _Run()
            self._show(frame.head)
            self._drive(self._job(run, frame))
        else:
            self._drive(self._hook(frame))

    def _drive(self, work: Coroutine[Any, Any, None]) -> None:
        driver = asyncio.get_running_loop().create_task(work)
        self._drivers.add(driver)
        driver.add_done_callback(self._driven)

    def _driven(self, driver: asyncio.Task[None]) -> None:
        self._drivers.discard(driver)
        if driver.cancelled():  # its job will not be reported: all end, run alone, and the one that did it is found
            self._end(RuntimeError("a job has cancelled a task that is not its own"))
        elif (error := driver.exception()) is not None:
            self._end(error)

    def _end_if_idle(self) -> None:
        if self._ending and not self._active:
            self._end()

    def _end(self, error: BaseException | None = None) -> None:
        if self._over.done():
            return
        if error is None:
            self._over.set_result(None)
        else:
            self._over.set_exception(error)

    # ---- one job

    async def _job(self, run: _Run, frame: Frame) -> None:
        """Run one job and report it."""
        number = frame.head["run"]
        workdir = self._home.workdir / str(number)
        outcome = await self._attempt(run, frame, workdir)
        await self._leave(run.scope)
        flush()
        usage = {
            "peak_rss_bytes": procfs.peak_rss_bytes(),
            "cpu_s": round(run.scope.cpu_s, 6),
            "wall_s": round(time.monotonic() - run.began_s, 6),
        }
        with contextlib.suppress(OSError):  # not empty: removed below, or by `restore`
            workdir.rmdir()
        del self._runs[number]
        self._active -= 1
        clean = self._clean()
        about = {"run": number, "clean": clean, "usage": usage, "cpu_total_s": round(cpu_s(), 6)}
        self._channel.send(*frame_of(outcome, about))
        await self._after(clean=clean)
        if clean and workdir.exists():
            await asyncio.to_thread(_remove, workdir)

    async def _attempt(self, run: _Run, frame: Frame, workdir: Path) -> Outcome:
        """Return how the job ended. Of one that was to stop only a result counts."""
        outcome = Stopped() if run.stopped else await self._call(run, frame, workdir)
        return outcome if isinstance(outcome, Returned) or not run.stopped else Stopped()

    async def _call(self, run: _Run, frame: Frame, workdir: Path) -> Outcome:
        parts = dict(zip(wire.JOB_PARTS, frame.parts(), strict=True))
        within = run.scope.context.run
        within(records.in_context, records.fields_of(frame.head, parts))
        try:
            os.makedirs(workdir, mode=0o700, exist_ok=True)
        except OSError as error:  # a full disk must not end the other jobs
            return Failed(Failure("exception", f"its workdir cannot be made: {error}"))
        attempt = within(prepare, Place(self._slot, workdir), self._channel, frame.head, parts)
        if not isinstance(attempt, Attempt):
            return attempt
        run.task = run.scope.start(attempt.acall(memory.DataLimit(None)))
        await asyncio.wait({run.task})
        try:
            value = run.task.result()
        except BaseException as error:  # noqa: BLE001 - the job pays, alone
            if run.stopped:  # its backoff strategy is not asked
                attempt.close()
                return Stopped()
            return within(attempt.raised, error.error if isinstance(error, Quit) else error)
        finally:
            run.task = None
        return within(attempt.returned, value)

    # ---- hooks

    async def _hook(self, frame: Frame) -> None:
        """Run a queue's functions for an event."""
        scope = Scope()
        parts = dict(zip(wire.HOOK_PARTS, frame.parts(), strict=True))
        scope.context.run(records.in_context, records.fields_of(frame.head, parts))
        await asyncio.wait({scope.start(hooks.acall(frame.head, parts))})
        await self._leave(scope)
        flush()
        self._active -= 1
        clean = self._clean()
        about = {"run": frame.head["run"], "clean": clean, "cpu_total_s": round(cpu_s(), 6)}
        self._channel.send(wire.HOOKED, about)
        await self._after(clean=clean)

    # ---- what is left behind

    async def _leave(self, scope: Scope) -> None:
        if not await scope.end(LEAVE_S):
            self._home.stays(scope)

    def _clean(self) -> bool:
        """Tell whether nothing is left of what ran.

        While something runs nobody can tell whose the processes and files are, and it is asked later.
        """
        if self._active:
            return not self._home.has_stuck
        return self._home.after_job(procfs.peak_and_anon_bytes()[1])

    async def _after(self, *, clean: bool) -> None:
        """Restore the child where that is needed and nothing runs, then go on with what has come meanwhile."""
        if not self._active:
            setproctitle("heavyq child idle")
            if not clean:
                await self._restore()
        self._end_if_idle()

    async def _restore(self) -> None:
        self._restoring = True
        await self._home.wait_for_tasks()
        removing = self._drivers - {asyncio.current_task()}  # files of jobs that are reported; two must not remove them
        if removing:
            await asyncio.wait(removing, timeout=LEAVE_S)  # not for ever: its threads may be stuck
        self._channel.send(wire.READY, {"whole": self._home.restore()})
        self._restoring = False
        waiting, self._waiting = self._waiting, []
        for frame in waiting:
            self._do(frame)

    def _show(self, head: Mapping[str, Any]) -> None:
        what = head["id"] if len(self._runs) == 1 else f"{len(self._runs)} jobs"
        setproctitle(f"heavyq child {head['queue']} {what}".replace("\0", "?"))


def _remove(workdir: Path) -> None:
    if leftovers.empty(workdir):
        with contextlib.suppress(OSError):
            workdir.rmdir()
