"""Cuts what a child prints into lines, and keeps a flood of them to a quota. Pure: the time comes with the call.

Every line costs the control loop some 25 us, under which other children wait: so above the quota lines are
counted and let go, all but the last few, which tell most about a job that dies. Never slows the child down.
"""

from __future__ import annotations

from collections import deque

LINES_PER_S = 2_000
BURST = 4_000
LAST_KEPT = 20
LINE_MAX = 16 * 1024
_RESUME_AT = LINES_PER_S // 2  # a flood is let through in pieces of half a second, not line by line


class LineCutter:
    """The lines of one pipe. `feed` what was read; `release` now and then, `end` when no more will come."""

    def __init__(self, now_s: float) -> None:
        self._part = b""
        self._allowance, self._at_s = float(BURST), now_s
        self._held: deque[bytes] = deque(maxlen=LAST_KEPT)
        self._over = 0  # lines over the quota that nobody was told of yet; the last of them are held

    def feed(self, data: bytes, now_s: float) -> list[str]:
        """Take what was read; return the lines that may go on."""
        lines = (self._part + data).split(b"\n")
        self._part = lines.pop()
        if len(self._part) > LINE_MAX:
            lines.append(self._part)
            self._part = b""
        out = self.release(now_s)
        allowed = 0 if self._over else int(self._allowance)
        over = lines[allowed:]
        self._over += len(over)
        self._held.extend(over)
        self._allowance -= len(lines) - len(over)
        return out + _text(lines[:allowed])

    def release(self, now_s: float) -> list[str]:
        """Return what a flood held back, if the quota allows for it again."""
        self._allowance = min(BURST, self._allowance + (now_s - self._at_s) * LINES_PER_S)
        self._at_s = now_s
        return self._let_go() if self._allowance >= _RESUME_AT else []

    def end(self) -> list[str]:
        """Return all that is left: what was held back, and a last line without an end."""
        part, self._part = self._part, b""
        return self._let_go() + _text([part])

    def _let_go(self) -> list[str]:
        gone = self._over - len(self._held)
        out = [f"(heavyq: {gone} lines were dropped: more than {LINES_PER_S} a second)"] if gone else []
        out += _text(self._held)
        self._allowance -= len(out)
        self._over = 0
        self._held.clear()
        return out


def _text(lines: list[bytes] | deque[bytes]) -> list[str]:
    texts = (line[:LINE_MAX].decode("utf-8", "replace").rstrip("\r") for line in lines)
    return [text for text in texts if text]
