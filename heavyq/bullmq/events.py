"""A queue's event stream: what an entry tells about a job's life.

Owns the names of events and of their fields. Reads no stream: `queue.outcomes` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


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
