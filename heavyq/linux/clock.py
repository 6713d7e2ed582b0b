"""The two clocks. Everything else in heavyq takes a time as an argument.

`monotonic_s` measures; `epoch_ms` is what goes on the wire. Nothing else may call `time.time`.
"""

from __future__ import annotations

import time


def monotonic_s() -> float:
    """Seconds on a clock that never steps; its zero means nothing."""
    return time.monotonic()


def epoch_ms() -> int:
    """Milliseconds since 1970, as BullMQ writes them: the caller's clock, like Node's."""
    return time.time_ns() // 1_000_000
