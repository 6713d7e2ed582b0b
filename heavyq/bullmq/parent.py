"""A job's reference to its parent, as BullMQ stores it in the hash (`parent`, `parentKey`) and in the options.

Owns those names and the four flags that say what a child's failure does to its parent. Tolerant in reading: what
makes no sense is no parent. Never decides what a flag does: the scripts keep a parent's books.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from heavyq.bullmq.keys import QueueKey

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FLAGS", "OnFailure", "Parent", "on_failure_of", "read_job_key"]

OnFailure = Literal["fail", "continue", "ignore", "remove"]
"""What the final failure of a child does to its parent.

fail: the parent fails too. continue: it runs at once. ignore: it runs when the others are done, and sees the
reason. remove: the same, and sees nothing. Without one of them it waits until the child is retried or removed.
"""

# In the order in which BullMQ asks for them: the first that is set counts.
FLAGS: Final[dict[OnFailure, str]] = {"fail": "fpof", "continue": "cpof", "ignore": "idof", "remove": "rdof"}
assert tuple(FLAGS) == get_args(OnFailure)

_PARTS: Final = 3  # prefix, queue, id


def read_job_key(key: str) -> tuple[QueueKey, str] | None:
    """Return the queue and the id of a job's full key, cut at its last two colons; None if it is no such key.

    An id with colons (a scheduler's job has two) cannot be told from a prefix with colons: it is cut wrong.
    """
    parts = key.rsplit(":", _PARTS - 1)
    if len(parts) < _PARTS or not all(parts):
        return None
    prefix, name, job_id = parts
    return QueueKey(prefix, name), job_id


def on_failure_of(flags: Mapping[str, Any]) -> OnFailure | None:
    """Return which of the four flags is set, in a `parent` field or in options."""
    return next((word for word, flag in FLAGS.items() if flags.get(flag)), None)


@dataclass(frozen=True, slots=True)
class Parent:
    """The parent of a job. on_failure: what the job's final failure does to it."""

    queue: QueueKey
    id: str
    on_failure: OnFailure | None = None

    @property
    def key(self) -> str:
        """The parent's full key, `<prefix>:<queue>:<id>`."""
        return self.queue.key(self.id)

    @classmethod
    def read_field(cls, raw: bytes | None, key: str | None = None) -> Parent | None:
        """Read a job's `parent` field, or where that says nothing its `parentKey`. Never fails."""
        try:
            stored = json.loads((raw or b"null").decode())
        except (ValueError, RecursionError):
            stored = None
        found = cls._from(stored, "queueKey", on_failure_of(stored)) if isinstance(stored, dict) else None
        if found is None and key and (parts := read_job_key(key)):
            return cls(*parts)
        return found

    @classmethod
    def read_opts(cls, value: Any, on_failure: OnFailure | None = None) -> Parent | None:
        """Read the member `parent` of stored options; the flags stand beside it, not in it."""
        return cls._from(value, "queue", on_failure) if isinstance(value, dict) else None

    @classmethod
    def _from(cls, stored: Mapping[str, Any], queue_member: str, on_failure: OnFailure | None) -> Parent | None:
        queue, job_id = stored.get(queue_member), stored.get("id")
        if not isinstance(queue, str) or not isinstance(job_id, str) or not job_id:
            return None
        prefix, colon, name = queue.rpartition(":")
        return cls(QueueKey(prefix, name), job_id, on_failure) if colon and name else None

    def to_field(self) -> bytes:
        """Return the `parent` field of the child's hash."""
        flag = {FLAGS[self.on_failure]: True} if self.on_failure else {}
        return json.dumps({"id": self.id, "queueKey": str(self.queue), **flag}, separators=(",", ":")).encode()

    def to_opts(self) -> dict[str, str]:
        """Return the member `parent` of the child's options."""
        return {"id": self.id, "queue": str(self.queue)}
