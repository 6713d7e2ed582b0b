"""children: what a parent knows of its children. Its script is children.lua."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heavyq.bullmq.op import Op
from heavyq.bullmq.ops.common import meta, read_ids, to_bytes, to_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heavyq.bullmq.keys import QueueKey


@dataclass(frozen=True, slots=True)
class Children:
    """A job's children, by job key (`<prefix>:<queue>:<id>`).

    processed: the completed, and what each returned (JSON text as stored). ignored: failed, and why; the parent goes
    on without them. pending: not done. failed: failed, and so fail the parent.
    A child that was removed, or that failed with no rule for it and was deleted, is in none.
    """

    processed: Mapping[str, bytes]
    ignored: Mapping[str, str]
    pending: tuple[str, ...]
    failed: tuple[str, ...]


def children(q: QueueKey, job_id: str) -> Op[Children]:
    """Read what a parent knows of its children; of a job that has none, or is none, nothing."""
    return Op(verb="children", keys=meta(q), args=(to_bytes(job_id),), read=_read, replayable=True)


def _read(reply: Any) -> Children:
    processed, ignored, pending, failed = reply
    return Children(
        processed={to_text(key): value for key, value in _pairs(processed)},
        ignored={to_text(key): why.decode("utf-8", "replace") for key, why in _pairs(ignored)},
        pending=tuple(sorted(read_ids(pending))),
        failed=read_ids(failed),
    )


def _pairs(flat: list[bytes]) -> zip[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)
