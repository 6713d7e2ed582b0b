"""What a run cost, and what the memory of its child is worth as evidence of how it ended.

Owns the measuring of a run from its start in a child to its report, the leak ledger, and what is added to a failure:
peaks, limits, the kernel's counters. Decides no outcome and stops nothing. Called by control, on the loop.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

import structlog

from heavyq.config import QueueSettings
from heavyq.core import memory
from heavyq.core.child import AskExit, Ready
from heavyq.core.outcome import Failure, OomKill, Usage, with_kill_below, with_memory
from heavyq.linux.clock import monotonic_s
from heavyq.worker.crew import Crew
from heavyq.worker.deaths import Death
from heavyq.worker.ledger import Ledger, told
from heavyq.worker.meter import RunMeter
from heavyq.worker.oom import OomRises
from heavyq.worker.process import ChildProcess
from heavyq.worker.runs import Run
from heavyq.worker.watch import Watch


class Accounts:
    """The books of one worker's runs."""

    def __init__(self, watch: Watch, rises: OomRises) -> None:
        self._watch, self._rises = watch, rises
        self._ledger = Ledger()
        self._log = structlog.get_logger().bind(thread="control")

    def open(self, run: Run, child: ChildProcess, settings: QueueSettings, limit_bytes: int | None) -> None:
        """The run begins in this child: measure it, and tell the kernel its limit where the child has a group.

        Jobs that share a child are measured together, from the first of them to the last: its memory is one.
        """
        run.began_s = monotonic_s()
        run.kills_before = child.group.oom_kills() if child.group is not None else 0
        if child.meter is not None and child.meter.run is not None:
            run.meter = child.meter.run
            run.meter.sharing += 1
            return
        left = child.meter.held_bytes if child.meter else 0
        run.meter = RunMeter(run.number, monotonic_s(), limit_bytes, settings.memory_request, left_bytes=max(0, left))
        if child.group is not None:
            child.group_kills, child.group_hits = child.group.oom_kills(), child.group.limit_hits()
            birth = child.meter.birth_bytes if child.meter else 0
            limit = memory.group_limit_bytes(limit_bytes, birth) if limit_bytes else None
            if limit != child.group_limit:
                with contextlib.suppress(OSError):  # it is dying
                    child.group.set_limit(limit)
                    child.group_limit = limit
        if child.meter is not None:
            self._watch.begin(child.meter, run.meter)

    def close(self, run: Run, child: ChildProcess, crew: Crew, *, clean: bool) -> None:
        """The run has reported: let the child's life go on or end, and note what the run left in it."""
        if child.meter is None:  # it could not be measured and is killed for that
            crew.run_over(child, run.number, 0, clean=clean)
            return
        if run.meter is not None:
            run.meter.sharing -= 1
            if not run.meter.sharing:
                child.meter.run = None
        if (
            isinstance(child.state, Ready) and len(child.state.runs) > 1
        ):  # whose it is, nobody can tell; that it is much
            crew.run_over(child, run.number, child.meter.own_bytes(), clean=clean)
            return
        name = run.job.fields.get(b"name", b"").decode("utf-8", "replace")[:200]
        own = child.meter.own_bytes()
        grown = own - child.meter.held_bytes
        child.meter.held_bytes = own
        leak = self._ledger.note(run.queue.name, name, grown)
        for action in crew.run_over(child, run.number, own, clean=clean):
            if isinstance(action, AskExit) and action.leaked:
                leak.recycled += 1
                about = {"child": child.number, "queue": run.queue.name, "job_name": name}
                self._log.info("child recycled", why=action.why, **about, **told(leak))

    def container_is_full(self) -> bool:
        """Tell whether the container's use was at its mark when it was last looked at."""
        return self._watch.full

    def tell_leaks(self) -> None:
        """Put the ledger in the log: the worker ends."""
        for line in self._ledger.leaks():
            self._log.info("leak ledger", **line)

    def measured(self, run: Run, usage: Usage) -> Usage:
        """Add what the watch has seen to what the child tells of itself."""
        if run.meter is None:
            return usage
        peak = max(usage.peak_rss_bytes, run.meter.peak_rss_bytes)
        return Usage(peak, usage.cpu_s, usage.wall_s, run.meter.timeline.points())

    def cause(self, run: Run, child: ChildProcess, death: Death) -> Failure:
        """Return the death of a child with what is known of its memory."""
        if run.meter is None or child.meter is None:
            return death.failure
        seen = run.meter.seen()
        if death.failure.reason == "oom_killed":  # between two looks it may have grown by gigabytes
            seen = replace(seen, peak_bytes=max(seen.peak_bytes, death.max_rss_bytes - child.meter.birth_bytes))
        # A kernel kill for the container's limit raises the count of kills in the child's own group too.
        own = child.group is not None and child.group.limit_hits() > child.group_hits
        return with_memory(death.failure, seen, run.meter.limit_bytes, child.group_limit if own else None)

    def cause_told(self, run: Run, child: ChildProcess, failure: Failure) -> Failure:
        """Return what the job failed with, and whether the kernel killed something for memory while it ran."""
        kill = self._kill_during(run, child)
        return with_kill_below(failure, kill) if kill else failure

    def _kill_during(self, run: Run, child: ChildProcess) -> OomKill | None:
        if child.group is not None:
            now, alone = child.group.oom_kills(), child.seats == 1 or run.alone  # else it may have been another job's
            kill = OomKill(f"oom_kill of {child.group.path}", run.kills_before, now, own=alone)
            return kill if now > run.kills_before else None
        return self._rises.since(run.began_s, monotonic_s())
