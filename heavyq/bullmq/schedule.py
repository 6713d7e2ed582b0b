"""When a job scheduler's jobs are due, and what a worker owes a scheduler whose job it has leased. Pure.

Owns the reading of a schedule and the choice of a pattern's next moments (a period's are chosen by the scripts).
Never talks to Redis: `duty_of` returns the operation that does. The cron engine and the zones are imported when the
first pattern is read: a producer without one does not pay for them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from heavyq.errors import BadValue, Unreadable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heavyq.bullmq.keys import QueueKey
    from heavyq.bullmq.op import Op

__all__ = ["PATTERN_SLOTS", "Repeat", "duty_of", "next_cron_ms", "pattern_moments", "read_number"]

PATTERN_SLOTS: Final = 4  # moments of a pattern that a script may try: one may have a job already
_MOMENT_MS_MAX: Final = 2**53 // 4096 - 1  # what `delayed` can hold: September 2039
_NUMBER_MAX: Final = 2**53
# What an iteration's options get anew each time.
_OF_ITERATION: Final = frozenset({"delay", "jobId", "prevMillis", "repeat", "repeatJobKey", "timestamp"})


@dataclass(frozen=True, slots=True)
class Repeat:
    """When a scheduler makes its jobs: every so many ms, or by a cron pattern.

    every_ms: the period. pattern: cron, 5 fields, or 6 with seconds first. tz: the pattern's zone, an IANA name;
    None: this machine's. limit: how many jobs it makes at most, counted from here on. start_ms, end_ms: none before,
    none after (epoch ms). offset_ms: a period's jobs are due so long after its multiples since 1970; 0: none.
    immediately: a pattern's first job is due now (a period's is, unless start or offset say otherwise).
    """

    every_ms: int | None = None
    pattern: str | None = None
    tz: str | None = None
    limit: int | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    offset_ms: int | None = None
    immediately: bool = False

    def to_opts(self, count: int) -> dict[str, Any]:
        """Return `opts.repeat` of the scheduler's `count`-th job."""
        members = {
            "count": count,
            "every": self.every_ms,
            "pattern": self.pattern,
            "tz": self.tz,
            "limit": self.limit,
            "startDate": self.start_ms,
            "endDate": self.end_ms,
            "offset": self.offset_ms or None,
        }
        return {name: value for name, value in members.items() if value is not None}


def next_cron_ms(pattern: str, tz: str | None, after_ms: int) -> int:
    """Return the first moment after `after_ms` that a cron pattern names (see `cron` and `wall_clock`).

    Raises BadValue for a pattern or a zone that makes no sense, and for one that names no moment.
    """
    from heavyq.bullmq.cron import read_cron
    from heavyq.bullmq.wall_clock import local_clock, next_ms

    found = next_ms(read_cron(pattern), local_clock(tz), after_ms)
    if found is None:
        raise BadValue(f'cron "{pattern}" names no day that comes: change its day or its month')
    return found


def pattern_moments(pattern: str, tz: str | None, after_ms: int, end_ms: int | None) -> tuple[int, ...]:
    """Return the next moments that a pattern names, as many as are tried and none after `end_ms`. Raises BadValue."""
    last_ms = _MOMENT_MS_MAX if end_ms is None else min(end_ms, _MOMENT_MS_MAX)
    moments: list[int] = []
    while len(moments) < PATTERN_SLOTS:
        after_ms = next_cron_ms(pattern, tz, after_ms)
        if after_ms > last_ms:
            break
        moments.append(after_ms)
    return tuple(moments)


def duty_of(fields: Mapping[bytes, bytes], job_id: str, now_ms: int, q: QueueKey) -> Op[str | None] | None:
    """Return the operation that plans a scheduler's next job; it is to be run before the leased job is.

    fields: the leased job's hash. None: nothing to plan (no scheduler's job, or its limit or end is reached). The
    operation's result is the next job's id, None if none was planned; running it twice does no harm.
    Raises Unreadable, and nothing else, for a schedule that heavyq cannot follow (opts that are no JSON, a pattern
    of a custom strategy, an unknown zone): log it, and run the job all the same.
    """
    if b"rjk" not in fields:
        return None
    from heavyq.bullmq.ops.common import to_text
    from heavyq.bullmq.ops.next_iteration import next_iteration

    opts = _object(fields.get(b"opts", b""))
    repeat = opts.get("repeat")
    if not isinstance(repeat, dict):
        raise Unreadable("opts.repeat", "a scheduler's job must say how it repeats")
    count, limit, end_ms = (read_number(repeat.get("count")) or 0) + 1, read_number(repeat.get("limit")), _end(repeat)
    if (limit is not None and count > limit) or (end_ms is not None and now_ms > end_ms):
        return None
    every_ms = _every(repeat)
    moments: tuple[int, ...] = ()
    if every_ms is None:
        moments = _moments(repeat, max(now_ms, read_number(opts.get("prevMillis")) or 0), end_ms)
        if not moments:
            return None
    scheduler_id = to_text(fields[b"rjk"])
    kept = {name: value for name, value in opts.items() if name not in _OF_ITERATION}
    following = {"attempts": 0, **kept, "repeat": {**repeat, "count": count}, "repeatJobKey": scheduler_id}
    return next_iteration(
        q,
        job_id=job_id,
        scheduler_id=scheduler_id,
        opts={**following, "timestamp": now_ms},
        now_ms=now_ms,
        every_ms=every_ms,
        end_ms=end_ms,
        moments=moments,
    )


def _every(repeat: Mapping[str, Any]) -> int | None:
    """Return the period; None: the schedule is a pattern's."""
    pattern = repeat.get("pattern")
    if isinstance(pattern, str) and pattern:
        return None
    every_ms = read_number(repeat.get("every"))
    if every_ms is None or every_ms < 1:
        raise Unreadable("opts.repeat", "neither a period (every) nor a cron pattern: a custom strategy's, perhaps")
    return every_ms


def _moments(repeat: Mapping[str, Any], after_ms: int, end_ms: int | None) -> tuple[int, ...]:
    tz = repeat.get("tz")
    start_ms = _moment(repeat.get("startDate")) or 0
    try:
        return pattern_moments(
            repeat["pattern"], tz if isinstance(tz, str) and tz else None, max(after_ms, start_ms), end_ms
        )
    except BadValue as error:
        raise Unreadable("opts.repeat.pattern", str(error)) from None


def _end(repeat: Mapping[str, Any]) -> int | None:
    return _moment(repeat.get("endDate"))


def _moment(value: Any) -> int | None:
    """Return a moment in ms; BullMQ 5's repeatable jobs may hold it as ISO text."""
    number = read_number(value)
    if number is not None or not isinstance(value, str):
        return number
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return int(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def read_number(value: Any) -> int | None:
    """Return a number, or a text that is one, as a whole number; None for anything else."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return int(min(max(value, -_NUMBER_MAX), _NUMBER_MAX))


def _object(raw: bytes) -> dict[str, Any]:
    try:
        opts = json.loads(raw.decode())
        json.dumps(opts, allow_nan=False)  # it goes back as it came: 1e999 and NaN would not
    except (ValueError, RecursionError) as error:
        raise Unreadable("opts", f"no JSON: {error}") from None
    if not isinstance(opts, dict):
        raise Unreadable("opts", "a JSON object is expected")
    return opts
