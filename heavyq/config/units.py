"""Durations and sizes: how they are read from Python, text and TOML, and how they are shown.

Owns the grammar and the guard against milliseconds. Knows no option.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from numbers import Real
from typing import Final

from heavyq.errors import BadValue

Duration = float | str | timedelta
Size = int | str

BARE_MS_SUSPECT: Final = 10_000
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_STEP: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*")
_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?")
_BYTES: Final = {
    **{unit: 1024 ** (power + 1) for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti"))},
    **{unit: 1000 ** (power + 1) for power, unit in enumerate(("K", "M", "G", "T"))},
    "k": 1000,  # Kubernetes writes kilo so
    "": 1,
}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(Ki|Mi|Gi|Ti|K|k|M|G|T|)B?")


def parse_duration(value: Duration, *, bare_ok: bool = False) -> float:
    """Return a duration in seconds.

    value: seconds, a timedelta, or text such as "90s", "5m", "1h30m", "250ms", "2d".
    bare_ok: take a bare number of 10,000 or more. Otherwise it is refused: it was meant as milliseconds.
    Raises BadValue, which says what to write.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str):
        text = value.strip()
        if not _NUMBER.fullmatch(text):
            return _parse_steps(text)
        seconds = _bare(float(text), bare_ok=bare_ok)
    elif isinstance(value, Real) and not isinstance(value, bool):
        seconds = _bare(float(value), bare_ok=bare_ok)
    else:
        raise BadValue(f'{value!r} is no duration: write seconds, a timedelta, or text such as "90s", "5m"')
    if not math.isfinite(seconds) or seconds < 0:
        raise BadValue(f"{value!r} is no duration: it must be finite and not negative")
    return seconds


def _bare(number: float, *, bare_ok: bool) -> float:
    if number >= BARE_MS_SUSPECT and math.isfinite(number) and not bare_ok:
        raise BadValue(
            f"{number:.0f} looks like milliseconds, and durations are seconds: "
            f'write "{format_duration(number / 1000)}" (or "{number:.0f}s" if you mean seconds)'
        )
    return number


def _parse_steps(text: str) -> float:
    total, at = 0.0, 0
    while match := _STEP.match(text, at):
        total += float(match[1]) * _SECONDS[match[2]]
        at = match.end()
    if at == 0 or at != len(text):
        raise BadValue(f'{text!r} is no duration: write seconds or text such as "90s", "5m", "2h"')
    return total


def parse_size(value: Size) -> int:
    """Return a size in bytes.

    value: bytes, or text: Ki Mi Gi Ti (KiB...) are binary, K M G T decimal, as in Kubernetes.
    Raises BadValue, which says what to write.
    """
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise BadValue(f'{value!r} is no size: write bytes, or text such as "512Mi", "2Gi"')
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise BadValue(
                f'{value!r} is no size: write bytes, or text such as "512Mi", "2Gi" (binary), "2G" (decimal)'
            )
        return int(float(match[1]) * _BYTES[match[2]]) if "." in match[1] else int(match[1]) * _BYTES[match[2]]
    if value < 0:
        raise BadValue(f"{value!r} is no size: it cannot be negative")
    return value


def format_duration(seconds: float) -> str:
    """Return a duration as short text that `parse_duration` reads back: "1h30m", "250ms", "8s"."""
    left_ms = round(seconds * 1000)
    parts = []
    for unit in ("d", "h", "m", "s", "ms"):
        count, left_ms = divmod(left_ms, round(_SECONDS[unit] * 1000))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def format_size(size: int) -> str:
    """Return a size as short text that `parse_size` reads back: "2Gi", "512Ki", "1000"."""
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        if size and size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return str(size)
