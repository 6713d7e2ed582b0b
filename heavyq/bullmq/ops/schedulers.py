"""schedulers: some of a queue's job schedulers, in the order in which they are due. Its script is schedulers.lua."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heavyq.bullmq.job_hash import fields_of, parse_int
from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, to_text
from heavyq.bullmq.ops.page import PAGE_MAX
from heavyq.bullmq.options import WireOptions
from heavyq.bullmq.schedule import read_number
from heavyq.errors import Unreadable, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heavyq.bullmq.keys import QueueKey


@dataclass(frozen=True, slots=True)
class Scheduler:
    """One job scheduler, as last read.

    every_ms, pattern, tz, limit, start_ms, end_ms, offset_ms: as in `Repeat`. next_ms: when its next job is due.
    iteration_count: how many jobs it has planned; None: a repeatable job of BullMQ 5 before its first run.
    data: JSON text of its jobs' payload, None if they have none. opts: the options of its jobs.
    job_id: its next job's.
    """

    id: str
    name: str
    every_ms: int | None
    pattern: str | None
    tz: str | None
    limit: int | None
    start_ms: int | None
    end_ms: int | None
    offset_ms: int | None
    next_ms: int
    iteration_count: int | None
    data: bytes | None
    opts: WireOptions
    job_id: str

    @classmethod
    def read(cls, scheduler_id: str, score: bytes, fields: Mapping[bytes, bytes]) -> Scheduler:
        """Read a scheduler's hash. Never fails: what makes no sense reads as absent."""
        try:
            opts = WireOptions.read(fields.get(b"opts", b""))
        except Unreadable:
            opts = WireOptions()
        return cls(
            id=scheduler_id,
            name=to_text(fields.get(b"name", b"")),
            every_ms=_number(fields, b"every"),
            pattern=_text(fields, b"pattern"),
            tz=_text(fields, b"tz"),
            limit=_number(fields, b"limit"),
            start_ms=_number(fields, b"startDate"),
            end_ms=_number(fields, b"endDate"),
            offset_ms=_number(fields, b"offset"),
            next_ms=parse_int(score),
            iteration_count=_number(fields, b"ic"),
            data=fields.get(b"data"),
            opts=opts,
            job_id=f"repeat:{scheduler_id}:{to_text(score)}",
        )


def schedulers(q: QueueKey, *, offset: int, limit: int, newest_first: bool = False) -> Op[tuple[Scheduler, ...]]:
    """Read schedulers, `limit` of them (0..1000) from the `offset`-th on; the next due one first.

    newest_first: the one that is due last first, as BullMQ's getter does by default.
    """
    if offset < 0 or not 0 <= limit <= PAGE_MAX:
        raise UsageError(f"offset {offset}, limit {limit}: from 0 on, at most {PAGE_MAX} schedulers at once")
    return Op(verb="schedulers", keys=meta(q), args=(offset, limit, int(newest_first)), read=_read, replayable=True)


def _read(reply: Any) -> tuple[Scheduler, ...]:
    return tuple(Scheduler.read(to_text(one), score, fields_of(flat)) for one, score, flat in reply)


def _text(fields: Mapping[bytes, bytes], name: bytes) -> str | None:
    return to_text(fields[name]) if name in fields else None


def _number(fields: Mapping[bytes, bytes], name: bytes) -> int | None:
    return read_number(_text(fields, name))
