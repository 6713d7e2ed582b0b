"""A job's options as BullMQ stores them: the `opts` JSON, read and written.

Owns the camelCase and the short names; the rest of heavyq never sees them. Never decides what an option does:
`core.retry` and the scripts do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from heavyq.bullmq.dedup import Dedup
from heavyq.bullmq.parent import FLAGS, OnFailure, Parent, on_failure_of
from heavyq.core.retry import Backoff
from heavyq.errors import Unreadable

__all__ = ["Backoff", "Dedup", "Keep", "OnFailure", "Parent", "WireOptions", "pack_options"]

_NUMBER_MAX: Final = 2**53  # beyond it readers in JavaScript see another number
_LIMIT: Final = 1000
# Keys that have a field of their own in WireOptions; all others are kept as they are.
_READ: Final = frozenset(
    {
        "attempts",
        "backoff",
        "de",
        "delay",
        "hq",
        "jobId",
        "kl",
        "lifo",
        "omc",
        "parent",
        "priority",
        "removeOnComplete",
        "removeOnFail",
        "repeat",
        "sizeLimit",
        "stackTraceLimit",
        "timestamp",
        "tm",
        *FLAGS.values(),
    }
)


@dataclass(frozen=True, slots=True)
class Keep:
    """How many finished jobs stay.

    count: the newest that many; -1 all, 0 none. age_s: none older than that; None any age. limit: how many the
    age rule removes in one finish.
    """

    count: int = -1
    age_s: int | None = None
    limit: int = _LIMIT


KEEP_ALL: Final = Keep()


@dataclass(frozen=True, slots=True)
class WireOptions:
    """The options a job carries. None: the producer said nothing.

    attempts: runs allowed; 0 and 1 both mean one. keep_logs: rows; stack_trace_limit: traces (0: none).
    on_failure: what the job's final failure does to its parent. repeat: what its scheduler says, as stored.
    telemetry: opaque text; omit_context: the producer wants no context of it in the run.
    timeout_ms, progress_timeout_ms, memory_limit_bytes: heavyq's own, in the member `hq`; BullMQ carries them along.
    unknown: every other key as it was stored.
    """

    attempts: int = 0
    backoff: Backoff | None = None
    priority: int = 0
    delay_ms: int = 0
    lifo: bool = False
    remove_on_complete: Keep | None = None
    remove_on_fail: Keep | None = None
    keep_logs: int | None = None
    stack_trace_limit: int | None = None
    size_limit: int | None = None
    job_id: str | None = None
    timestamp_ms: int | None = None
    dedup: Dedup | None = None
    parent: Parent | None = None
    on_failure: OnFailure | None = None
    repeat: Mapping[str, Any] | None = None
    telemetry: str | None = None
    omit_context: bool = False
    timeout_ms: int | None = None
    progress_timeout_ms: int | None = None
    memory_limit_bytes: int | None = None
    unknown: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, raw: bytes) -> WireOptions:
        """Read stored options; nothing at all reads as none, and numbers may stand as text, as in Node.

        Raises Unreadable if it is no JSON object, or if a value that a worker acts on makes no sense. Values
        that only the producer or a script acts on (priority, delay, timestamp, jobId, sizeLimit, parent, de and
        their like) are dropped in that case.
        """
        opts = _object(raw)
        own = _own(opts)
        on_failure = on_failure_of(opts)
        return cls(
            attempts=_whole(opts, "attempts") or 0,
            backoff=_backoff(opts.get("backoff")),
            priority=_loose(opts.get("priority")) or 0,
            delay_ms=_loose(opts.get("delay")) or 0,
            lifo=bool(opts.get("lifo")),
            remove_on_complete=_keep(opts, "removeOnComplete"),
            remove_on_fail=_keep(opts, "removeOnFail"),
            keep_logs=_at_least(1, _whole(opts, "kl")),
            stack_trace_limit=_at_least(0, _whole(opts, "stackTraceLimit")),
            size_limit=_loose(opts.get("sizeLimit")),
            job_id=job_id if isinstance(job_id := opts.get("jobId"), str) else None,
            timestamp_ms=_loose(opts.get("timestamp")),
            dedup=Dedup.read(opts.get("de")),
            parent=Parent.read_opts(opts.get("parent"), on_failure),
            on_failure=on_failure,
            repeat=repeat if isinstance(repeat := opts.get("repeat"), dict) else None,
            telemetry=telemetry if isinstance(telemetry := opts.get("tm"), str) else None,
            omit_context=bool(opts.get("omc")),
            timeout_ms=_at_least(1, _whole(own, "timeout", "opts.hq")),
            progress_timeout_ms=_at_least(1, _whole(own, "progressTimeout", "opts.hq")),
            memory_limit_bytes=_at_least(1, _whole(own, "memoryLimit", "opts.hq")),
            unknown={name: value for name, value in opts.items() if name not in _READ},
        )


def pack_options(
    *,
    attempts: int = 0,
    backoff: Backoff | None = None,
    priority: int = 0,
    delay_ms: int = 0,
    lifo: bool = False,
    remove_on_complete: Keep | None = None,
    remove_on_fail: Keep | None = None,
    keep_logs: int | None = None,
    stack_trace_limit: int | None = None,
    size_limit: int | None = None,
    job_id: str | None = None,
    timestamp_ms: int | None = None,
    dedup: Dedup | None = None,
    parent: Parent | None = None,
    on_failure: OnFailure | None = None,
    repeat: Mapping[str, Any] | None = None,
    telemetry: str | None = None,
    omit_context: bool = False,
    timeout_ms: int | None = None,
    progress_timeout_ms: int | None = None,
    memory_limit_bytes: int | None = None,
) -> bytes:
    """Return the JSON that a BullMQ producer would store for these options; what is not set is left out.

    on_failure: if it is not given, the parent's counts.
    """
    flag = on_failure or (parent and parent.on_failure)
    own = {"timeout": timeout_ms, "progressTimeout": progress_timeout_ms, "memoryLimit": memory_limit_bytes}
    own = {name: value for name, value in own.items() if value is not None}
    stored: dict[str, Any] = {
        "attempts": attempts,
        "backoff": _pack_backoff(backoff) if backoff else None,
        "delay": delay_ms or None,
        "jobId": job_id,
        "kl": keep_logs,
        "lifo": lifo or None,
        "priority": priority or None,
        "removeOnComplete": _pack_keep(remove_on_complete) if remove_on_complete else None,
        "removeOnFail": _pack_keep(remove_on_fail) if remove_on_fail else None,
        "sizeLimit": size_limit,
        "stackTraceLimit": stack_trace_limit,
        "timestamp": timestamp_ms,
        "de": dedup.to_opts() if dedup else None,
        "parent": parent.to_opts() if parent else None,
        "repeat": repeat,
        "tm": telemetry,
        "omc": omit_context or None,
        "hq": own or None,
    }
    if flag:
        stored[FLAGS[flag]] = True
    given = {name: value for name, value in stored.items() if value is not None}
    return json.dumps(given, allow_nan=False, separators=(",", ":")).encode()


def _pack_backoff(backoff: Backoff) -> dict[str, Any]:
    jitter = {"jitter": backoff.jitter} if backoff.jitter else {}
    return {"type": backoff.type, "delay": backoff.delay_ms, **jitter}


def _pack_keep(keep: Keep) -> bool | int | dict[str, int]:
    """Prefer the short forms: every reader knows them."""
    if keep.age_s is None:
        return keep.count if keep.count > 0 else keep.count == 0
    count = {"count": keep.count} if keep.count >= 0 else {}
    return {**count, "age": keep.age_s, "limit": keep.limit}


def _object(raw: bytes) -> dict[str, Any]:
    if not raw:
        return {}
    try:
        opts = json.loads(raw.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Unreadable("opts", f"no JSON: {error}") from None
    if not isinstance(opts, dict):
        raise Unreadable("opts", f"a JSON object is expected, not {_shown(opts)}")
    return opts


def _own(opts: Mapping[str, Any]) -> dict[str, Any]:
    """Return heavyq's own options."""
    own = opts.get("hq")
    if own is None:
        return {}
    if not isinstance(own, dict):
        raise Unreadable("opts.hq", f"a JSON object is expected, not {_shown(own)}")
    return own


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _loose(value: Any) -> int | None:
    """Return a number, or a text that is one, as a whole number; None for anything else."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if not isinstance(value, int | float) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return int(min(max(value, -_NUMBER_MAX), _NUMBER_MAX))


def _whole(opts: Mapping[str, Any], name: str, within: str = "opts") -> int | None:
    value = opts.get(name)
    if value is None:
        return None
    number = _loose(value)
    if number is None:
        raise Unreadable(f"{within}.{name}", f"a number is expected, not {_shown(value)}")
    return number


def _at_least(least: int, number: int | None) -> int | None:
    """Return the number, None where BullMQ would take it for no limit."""
    return number if number is not None and number >= least else None


def _backoff(value: Any) -> Backoff | None:
    if value is None or value is False:
        return None
    if isinstance(value, dict):
        jitter = value.get("jitter")
        share = min(max(jitter, 0), 1) if isinstance(jitter, int | float) else 0
        kind = value.get("type")
        # A type that is missing stays empty: no strategy has that name, so the job is not retried, and told so.
        return Backoff(
            kind if isinstance(kind, str) else "",
            _whole(value, "delay", "opts.backoff") or 0,
            float(share),
        )
    delay_ms = _loose(value)
    if delay_ms is not None:
        return Backoff("fixed", delay_ms)
    if isinstance(value, str):
        return Backoff(value, 0)
    raise Unreadable("opts.backoff", f"a number or an object is expected, not {_shown(value)}")


def _keep(opts: Mapping[str, Any], name: str) -> Keep | None:
    value = opts.get(name)
    if value is None:
        return None
    if isinstance(value, bool):
        return Keep(0 if value else -1)
    if isinstance(value, dict):
        within = f"opts.{name}"
        count, age_s = _whole(value, "count", within), _whole(value, "age", within)
        limit = _whole(value, "limit", within)
        return Keep(
            -1 if count is None else max(count, -1),
            None if age_s is None else max(age_s, 0),
            max(limit or _LIMIT, 1),
        )
    count = _loose(value)
    if count is None:
        raise Unreadable(f"opts.{name}", f"a yes or no, a number or an object is expected, not {_shown(value)}")
    return Keep(max(count, -1))


def _shown(value: Any) -> str:
    """Return a value for a message, in one short line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - a line's share
