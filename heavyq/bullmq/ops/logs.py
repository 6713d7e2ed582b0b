"""logs: rows of a job's log. Its script is logs.lua."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, to_bytes

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


@dataclass(frozen=True, slots=True)
class LogPage:
    """rows: oldest first. total: how many rows the log has now."""

    rows: tuple[str, ...]
    total: int


def logs(q: QueueKey, job_id: str, *, start: int = 0, stop: int = -1) -> Op[LogPage]:
    """Read rows `start` to `stop` of a job's log, both included; -1 is the last one.

    A job without a log, or no job at all, has none.
    """
    return Op(verb="logs", keys=meta(q), args=(to_bytes(job_id), start, stop), read=_read, replayable=True)


def _read(reply: Any) -> LogPage:
    rows, total = reply
    return LogPage(tuple(row.decode("utf-8", "replace") for row in rows), total)
