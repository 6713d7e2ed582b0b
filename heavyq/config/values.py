"""Values that options take and that are no plain number: `Keep`, `fixed()`, `exponential()`.

Owns how users write them. How they look on the wire is `heavyq.bullmq.options`' business.
"""

from __future__ import annotations

from dataclasses import dataclass

from heavyq.bullmq import options as wire
from heavyq.config.units import Duration, parse_duration
from heavyq.errors import BadValue


@dataclass(frozen=True, slots=True)
class Keep:
    """How many finished jobs stay readable in a queue.

    count: the newest that many; None is no limit by number. age: as long as that (whole seconds on the wire,
    rounded up); None is for ever. limit: at most so many are removed when one job finishes.
    """

    count: int | None = None
    age: Duration | None = None
    limit: int = 1000

    def __post_init__(self) -> None:
        if self.count is None and self.age is None:
            raise BadValue("Keep() keeps everything: give count= or age=, or write remove_on_complete=False")
        if self.count is not None and (isinstance(self.count, bool) or self.count < 0):
            raise BadValue(f"Keep(count={self.count!r}): a number of jobs, 0 or more")
        if isinstance(self.limit, bool) or self.limit < 1:
            raise BadValue(f"Keep(limit={self.limit!r}): at least 1")
        if self.age is not None:
            try:
                parse_duration(self.age)
            except BadValue as error:
                raise BadValue(f"Keep(age=...): {error}") from None


def keep_on_wire(value: bool | int | Keep) -> wire.Keep:
    """Return BullMQ's form of remove_on_*: True keeps none, False keeps all, n keeps the newest n."""
    if isinstance(value, bool):
        return wire.Keep(count=0 if value else -1)
    if isinstance(value, int):
        return wire.Keep(count=value)
    age_s = None if value.age is None else -int(-parse_duration(value.age) // 1)
    return wire.Keep(count=-1 if value.count is None else value.count, age_s=age_s, limit=value.limit)


def fixed(delay: Duration, *, jitter: float = 0.0) -> wire.Backoff:
    """Wait the same time before every retry.

    delay: the time. jitter: 0 to 1, the part of it that is drawn at random (0.5: between half of it and all).
    """
    return _backoff("fixed", delay, jitter)


def exponential(delay: Duration, *, jitter: float = 0.0) -> wire.Backoff:
    """Wait twice as long before each further retry.

    delay: before the first retry. jitter: 0 to 1, the part of each wait that is drawn at random.
    """
    return _backoff("exponential", delay, jitter)


def _backoff(kind: str, delay: Duration, jitter: float) -> wire.Backoff:
    try:
        delay_ms = round(parse_duration(delay) * 1000)
    except BadValue as error:
        raise BadValue(f"{kind}({delay!r}): {error}") from None
    if isinstance(jitter, bool) or not 0 <= jitter <= 1:
        raise BadValue(f"{kind}(jitter={jitter!r}): 0 to 1")
    return wire.Backoff(kind, delay_ms, float(jitter))
