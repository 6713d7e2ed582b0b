"""lease: take the next job and lock it. Its script is lease.lua."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from heavyq.bullmq.lease import Lease, LeasedJob, LeaseRefused, LeaseReply, NothingToLease
from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import NOTHING, meta, to_text
from heavyq.errors import ProtocolError

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def lease(
    q: QueueKey,
    *,
    token: str,
    now_ms: int,
    lock_ms: int,
    worker_name: str | None,
    replay: bool = False,
    limiter: tuple[int, int] | None = None,
) -> Op[LeaseReply]:
    """Promote the delayed jobs that are due, then take the next job.

    token: the lock's value, a new one for every lease. lock_ms: the lock's time to live, by the server's clock.
    replay: the reply to a first call with this token was lost; the job that it took is returned, if it took one.
    limiter: jobs that may start per window, by all workers of the queue, and the window in ms; the queue's own
    global limit goes before the first number.
    Safe to repeat with `replay`, and only so.
    """
    if not token or token == "0":  # noqa: S105 - BullMQ's word for "no lock"
        raise ProtocolError(f"{token!r} is no token")
    return Op(
        verb="lease",
        keys=meta(q),
        args=(token, now_ms, lock_ms, worker_name or NOTHING, int(replay), *(limiter or (NOTHING, NOTHING))),
        read=partial(_read, q, token),
        replayable=True,
    )


def _read(q: QueueKey, token: str, reply: Any) -> LeaseReply:
    match reply:
        case [b"job", job_id, flat]:
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            return LeasedJob(
                Lease(
                    queue=q,
                    job_id=to_text(job_id),
                    token=token,
                    fence=int(fields[b"hq:fence"]),
                    started=int(fields[b"ats"]),
                    processed_on_ms=int(fields[b"processedOn"]),
                ),
                fields,
            )
        case [b"nothing", due_ms]:
            return NothingToLease(int(due_ms) if due_ms else None)
        case [b"refused", wait_ms]:
            return LeaseRefused(wait_ms)
    raise ProtocolError(f"the lease script replied {reply!r:.200}")
