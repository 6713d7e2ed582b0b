"""A queue's event stream: what an entry tells about a job's life.

Owns the names of events and of their fields. Reads no stream: `queue.outcomes` does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

# What an event's field holds, where it is not text. Other fields, and those of events that we do not know, are text.
_JSON: Final = frozenset({("completed", "returnvalue"), ("progress", "data")})
_NUMBERS: Final = frozenset({("delayed", "delay"), ("retries-exhausted", "attemptsMade"), ("cleaned", "count")})


@dataclass(frozen=True, slots=True)
class Outcome:
    """completed: value is the result's JSON. Else the job failed for good: value is why, as text."""

    completed: bool
    value: bytes


def job_of(fields: Mapping[str, bytes]) -> str | None:
    """Return the id of the job that an event is about; None if it is about the queue."""
    raw = fields.get("jobId")
    return None if raw is None else raw.decode("utf-8", "replace")


def read_outcome(fields: Mapping[str, bytes]) -> Outcome | None:
    """Return the outcome that an event tells; None for every other event."""
    match fields.get("event"):
        case b"completed":
            return Outcome(completed=True, value=fields.get("returnvalue", b"null"))
        case b"failed":
            return Outcome(completed=False, value=fields.get("failedReason", b""))
        case _:
            return None


def begins_anew(fields: Mapping[str, bytes]) -> bool:
    """Tell whether the job is a new one of its id, or was put back after its end."""
    event = fields.get("event")
    return event == b"added" or (event == b"waiting" and fields.get("prev") in (b"completed", b"failed"))


def removes(fields: Mapping[str, bytes]) -> bool:
    """Tell whether the job was removed by somebody. Many removals (drain, clean, obliterate) tell nobody."""
    return fields.get("event") == b"removed"


def decode(fields: Mapping[str, bytes]) -> tuple[str, str | None, dict[str, Any]]:
    """Return an event's name, the id of the job that it is about, and its further fields, decoded.

    Raises ValueError for what is no event, or has a field that is not what its kind has there.
    """
    name = fields.get("event")
    if name is None:
        raise ValueError("it has no name")
    event = name.decode("utf-8", "replace")
    data = {field: _value(event, field, raw) for field, raw in fields.items() if field not in ("event", "jobId")}
    return event, job_of(fields), data


def _value(event: str, field: str, raw: bytes) -> Any:
    if (event, field) in _JSON:
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            raise ValueError(f"{field} is no JSON") from None
    text = raw.decode("utf-8", "replace")
    if (event, field) in _NUMBERS:
        try:
            return int(float(text))
        except (ValueError, OverflowError):
            raise ValueError(f"{field} is no number") from None
    return text
