"""find: one job, and where it is. Its script is find.lua."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from heavyq.bullmq.job_hash import JobRecord, fields_of
from heavyq.bullmq.keys import RESERVED_IDS
from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, to_bytes, to_text

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def find(q: QueueKey, job_id: str) -> Op[JobRecord | None]:
    """Read one job with its state; None if the queue has none of that id.

    The state is `unknown` for a job that lies in none of the queue's lists and sets.
    """
    return Op(verb="find", keys=meta(q), args=(to_bytes(job_id),), read=partial(_read, job_id), replayable=True)


def _read(job_id: str, reply: Any) -> JobRecord | None:
    if not reply:
        return None
    state, flat = reply
    fields = fields_of(flat)
    # A hash of the queue's own (`meta`, a scheduler's `repeat:<id>`) lies in no list and was created by no add.
    if state == b"unknown" and (job_id in RESERVED_IDS or b"timestamp" not in fields):
        return None
    return JobRecord.read(job_id, fields, to_text(state))
