"""cancel: end a job that waits, or have one that runs stopped. Its script is cancel.lua."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import keep_args, meta, to_bytes
from heavyq.core.outcome import cancelled
from heavyq.errors import ProtocolError, WrongState

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey
    from heavyq.bullmq.options import Keep

Cancelled = Literal["failed", "asked", "over", "gone"]
"""What a cancel did.

failed: the job waited, and has failed now. asked: it is with a worker, who is told at its next renewal (a worker of
BullMQ's is not). over: it had ended. gone: there is no such job.
"""

_CANCELLED: Final = frozenset(get_args(Cancelled))


def cancel(q: QueueKey, job_id: str, *, reason: str, now_ms: int, keep: Keep) -> Op[Cancelled]:
    """Fail a job that waits, wherever it does, and tell its parent; ask for the stop of one that runs.

    reason: text, may be empty. keep: how many failed jobs stay, as the job's options say.
    Raises WrongState ("scheduled") for the next run of a scheduler: all later runs hang on it.
    """
    failure = cancelled(reason)
    ats = b'{"ats": 0, '
    told = failure.to_json(0)
    if not told.startswith(ats):
        raise ProtocolError(f"hq:failure does not begin with its ats: {told!r:.60}")
    return Op(
        verb="cancel",
        keys=meta(q),
        args=(to_bytes(job_id), now_ms, failure.detail, *keep_args(keep), told.removeprefix(ats), reason),
        read=partial(_read, job_id),
        replayable=True,
    )


def _read(job_id: str, reply: Any) -> Cancelled:
    word = reply.decode("ascii", "replace") if isinstance(reply, bytes) else reply
    if word == "scheduled":
        raise WrongState(job_id, word, f"job {job_id!r} is its scheduler's next run: remove the scheduler instead")
    if word not in _CANCELLED:
        raise ProtocolError(f"the cancel script replied {reply!r}")
    return cast("Cancelled", word)
