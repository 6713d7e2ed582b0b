"""remove: one job goes, and with it its children. Its script is remove.lua."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, to_bytes
from heavyq.errors import ProtocolError, WrongState

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def remove(q: QueueKey, job_id: str, *, children: bool = True, now_ms: int) -> Op[bool | None]:
    """Remove a job from wherever it is. Its parent, if that waits for nothing else now, is released.

    children: its children go first, theirs before them. Returns True if there is no such job (now, or before too);
    False if a worker has it, or with `children` one of those that are not over: nothing was removed then; None if
    1,000 descendants were removed and there are more: call again.
    Raises WrongState ("scheduled") for a scheduler's next job: nothing was removed.
    """
    return Op(
        verb="remove",
        keys=meta(q),
        args=(to_bytes(job_id), now_ms, int(children)),
        read=partial(_read, job_id),
        replayable=True,
    )


def _read(job_id: str, reply: Any) -> bool | None:
    match reply:
        case b"removed":
            return True
        case b"locked":
            return False
        case b"more":
            return None
        case b"scheduled":
            why = f"job {job_id} is its scheduler's next one: remove the scheduler"
            raise WrongState(job_id, "scheduled", why)
    raise ProtocolError(f"the remove script replied {reply!r:.200}")
