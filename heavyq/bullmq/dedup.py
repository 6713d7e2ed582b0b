"""A job's deduplication as BullMQ stores it: the member `de` of the options.

Owns its names. Never decides which add is refused: the script of `add` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Dedup"]

_TTL_MAX: Final = 2**53


@dataclass(frozen=True, slots=True)
class Dedup:
    """While a job of this deduplication id is there (its owner), further adds of it are refused.

    ttl_ms: let the id go after that time, and not before, though the owner ends earlier; None: when the owner
    ends. extend: each refused add starts the time anew. replace: an owner that is still delayed is replaced by the
    new job. keep_last_if_active: while the owner runs, the last refused add is kept and added when it ends; the
    id has no time to live then. reschedule: a refused add moves an owner that is delayed to its own due time.
    """

    id: str
    ttl_ms: int | None = None
    extend: bool = False
    replace: bool = False
    keep_last_if_active: bool = False
    reschedule: bool = False

    @classmethod
    def read(cls, value: Any) -> Dedup | None:
        """Read stored `de`; what makes no sense is no deduplication, or no such rule. Never fails."""
        if not isinstance(value, dict):
            return None
        dedup_id = value.get("id")
        if not isinstance(dedup_id, str) or not dedup_id:
            return None
        return cls(
            id=dedup_id,
            ttl_ms=_time(value.get("ttl")),
            extend=value.get("extend") is True,
            replace=value.get("replace") is True,
            keep_last_if_active=value.get("keepLastIfActive") is True,
            reschedule=value.get("reschedule") is True,
        )

    def to_opts(self) -> dict[str, Any]:
        """Return the member `de`; what is not set is left out."""
        rules = {
            "extend": self.extend,
            "replace": self.replace,
            "keepLastIfActive": self.keep_last_if_active,
            "reschedule": self.reschedule,
        }
        ttl = {} if self.ttl_ms is None else {"ttl": self.ttl_ms}
        return {"id": self.id, **ttl, **{name: True for name, is_set in rules.items() if is_set}}


def _time(value: Any) -> int | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and 1 <= value <= _TTL_MAX else None
