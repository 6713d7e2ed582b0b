"""emit: an event of one's own in the queue's stream. Its script is emit.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, to_bytes, to_text
from heavyq.errors import UsageError

EVENTS_KEPT: Final = 1000  # BullMQ's default for producers of custom events

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heavyq.bullmq.keys import QueueKey


# BullMQ's own events: one that is not what its readers expect ends them for good.
_BULLMQS: Final = frozenset(
    {
        *("active", "added", "cleaned", "completed", "debounced", "deduplicated", "delayed", "drained", "duplicated"),
        *("error", "failed", "paused", "progress", "removed", "resumed", "retries-exhausted", "stalled", "waiting"),
        "waiting-children",
    }
)


def emit(q: QueueKey, event: str, fields: Mapping[str, str], events_kept: int = EVENTS_KEPT) -> Op[str]:
    """Write an event that readers get under its name, BullMQ's QueueEvents too; return its id in the stream.

    fields: what it tells, as text. events_kept: about how many events, of every kind, stay.
    Raises UsageError for a name of BullMQ's own, and for a field called "event".
    """
    if not event or event in _BULLMQS:
        raise UsageError(f'an event of one\'s own cannot be called "{event}"')
    if "event" in fields:
        raise UsageError('a field of an event cannot be called "event": that is its name')
    flat = (to_bytes(part) for pair in fields.items() for part in pair)
    return Op(verb="emit", keys=meta(q), args=(events_kept, to_bytes(event), *flat), read=_read, replayable=False)


def _read(reply: Any) -> str:
    return to_text(reply)
