"""close_flow: after all adds of a flow, let a parent run that has nothing to wait for. Its script is close_flow.lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, read_written, to_bytes

if TYPE_CHECKING:
    from heavyq.bullmq.parent import Parent


def close_flow(parent: Parent, *, now_ms: int) -> Op[bool]:
    """Release one parent of a flow if all its children had ended before; once for each parent, after all adds.

    Returns whether it was released. Does nothing to a parent of which a child belongs to another one.
    now_ms: the base of the parent's own delay, if it has one. Not to be repeated: what another's child is, it tells
    once.
    """
    return Op(
        verb="close_flow",
        keys=meta(parent.queue),
        args=(to_bytes(parent.id), now_ms),
        read=read_written,
        replayable=False,
    )
