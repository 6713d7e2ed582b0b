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

    @property
    def marker(self) -> str:
        """The key on which an idle worker blocks."""
        return self.key("marker")

    @property
    def events(self) -> str:
        """The stream that tells what happened to the queue's jobs."""
        return self.key("events")


def queues_pattern(prefix: str) -> str:
    """Return the glob that matches the `meta` key of every queue below a prefix."""
    literal = "".join(f"\\{char}" if char in "*?[]^\\" else char for char in prefix)
    return f"{literal}:*:meta"


def queue_of_meta(prefix: str, key: str) -> QueueKey | None:
    """Return the queue whose `meta` key this is, or None.

    A name with a colon is no queue's: a scheduler's job, or another feature's (`<prefix>::relay:..`).
    """
    name = key.removeprefix(f"{prefix}:").removesuffix(":meta")
    return QueueKey(prefix, name) if name and ":" not in name else None


def worker_client_name(queue: QueueKey, worker: str | None) -> str:
    """Return the connection name by which BullMQ lists a queue's workers."""
    base = f"{queue.prefix}:{base64.b64encode(queue.name.encode()).decode()}"
    return f"{base}:w:{worker}" if worker else base
