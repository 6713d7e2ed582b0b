"""change_priority: a job waits at another place. Its script is change_priority.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, to_bytes
from heavyq.bullmq.ops.replies import read_done
from heavyq.errors import BadValue

PRIORITY_MAX: Final = 2**21 - 1

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def change_priority(q: QueueKey, job_id: str, *, priority: int, lifo: bool = False) -> Op[None]:
    """Give a job another priority; one that waits takes its place by it at once, behind the others there.

    priority: 1 runs first; 0: none, which runs before all that have one. lifo: before the others there.
    Raises NoSuchJob.
    """
    if not 0 <= priority <= PRIORITY_MAX:
        raise BadValue(f"a priority of {priority}: 0 to {PRIORITY_MAX}")
    return Op(
        verb="change_priority",
        keys=meta(q),
        args=(to_bytes(job_id), priority, int(lifo)),
        read=read_done(job_id, "change the priority of"),
        replayable=True,
    )
