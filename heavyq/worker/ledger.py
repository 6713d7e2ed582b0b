"""The leak ledger: what the jobs of each name have left in their children.

Owns the counts, and the words of them for the log. A name is the queue's and the job's; anybody can make up names, so
they are bounded. Decides nothing: when a child is replaced is `core.child`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from heavyq.core.memory import MIB, Leak, in_words

_NAMES_MAX = 1_000
_REST = "(other names)"
_WORTH_TELLING_BYTES = MIB


class Ledger:
    """The counts of one worker."""

    def __init__(self) -> None:
        self._leaks: dict[tuple[str, str], Leak] = {}

    def note(self, queue: str, name: str, grown_bytes: int) -> Leak:
        """Count a run. grown_bytes: what its child holds more after it than before."""
        key = (queue, name)
        if key not in self._leaks and len(self._leaks) >= _NAMES_MAX:
            key = (queue, _REST)
        leak = self._leaks.setdefault(key, Leak())
        leak.note(grown_bytes)
        return leak

    def leaks(self) -> Iterator[dict[str, Any]]:
        """Yield what is worth a line in the log: names whose jobs leave a megabyte or more, each time."""
        for (queue, name), leak in self._leaks.items():
            if leak.recycled or leak.per_run_bytes >= _WORTH_TELLING_BYTES:
                yield {"queue": queue, "job_name": name, **told(leak)}


def told(leak: Leak) -> dict[str, Any]:
    """Return the fields of a log line."""
    return {"grown_per_run": in_words(leak.per_run_bytes), "runs": leak.runs, "recycled": leak.recycled}
