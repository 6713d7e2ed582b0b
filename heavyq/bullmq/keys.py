"""The names of a queue's keys in Redis. The only place (with the Lua files) where key literals stand."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Final

# Names of a queue's own structures, of heavyq's and of those BullMQ had once: a job's id may be none of them.
RESERVED_IDS: Final = frozenset(
    {
        "active",
        "completed",
        "delayed",
        "events",
        "failed",
        "id",
        "limiter",
        "marker",
        "meta",
        "paused",
        "pc",
        "prioritized",
        "priority",
        "repeat",
        "stalled",
        "stalled-check",
        "wait",
        "waiting-children",
    }
)


def why_not_an_id(job_id: str) -> str | None:
    """Return why a job may not be given this id, or None if it may. BullMQ's rules, and no reserved name."""
    if not job_id:
        return "an id cannot be empty"
    if ":" in job_id:
        return 'an id cannot contain ":"'
    if job_id.removeprefix("-").isdecimal() and str(int(job_id)) == job_id:
        return "an id cannot be an integer: BullMQ numbers its own jobs so"
    if job_id in RESERVED_IDS:
        return "the queue keeps a key of its own under that name"
    return None


@dataclass(frozen=True, slots=True, order=True)
class QueueKey:
    """A queue's qualified name. `str()` gives `<prefix>:<name>`, as in parent references."""

    prefix: str
    name: str

    def __str__(self) -> str:
        return f"{self.prefix}:{self.name}"

    def key(self, suffix: str) -> str:
        """Return the key of one structure (`wait`, `meta`, ...) or of a job (its id)."""
        return f"{self.prefix}:{self.name}:{suffix}"


def worker_client_name(queue: QueueKey, worker: str | None) -> str:
    """Return the connection name by which BullMQ lists a queue's workers."""
    base = f"{queue.prefix}:{base64.b64encode(queue.name.encode()).decode()}"
    return f"{base}:w:{worker}" if worker else base
