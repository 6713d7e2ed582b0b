"""reprocess: a job that is over waits again. Its script is reprocess.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, to_bytes
from heavyq.bullmq.ops.replies import read_done

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def reprocess(
    q: QueueKey, job_id: str, *, state: Literal["failed", "completed"], reset_attempts: bool = False
) -> Op[None]:
    """Put a finished job back among those that wait, by its priority. Its parent counts on it again.

    state: where the job is. reset_attempts: the attempts of its options are all there again; else it has what is
    left of them, at least one.
    Raises NoSuchJob, and WrongState if it is not there.
    """
    return Op(
        verb="reprocess",
        keys=meta(q),
        args=(to_bytes(job_id), state, int(reset_attempts)),
        read=read_done(job_id, f"run again as {state}"),
        replayable=False,
    )
