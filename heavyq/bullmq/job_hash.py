"""A job's hash as BullMQ and heavyq store it, read into plain data.

Owns the names and encodings of its fields. Tolerant: anybody may have written them, so whatever makes no sense
reads as absent, as in Node. Never parses a payload: data, progress, result and checkpoint stay bytes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from heavyq.bullmq.options import WireOptions
from heavyq.bullmq.parent import Parent
from heavyq.errors import Unreadable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "CHECKPOINT",
    "PARENT",
    "PARENT_KEY",
    "RETURNVALUE",
    "STRIKES",
    "JobRecord",
    "Unreadable",
    "append_trace",
    "attempts_made",
    "fields_of",
    "parse_int",
    "strikes",
]

PARENT: Final = b"parent"
PARENT_KEY: Final = b"parentKey"
RETURNVALUE: Final = b"returnvalue"
CHECKPOINT: Final = "hq:checkpoint"
STRIKES: Final = "hq:strikes"
_STRIKES = STRIKES.encode()
STRIKES_COUNTED: Final = 1000  # more says nothing more: the budget is a handful
_LEADING_INT: Final = re.compile(rb"[ \t\n\r\v\f]*([+-]?)([0-9]+)")
_INT_MAX: Final = 2**53
_INT_DIGITS: Final = 16
_MOMENT_MAX_MS: Final = 253_402_300_799_999  # the end of the year 9999, where calendars end


def parse_int(raw: bytes | None) -> int:
    """Return the leading whole number of a text, as JavaScript's parseInt reads it; 0 if there is none.

    Beyond 2**53, where JavaScript's numbers have gaps, it is 2**53.
    """
    found = _LEADING_INT.match(raw or b"")
    if not found:
        return 0
    digits = found[2].lstrip(b"0") or b"0"
    size = _INT_MAX if len(digits) > _INT_DIGITS else min(int(digits), _INT_MAX)
    return -size if found[1] == b"-" else size


def fields_of(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return a hash as a script replies it: field, value, field, value."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job, as last read.

    state: BullMQ's word for where it is; None if that was not asked. data, progress, returnvalue, checkpoint:
    JSON text as stored. delay_ms: no sign of being delayed (`state` is). attempts_made and attempts_started:
    BullMQ's `atm` and `ats`. deferred_failure: the job is to be failed with this text. cancel_reason: its
    worker is to stop it. parent: the job that waits, or waited, for this one; parent_key: its key, as stored.
    failure, usage: what heavyq wrote about the latest run, None if that was another worker's. Moments: epoch ms.
    """

    id: str
    name: str
    data: bytes
    opts: WireOptions
    timestamp_ms: int
    delay_ms: int
    priority: int
    processed_on_ms: int | None
    finished_on_ms: int | None
    attempts_made: int
    attempts_started: int
    stalled_count: int
    progress: bytes | None
    returnvalue: bytes | None
    failed_reason: str | None
    stacktrace: tuple[str, ...]
    deferred_failure: str | None
    cancel_reason: str | None
    parent_key: str | None
    parent: Parent | None
    scheduler_id: str | None
    dedup_id: str | None
    worker_name: str | None
    failure: dict[str, Any] | None
    usage: dict[str, Any] | None
    checkpoint: bytes | None
    state: str | None = None

    @property
    def telemetry(self) -> str | None:
        """The propagation context that the producer gave the job, opaque."""
        return self.opts.telemetry

    @classmethod
    def read(cls, job_id: str, fields: Mapping[bytes, bytes], state: str | None = None) -> JobRecord:
        """Read a hash. Never fails."""
        started = parse_int(fields.get(b"ats"))
        return cls(
            id=job_id,
            name=_text(fields, b"name") or "",
            data=fields.get(b"data") or b"{}",
            opts=_opts(fields),
            timestamp_ms=_moment(fields, b"timestamp") or 0,
            delay_ms=parse_int(fields.get(b"delay")),
            priority=parse_int(fields.get(b"priority")),
            processed_on_ms=_moment(fields, b"processedOn"),
            finished_on_ms=_moment(fields, b"finishedOn"),
            attempts_made=attempts_made(fields),
            attempts_started=started,
            stalled_count=parse_int(fields.get(b"stc")),
            progress=fields.get(b"progress"),
            returnvalue=fields.get(RETURNVALUE),
            failed_reason=_text(fields, b"failedReason"),
            stacktrace=tuple(_traces(fields.get(b"stacktrace"))),
            deferred_failure=_text(fields, b"defa"),
            cancel_reason=_text(fields, b"hq:cancel"),
            parent_key=_text(fields, PARENT_KEY),
            parent=Parent.read_field(fields.get(PARENT), _text(fields, PARENT_KEY)),
            scheduler_id=_text(fields, b"rjk"),
            dedup_id=_text(fields, b"deid"),
            worker_name=_text(fields, b"pb"),
            failure=_of_run(fields.get(b"hq:failure"), started),
            usage=_of_run(fields.get(b"hq:usage"), started),
            checkpoint=fields.get(CHECKPOINT.encode()),
            state=state,
        )


def attempts_made(fields: Mapping[bytes, bytes]) -> int:
    """Return how many attempts were made. Very old data has a name of its own for it."""
    return parse_int(fields.get(b"attemptsMade", fields.get(b"atm")))


def strikes(fields: Mapping[bytes, bytes]) -> int:
    """Return how often the job died of its memory since it last ended, 0 to STRIKES_COUNTED."""
    told = fields.get(_STRIKES)
    return 0 if told is None else min(max(parse_int(told), 0), STRIKES_COUNTED)


def append_trace(raw: bytes | None, trace: str, limit: int | None) -> bytes:
    """Return the `stacktrace` field with one more trace at its end, and at most the last `limit` of them."""
    traces = [*_traces(raw), trace]
    kept = traces if limit is None else traces[len(traces) - min(limit, len(traces)) :]
    return json.dumps(kept).encode()  # escaped: a lone surrogate must not make the field unwritable


def _text(fields: Mapping[bytes, bytes], name: bytes) -> str | None:
    raw = fields.get(name)
    return None if raw is None else raw.decode("utf-8", "replace")


def _moment(fields: Mapping[bytes, bytes], name: bytes) -> int | None:
    ms = parse_int(fields.get(name))
    return ms if name in fields and 0 <= ms <= _MOMENT_MAX_MS else None


def _opts(fields: Mapping[bytes, bytes]) -> WireOptions:
    try:
        return WireOptions.read(fields.get(b"opts", b""))
    except Unreadable:
        return WireOptions()


def _traces(raw: bytes | None) -> list[str]:
    traces = _json(raw)
    return [trace for trace in traces if isinstance(trace, str)] if isinstance(traces, list) else []


def _of_run(raw: bytes | None, started: int) -> dict[str, Any] | None:
    """Return what was written about the run that started last; another run's says nothing about this one."""
    value = _json(raw)
    if not isinstance(value, dict) or value.pop("ats", None) != started:
        return None
    return value


def _json(raw: bytes | None) -> Any:
    try:
        return json.loads((raw or b"null").decode())
    except (ValueError, RecursionError):
        return None
