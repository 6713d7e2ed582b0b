"""Checks of what a caller passes where no option table stands before it: whole numbers and text.

Owns the words in which such a mistake is told: one line that names the argument. Knows no option and no queue.
"""

from __future__ import annotations

from heavyq.errors import BadValue


def whole(value: object, label: str, least: int | None = 0, *, optional: bool = False) -> None:
    """Raise BadValue for what is no whole number. least: the smallest; None: any. optional: None is taken too."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
        bound = "" if least is None else f", {least} or more"
        raise BadValue(f"{label} is a whole number{bound}{', or None' if optional else ''}; not {value!r}")


def text(value: object, label: str, *, optional: bool = False) -> None:
    """Raise BadValue for what is no text. optional: None is taken too."""
    if isinstance(value, str) or (optional and value is None):
        return
    hint = f": write {str(value)!r}" if isinstance(value, int) else ""
    raise BadValue(f"{label} is text, and not {value!r}{hint}")
