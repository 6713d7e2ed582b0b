"""change_delay: a delayed job comes due at another moment. Its script is change_delay.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import DUE_MS_MAX, meta, to_bytes
from heavyq.bullmq.ops.replies import read_done
from heavyq.errors import BadValue

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey


def change_delay(q: QueueKey, job_id: str, *, delay_ms: int, now_ms: int) -> Op[None]:
    """Let a delayed job come due `delay_ms` from now. Raises NoSuchJob, and WrongState if it is not delayed."""
    if not 0 <= delay_ms <= DUE_MS_MAX - now_ms:
        raise BadValue(f"a delay of {delay_ms} ms: from 0 on, and due before September 2039")
    return Op(
        verb="change_delay",
        keys=meta(q),
        args=(to_bytes(job_id), now_ms, delay_ms),
        read=read_done(job_id, "delay"),
        replayable=True,
    )
