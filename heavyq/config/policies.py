"""The four options that say what a job's failure does to its parent, of which one can hold.

Owns their names beside BullMQ's words, and the refusal of two. Never resolves them: `config.jobs` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from heavyq.errors import BadValue

if TYPE_CHECKING:
    from heavyq.bullmq.parent import OnFailure

POLICIES: Final[Mapping[str, OnFailure]] = {
    "fail_parent_on_failure": "fail",
    "continue_parent_on_failure": "continue",
    "ignore_dependency_on_failure": "ignore",
    "remove_dependency_on_failure": "remove",
}


def check_policies(given: Mapping[str, Any], where: str) -> None:
    """Raise BadValue if more than one policy is set."""
    chosen = [name for name in POLICIES if given.get(name)]
    if len(chosen) > 1:
        raise BadValue(f"{where}: {' and '.join(chosen)}: only one of them can hold when the job has failed")
