"""obliterate: the queue goes, with all that is in it. Its script is obliterate.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta
from heavyq.errors import ProtocolError, WrongState

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def obliterate(q: QueueKey, *, force: bool) -> Op[bool]:
    """Remove up to 1,000 of a paused queue's jobs, and when none is left the queue's own keys. True: call again.

    force: jobs in work go too; their workers notice at their next write.
    Raises WrongState if the queue is not paused, or without `force` has jobs in work: nothing was removed.
    """
    return Op(verb="obliterate", keys=meta(q), args=(int(force),), read=_read, replayable=True)


def _read(reply: Any) -> bool:
    match reply:
        case b"running":
            raise WrongState("", "running", "only a paused queue can be obliterated")
        case b"active":
            raise WrongState("", "active", "jobs of the queue are in work: wait for them, or use force")
        case b"more" | b"over":
            return bool(reply == b"more")
    raise ProtocolError(f"the obliterate script replied {reply!r:.200}")
