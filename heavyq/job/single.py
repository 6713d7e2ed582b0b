"""The life of a child of one seat between its birth and its end: one job at a time, in its main thread.

Owns the order of one run: function, report, clean-up. No thread of ours is here, and no loop unless a job is async.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from setproctitle import setproctitle

from heavyq.errors import ProtocolError
from heavyq.job import hooks, memory, records, wire
from heavyq.job.attempt import Attempt, Place, prepare
from heavyq.job.home import Home, Runs, cpu_s, flush
from heavyq.job.report import Outcome, frame_of
from heavyq.linux import procfs

if TYPE_CHECKING:
    from heavyq.job.channel import Channel
    from heavyq.linux.frames import Frame


class Single:
    """Takes jobs from the channel, one after the other."""

    def __init__(self, slot: int, channel: Channel, home: Home) -> None:
        self._place = Place(slot, home.workdir)
        self._channel, self._home = channel, home

    def serve(self) -> None:
        """Do what comes until the supervisor says that it is over, or is gone."""
        while (frame := self._channel.receive()) is not None and frame.kind != wire.EXIT:
            self._home.begin()
            match frame.kind:
                case wire.JOB:
                    clean = self._run(frame)
                case wire.HOOK:
                    clean = self._hook(frame)
                case wire.STOP:  # a job of ours is not stopped, it is killed
                    continue
                case _:
                    raise ProtocolError(f"a child has no use for a frame {frame.kind!r}")
            setproctitle("heavyq child idle")
            if not clean:
                self._channel.send(wire.READY, {"whole": self._restore()})

    def _run(self, frame: Frame) -> bool:
        """Run one job and report it. Return whether it left nothing."""
        head = frame.head
        setproctitle(f"heavyq child {head['queue']} {head['id']}".replace("\0", "?"))
        began_s, cpu_before_s = time.monotonic(), cpu_s()
        limit = memory.DataLimit(head.get("memory_rlimit"))
        outcome = self._attempt(frame, limit)
        flush()
        cpu_now_s = cpu_s()
        peak_bytes, held_bytes = procfs.peak_and_anon_bytes()
        usage = {
            "peak_rss_bytes": peak_bytes,
            "cpu_s": round(cpu_now_s - cpu_before_s, 6),
            "wall_s": round(time.monotonic() - began_s, 6),
        }
        # From here to the report nothing may raise: the job is done.
        # The supervisor looks for leaks when it has the report. A limit that stays is left over, too.
        clean = self._home.after_job(held_bytes, worn=limit.stuck)
        about = {"run": head["run"], "clean": clean, "usage": usage, "cpu_total_s": round(cpu_now_s, 6)}
        self._channel.send(*frame_of(outcome, about))
        return clean

    def _attempt(self, frame: Frame, limit: memory.DataLimit) -> Outcome:
        parts = dict(zip(wire.JOB_PARTS, frame.parts(), strict=True))
        with records.in_process(records.fields_of(frame.head, parts)):
            attempt = prepare(self._place, self._channel, frame.head, parts)
            if not isinstance(attempt, Attempt):
                return attempt
            runs = Runs(self._home)
            outcome = attempt.call(runs, limit)
            runs.end()
            return outcome

    def _hook(self, frame: Frame) -> bool:
        """Run a queue's functions for an event; return whether they left nothing."""
        setproctitle(f"heavyq child {frame.head['queue']} {frame.head['event']} {frame.head['id']}".replace("\0", "?"))
        parts = dict(zip(wire.HOOK_PARTS, frame.parts(), strict=True))
        with records.in_process(records.fields_of(frame.head, parts)):
            runs = Runs(self._home)
            hooks.call(frame.head, parts, runs)
            runs.end()
        flush()
        clean = self._home.after_job(procfs.peak_and_anon_bytes()[1])
        about = {"run": frame.head["run"], "clean": clean, "cpu_total_s": round(cpu_s(), 6)}
        self._channel.send(wire.HOOKED, about)
        return clean

    def _restore(self) -> bool:
        if self._home.loop.made is not None:
            self._home.loop.made.run(self._home.wait_for_tasks())
        return self._home.restore()
