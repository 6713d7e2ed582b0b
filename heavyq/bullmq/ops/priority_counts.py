"""priority_counts: how many jobs wait with each of some priorities. Its script is priority_counts.lua."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heavyq.bullmq.keys import QueueKey


def priority_counts(q: QueueKey, priorities: Sequence[int]) -> Op[dict[int, int]]:
    """Count the jobs that wait with each of the given priorities; 0: those without one."""
    return Op(
        verb="priority_counts",
        keys=meta(q),
        args=tuple(priorities),
        read=partial(_read, tuple(priorities)),
        replayable=True,
    )


def _read(priorities: tuple[int, ...], reply: Any) -> dict[int, int]:
    return dict(zip(priorities, reply, strict=True))
