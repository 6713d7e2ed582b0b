"""What the worker's log says of runs: one line when one is odd at its beginning, and one at its end.

Owns these words and the fields that name a run. Decides nothing.
"""

from __future__ import annotations

from typing import Any, assert_never

import structlog

from heavyq.core import run as life
from heavyq.worker.runs import Run


def about(run: Run) -> dict[str, Any]:
    """Return the fields that name a run in the log."""
    return {"queue": run.queue.name, "job": run.job.lease.job_id, "attempt": run.facts.made + 1}


class Notes:
    """The log, as control writes it."""

    def __init__(self) -> None:
        self._log = structlog.get_logger().bind(thread="control")

    def begin(self, run: Run) -> None:
        """A job was leased: say so only if it cannot be run."""
        if run.facts.unreadable:
            self._log.error("job is unreadable", **about(run), why=run.facts.unreadable.detail)

    def end(self, run: Run, settlement: life.Settlement) -> None:
        """Say how it ended."""
        fields = about(run)
        match settlement:
            case life.Complete():
                self._log.info("completed", **fields, wall_s=settlement.usage.wall_s)
            case life.Fail():
                self._log.error("failed", **fields, reason=settlement.failure.reason, why=settlement.failure.detail)
            case life.RetryNow() | life.RetryLater():
                delay_ms = settlement.delay_ms if isinstance(settlement, life.RetryLater) else 0
                self._log.warning(
                    "failed, will be retried",
                    **fields,
                    reason=settlement.failure.reason,
                    why=settlement.failure.detail,
                    delay_s=delay_ms / 1000,
                )
            case life.Strike():
                self._log.warning(
                    "died of memory, will be run again",
                    **fields,
                    reason=settlement.failure.reason,
                    why=settlement.failure.detail,
                    strikes=settlement.strikes,
                )
            case life.HandBack() if settlement.limit_ms is not None:
                self._log.info("met a rate limit, will be run again", **fields, after_s=settlement.limit_ms / 1000)
            case life.HandBack() if settlement.strikes is not None:
                self._log.warning("its child died beside other jobs: will be run again, alone", **fields)
            case life.HandBack():
                self._log.warning("handed back", **fields)
            case life.Snooze():
                self._log.info("snoozed", **fields, delay_s=settlement.delay_ms / 1000)
            case life.WaitForChildren():
                self._log.info("waits for its children", **fields)
            case _:
                assert_never(settlement)
