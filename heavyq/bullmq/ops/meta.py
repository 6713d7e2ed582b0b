"""meta: a queue's settings. Its script is meta.lua."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from heavyq.bullmq.job_hash import fields_of, parse_int
from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta as meta_key
from heavyq.bullmq.ops.common import to_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heavyq.bullmq.keys import QueueKey


_KNOWN: Final = frozenset({b"paused", b"concurrency", b"max", b"duration", b"opts.maxLenEvents", b"version"})


@dataclass(frozen=True, slots=True)
class Meta:
    """What holds for workers of every kind.

    paused: nothing is leased. concurrency: jobs in work, all together. rate: jobs started in a window, and its ms.
    events_kept: about how many events stay. version: of the Node BullMQ that opened the queue last. None: not set.
    others: further fields, as they are.
    """

    paused: bool
    concurrency: int | None
    rate: tuple[int, int] | None
    events_kept: int | None
    version: str | None
    others: Mapping[str, str]


def meta(q: QueueKey) -> Op[Meta]:
    """Read a queue's settings. A queue that does not exist has none."""
    return Op(verb="meta", keys=meta_key(q), args=(), read=_read, replayable=True)


def _read(reply: Any) -> Meta:
    fields = fields_of(reply)

    def number(name: bytes) -> int | None:
        return parse_int(fields[name]) if name in fields else None

    most, window_ms = number(b"max"), number(b"duration")
    return Meta(
        paused=b"paused" in fields,
        concurrency=number(b"concurrency"),
        rate=None if most is None or window_ms is None else (most, window_ms),
        events_kept=number(b"opts.maxLenEvents"),
        version=to_text(fields[b"version"]) if b"version" in fields else None,
        others={to_text(name): to_text(value) for name, value in fields.items() if name not in _KNOWN},
    )
