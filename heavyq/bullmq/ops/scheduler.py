"""scheduler: one job scheduler. Its script is scheduler.lua."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from heavyq.bullmq.job_hash import fields_of
from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, to_bytes
from heavyq.bullmq.ops.schedulers import Scheduler

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def scheduler(q: QueueKey, scheduler_id: str) -> Op[Scheduler | None]:
    """Read one scheduler; None: there is none of that id."""
    return Op(
        verb="scheduler",
        keys=meta(q),
        args=(to_bytes(scheduler_id),),
        read=partial(_read, scheduler_id),
        replayable=True,
    )


def _read(scheduler_id: str, reply: Any) -> Scheduler | None:
    return None if reply is None else Scheduler.read(scheduler_id, reply[0], fields_of(reply[1]))
