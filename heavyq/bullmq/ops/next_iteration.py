"""next_iteration: plan the job of a scheduler that follows the leased one. Its script is next_iteration.lua."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.add import PRIORITY_MAX
from heavyq.bullmq.ops.common import NOTHING, meta, to_bytes, to_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from heavyq.bullmq.keys import QueueKey


def next_iteration(
    q: QueueKey,
    *,
    job_id: str,
    scheduler_id: str,
    opts: Mapping[str, Any],
    now_ms: int,
    every_ms: int | None,
    end_ms: int | None,
    moments: Sequence[int],
) -> Op[str | None]:
    """Plan a scheduler's next job. `schedule.duty_of` makes this call from the leased job's hash.

    opts: the next job's options under their stored names, without jobId, delay and prevMillis. every_ms: the leased
    job's period (the scheduler's own goes before it); None: by pattern, and `moments` are its next ones.
    The result is the next job's id; None: none was planned, because another worker had done so or the scheduler is
    gone or has ended.
    """
    return Op(
        verb="next_iteration",
        keys=meta(q),
        args=(
            to_bytes(job_id),
            to_bytes(scheduler_id),
            text_inside_json(scheduler_id),
            now_ms,
            json.dumps(opts, allow_nan=False, separators=(",", ":")).encode(),
            *placing_args(opts),
            _dedup_id(opts),
            NOTHING if every_ms is None else every_ms,
            NOTHING if end_ms is None else end_ms,
            *moments,
        ),
        read=_read,
        replayable=True,
    )


def text_inside_json(text: str) -> str:
    """Return a text as it stands between the quotes of a JSON string."""
    return json.dumps(text)[1:-1]


def placing_args(opts: Mapping[str, Any]) -> tuple[int, int]:
    """Return what the options say of where a job waits: its priority and whether it runs next."""
    priority = opts.get("priority")
    if not isinstance(priority, int | float) or not 0 <= priority <= PRIORITY_MAX:
        priority = 0
    return int(priority), int(opts.get("lifo") is True)


def _dedup_id(opts: Mapping[str, Any]) -> bytes:
    dedup = opts.get("de")
    dedup_id = dedup.get("id") if isinstance(dedup, dict) else None
    return dedup_id.encode("utf-8", "replace") if isinstance(dedup_id, str) else b""


def _read(reply: Any) -> str | None:
    return to_text(reply) or None
