"""Values that options take and that are no plain number: `Keep`, `Rate`, `Dedup`, and the backoffs.

Owns how users write them. How they look on the wire is `heavyq.bullmq.options`' business.
"""

from __future__ import annotations

import re
from dataclasses import KW_ONLY, dataclass
from typing import Final

from heavyq.bullmq import dedup as wire_dedup
from heavyq.bullmq import options as wire
from heavyq.config.arguments import text, whole
from heavyq.config.units import Duration, format_duration, parse_duration
from heavyq.errors import BadValue

_COUNT_MAX: Final = 10**9
_MS_MIN: Final = 0.001
_SECONDS_MAX: Final = 365 * 86400.0
_RATE: Final = re.compile(r"\s*(\d{1,10})\s*(?:/|per\s)\s*(\d.*?|ms|s|m|h|d|w)\s*")


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
        whole(self.count, "Keep(): count", optional=True)
        whole(self.limit, "Keep(): limit", 1)
        if self.age is not None:
            try:
                parse_duration(self.age)
            except BadValue as error:
                raise BadValue(f"Keep(age=...): {error}") from None


@dataclass(frozen=True, slots=True, eq=False)
class Rate:
    """At most `count` jobs start in each time of `per`. Two are equal if they mean the same.

    count: 1 or more. per: a duration, of whole milliseconds.
    """

    count: int
    per: Duration

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int) or not 1 <= self.count <= _COUNT_MAX:
            raise BadValue(f"Rate({self.count!r}, ...): a number of jobs, 1 or more")
        try:
            per_s = parse_duration(self.per)
        except BadValue as error:
            raise BadValue(f"Rate(per=...): {error}") from None
        if not _MS_MIN <= per_s <= _SECONDS_MAX:
            raise BadValue(f"Rate(per={self.per!r}): 1ms to {format_duration(_SECONDS_MAX)}")

    @property
    def per_ms(self) -> int:
        """The time, in milliseconds."""
        return round(parse_duration(self.per) * 1000)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rate) and (self.count, self.per_ms) == (other.count, other.per_ms)

    def __hash__(self) -> int:
        return hash((self.count, self.per_ms))

    def __str__(self) -> str:
        return f"{self.count}/{format_duration(self.per_ms / 1000)}"

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read a rate as it is written outside of Python: `10/1s`, `100/m`. Raises BadValue."""
        match = _RATE.fullmatch(text)
        if match is None:
            raise BadValue(f"{text!r} is no rate: write a number of jobs per time, such as 10/1s or 100/m")
        return cls(int(match[1]), match[2] if match[2][0].isdigit() else f"1{match[2]}")


@dataclass(frozen=True, slots=True)
class Dedup:
    """At most one job of this id at a time: an add of another is refused, and answers with the one that is there.

    ttl: only for so long, whether that job has ended or not; without it, until that job has ended. extend: each
    refused add starts the time anew. replace: a job that is still delayed gives way to the new one.
    keep_last_if_active: while the job runs, the last that was refused is kept and added at its end; no ttl counts then.
    reschedule: a job that is still delayed takes over the delay of the refused add.
    """

    id: str
    _: KW_ONLY
    ttl: Duration | None = None
    extend: bool = False
    replace: bool = False
    keep_last_if_active: bool = False
    reschedule: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id:
            raise BadValue(f"Dedup({self.id!r}): the id is a text, and not empty")
        for name in ("extend", "replace", "keep_last_if_active", "reschedule"):
            if not isinstance(getattr(self, name), bool):
                raise BadValue(f"Dedup({name}={getattr(self, name)!r}): neither true nor false")
        if self.ttl is None:
            return
        try:
            ttl_s = parse_duration(self.ttl)
        except BadValue as error:
            raise BadValue(f"Dedup(ttl=...): {error}") from None
        if not _MS_MIN <= ttl_s <= _SECONDS_MAX:
            raise BadValue(f"Dedup(ttl={self.ttl!r}): 1ms to {format_duration(_SECONDS_MAX)}")


def dedup_on_wire(value: Dedup) -> wire_dedup.Dedup:
    """Return BullMQ's form of a deduplication."""
    return wire_dedup.Dedup(
        id=value.id,
        ttl_ms=None if value.ttl is None else round(parse_duration(value.ttl) * 1000),
        extend=value.extend,
        replace=value.replace,
        keep_last_if_active=value.keep_last_if_active,
        reschedule=value.reschedule,
    )


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


def custom(kind: str, *, delay: Duration = 1, jitter: float = 0.0) -> wire.Backoff:
    """Wait as the queue's `@backoff_strategy` says.

    kind: BullMQ's custom type, which it is called with. delay: where it cannot be asked, for the job's process was
    killed. jitter: 0 to 1, the part of that delay that is drawn at random.
    """
    text(kind, "custom(): the type")
    if not kind:
        raise BadValue("custom(): the type cannot be empty: write the one that @backoff_strategy is to be called with")
    return _backoff(kind, delay, jitter)


def _backoff(kind: str, delay: Duration, jitter: float) -> wire.Backoff:
    try:
        delay_ms = round(parse_duration(delay) * 1000)
    except BadValue as error:
        raise BadValue(f"{kind}({delay!r}): {error}") from None
    if isinstance(jitter, bool) or not isinstance(jitter, (int, float)) or not 0 <= jitter <= 1:
        raise BadValue(f"{kind}(jitter={jitter!r}): 0 to 1")
    return wire.Backoff(kind, delay_ms, float(jitter))
