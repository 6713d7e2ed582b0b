"""metrics: how many jobs ended, minute by minute. Its script is metrics.lua."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from heavyq.bullmq.job_hash import parse_int
from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


@dataclass(frozen=True, slots=True)
class Metrics:
    """count: jobs that ended so, ever. prev_ms, prev_count: when the last full minute was booked, and the count then.

    data: jobs of each minute, the newest first. points: how many minutes are kept in all.
    """

    count: int
    prev_ms: int
    prev_count: int
    data: tuple[int, ...]
    points: int


def metrics(q: QueueKey, which: Literal["completed", "failed"], start: int = 0, end: int = -1) -> Op[Metrics]:
    """Read the metrics of one outcome, the minutes from `start` to `end` (both included, -1: the oldest).

    They are booked by workers whose metrics are on; all is 0 where there is none.
    """
    return Op(verb="metrics", keys=meta(q), args=(which, start, end), read=_read, replayable=True)


def _read(reply: Any) -> Metrics:
    count, prev_ms, prev_count, data, points = reply
    return Metrics(
        parse_int(count), parse_int(prev_ms), parse_int(prev_count), tuple(parse_int(each) for each in data), points
    )
