"""One job as the shell shows it: as a JSON document, and as lines for people.

Owns the names of `heavyq job --json`, which are a contract. Reads records; asks nothing of Redis.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from heavyq.cli import say
from heavyq.core.outcome import evidence_in_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heavyq.bullmq.job_hash import JobRecord

_LINE_MAX = 2000


def as_json(queue: str, record: JobRecord) -> dict[str, Any]:
    """Return a job, whole, in plain JSON. Moments are ISO 8601."""
    return {
        "id": record.id,
        "queue": queue,
        "name": record.name,
        "state": record.state,
        "data": say.decoded(record.data),
        "result": say.decoded(record.returnvalue),
        "progress": say.decoded(record.progress),
        "attempts_made": record.attempts_made,
        "attempts_started": record.attempts_started,
        "stalled_count": record.stalled_count,
        "timestamp": say.moment(record.timestamp_ms),
        "processed_on": say.moment(record.processed_on_ms),
        "finished_on": say.moment(record.finished_on_ms),
        "failed_reason": record.failed_reason,
        "stacktrace": list(record.stacktrace),
        "parent": record.parent_key,
        "checkpoint": say.decoded(record.checkpoint),
        "usage": record.usage,
        "failure": record.failure,
    }


def lines(queue: str, record: JobRecord) -> Iterator[tuple[str, str]]:
    """Yield what a person wants to know of a job, as pairs; what is not set is left out."""
    shown = as_json(queue, record)
    usage, failure = shown.pop("usage") or {}, shown.pop("failure") or {}
    traces = shown.pop("stacktrace")
    for name, value in shown.items():
        if value is not None and not (name == "stalled_count" and value == 0):
            yield (
                name.replace("_", " "),
                value if isinstance(value, str) else _cut(json.dumps(value, ensure_ascii=False)),
            )
    yield from _failure(failure)
    if usage:
        yield "usage", ", ".join(_usage(usage))
    for row in failure.get("last_logs") or ():
        yield "last log", _cut(str(row))
    if failure.get("stack"):
        yield "stack", str(failure["stack"])
    elif traces:
        yield "stack trace", traces[-1]


def duration_s(record: JobRecord) -> float | None:
    """Return how long the last run took, None if it has not ended."""
    if record.processed_on_ms is None or record.finished_on_ms is None:
        return None
    return max(0, record.finished_on_ms - record.processed_on_ms) / 1000


def why(record: JobRecord) -> str:
    """Return in a few words why a job failed; nothing for one that did not."""
    if record.failed_reason is None:
        return ""
    reason = (record.failure or {}).get("reason")
    text = " ".join(record.failed_reason.split())
    return f"{reason}: {text}" if reason else text


def _failure(failure: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("reason", "detail", "signal", "last_progress"):
        if failure.get(name) is not None:
            yield f"failure {name.replace('_', ' ')}", _cut(str(failure[name]))
    if isinstance(evidence := failure.get("evidence"), dict):
        for name, value in evidence_in_words(evidence):
            yield f"evidence {name.replace('_', ' ')}", _cut(value)


def _usage(usage: dict[str, Any]) -> Iterator[str]:
    for name, word in (("wall_s", "wall"), ("cpu_s", "CPU")):
        if isinstance(usage.get(name), (int, float)):
            yield f"{usage[name]:.2f} s {word}"
    if isinstance(usage.get("peak_rss_bytes"), int):
        yield f"{usage['peak_rss_bytes'] / 1024**2:.0f}Mi peak memory"


def _cut(text: str) -> str:
    return text if len(text) <= _LINE_MAX else f"{text[:_LINE_MAX]} ... ({len(text)} characters; --json has all)"
