"""add_log: a row for the log of any job. Its script is add_log.lua."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import NOTHING, meta, to_bytes
from heavyq.errors import NoSuchJob

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def add_log(q: QueueKey, job_id: str, row: str, *, keep: int | None) -> Op[int]:
    """Append a row to a job's log, wherever the job is; return how many rows the log has then.

    keep: how many rows stay, the newest; None: all. Raises NoSuchJob. Not safe to repeat: the row would stand there
    twice. (A lease's holder writes by `log`.)
    """
    return Op(
        verb="add_log",
        keys=meta(q),
        args=(to_bytes(job_id), to_bytes(row), NOTHING if keep is None else keep),
        read=partial(_read, job_id),
        replayable=False,
    )


def _read(job_id: str, reply: Any) -> int:
    if reply == -1:
        raise NoSuchJob(f"there is no job {job_id}")
    return int(reply)
