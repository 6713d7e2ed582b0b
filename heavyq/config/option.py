"""One option: what it is, and how one value of it is read, checked and shown.

Owns the kinds of values. Knows no source (see `sources`) and not which options there are (see `table`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from heavyq.bullmq.keys import why_not_an_id
from heavyq.bullmq.options import Backoff
from heavyq.config.units import format_duration, format_size, parse_duration, parse_size
from heavyq.config.values import Dedup, Keep, Rate
from heavyq.errors import BadValue, NotBuiltYet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Scope = Literal["queue", "job", "worker"]
Kind = Literal[
    "int",
    "bool",
    "duration",
    "size",
    "text",
    "choice",
    "names",
    "label",
    "url",
    "keep",
    "backoff",
    "id",
    "moment",
    "rate",
    "dedup",
    "parent",
]

_OFF: Final = frozenset({"none", "off"})
_AUTO: Final = "auto"


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    scope: "queue" options tell the worker how to run a queue's jobs; "job" options belong to whoever adds;
    "worker" options are of one `heavyq run`. default: in the unit of the kind (seconds, bytes); None is
    off or unset, and `may_be_off` says that None may be given. flags: on `heavyq run`, the long one
    first. env: names in the environment, the first that is set wins. per_add: for one add only, no queue
    default. also_per_add: a queue option that one add may set for its own job as well. auto: heavyq chooses unless
    told otherwise; that is None, and written `auto`. bullmq: what BullMQ calls it, then its unit and default, for the
    reference page; empty where it has nothing of the kind. built: False is refused by name, never ignored.
    """

    name: str
    kind: Kind
    scope: Scope
    meaning: str
    default: Any = None
    low: float | None = None
    high: float | None = None
    flags: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    may_be_off: bool = False
    auto: bool = False
    choices: tuple[str, ...] = ()
    per_add: bool = False
    also_per_add: bool = False
    bullmq: str = ""
    built: bool = True

    def read(self, value: Any, *, label: str, text: bool = False, bare_ok: bool = False) -> Any:
        """Return a value as heavyq keeps it (seconds, bytes, ...).

        label: what to call the option in an error (`lock_duration`, `--drain-timeout`, `HEAVYQ_NICE`).
        text: the value came from a shell or an environment, where everything is text.
        bare_ok: see `parse_duration`.
        Raises BadValue, and NotBuiltYet for an option that is not built yet.
        """
        if not self.built:
            raise NotBuiltYet(f"{label} is not built yet: leave it out")
        if text and isinstance(value, str) and self.may_be_off and value.strip().lower() in _OFF:
            value = None
        if self.auto and isinstance(value, str) and value.strip().lower() == _AUTO:
            return None
        if value is None:
            if self.may_be_off:
                return None
            raise BadValue(f"{label}: None is not a value of this option; leave it out for its default")
        try:
            found = _READERS[self.kind](self, value, text, bare_ok)
        except BadValue as error:
            raise BadValue(f"{label}: {error}{', or auto' if self.auto else ''}") from None
        self._check_range(found, label)
        return found

    def show(self, value: Any) -> str:
        """Return a value as a person would write it."""
        if value is None and self.auto:
            return _AUTO
        if value is None or value == ():
            return "off" if self.may_be_off or not self.built else "unset"
        if self.kind == "duration":
            return format_duration(value)
        if self.kind == "size":
            return format_size(value)
        if self.kind == "rate":
            return str(Rate(value[0], value[1] / 1000))
        if isinstance(value, (tuple, list)):
            return ", ".join(value)
        return str(value)

    def range_text(self) -> str:
        """Return the range in words; empty if there is none."""
        if self.choices:
            return " or ".join(self.choices)
        low = None if self.low is None else self.show(self.low)
        high = None if self.high is None else self.show(self.high)
        if low is not None and high is not None:
            return f"{low} to {high}"
        return "" if low is None else f"at least {low}"

    def _check_range(self, found: Any, label: str) -> None:
        if isinstance(found, bool) or not isinstance(found, (int, float)):
            return
        if (self.low is not None and found < self.low) or (self.high is not None and found > self.high):
            unit = " (a bare number is bytes)" if self.kind == "size" else ""
            raise BadValue(f"{label}: {self.show(found)} is out of range: {self.range_text()}{unit}")


# ---- reading one value, by kind ---------------------------------------------------------------------------


def _read_int(_option: Option, value: Any, text: bool, _bare: bool) -> int:
    if text and isinstance(value, str) and re.fullmatch(r"\s*-?\d+\s*", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadValue(f"{value!r} is no whole number")
    return value


def _read_bool(_option: Option, value: Any, text: bool, _bare: bool) -> bool:
    if text and isinstance(value, str):
        word = value.strip().lower()
        if word in {"1", "true", "yes", "on"}:
            return True
        if word in {"0", "false", "no", "off"}:
            return False
    if not isinstance(value, bool):
        raise BadValue(f"{value!r} is neither true nor false")
    return value


def _read_duration(_option: Option, value: Any, _text: bool, bare: bool) -> float:
    return parse_duration(value, bare_ok=bare)


def _read_size(_option: Option, value: Any, _text: bool, _bare: bool) -> int:
    return parse_size(value)


def _read_text(_option: Option, value: Any, _text: bool, _bare: bool) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadValue(f"{value!r} is no text")
    return value.strip()


def _read_label(option: Option, value: Any, text: bool, bare: bool) -> str:
    """Read what becomes part of a connection's name: Redis takes no other characters there."""
    found = _read_text(option, value, text, bare)
    if not re.fullmatch(r"[!-~]+", found):
        raise BadValue(f"{value!r} has a blank or a character outside ASCII: Redis takes neither in a worker's name")
    return found


def _read_choice(option: Option, value: Any, _text: bool, _bare: bool) -> str:
    word = value.strip().lower() if isinstance(value, str) else value
    if word not in option.choices:
        raise BadValue(f"{value!r} is not one of: {', '.join(option.choices)}")
    return str(word)


def _read_names(_option: Option, value: Any, _text: bool, _bare: bool) -> tuple[str, ...]:
    """Read a list, or text parted by commas or blanks; an item of a list may be such a text too."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise BadValue(f"{value!r} is no list of names")
    names = tuple(name for item in items for name in re.split(r"[,\s]+", item) if name)
    if not names:
        raise BadValue("no name is given")
    return tuple(dict.fromkeys(names))


def _read_url(_option: Option, value: Any, _text: bool, _bare: bool) -> str:
    if not isinstance(value, str):
        raise BadValue(f"a {type(value).__name__} object is no Redis URL: write one, redis://, rediss:// or unix://")
    if not value.strip().startswith(("redis://", "rediss://", "unix://")):
        raise BadValue("this is no Redis URL: it begins with redis://, rediss:// or unix://")
    return value.strip()


def _read_keep(_option: Option, value: Any, _text: bool, _bare: bool) -> Keep | bool | int:
    if isinstance(value, (bool, Keep)):
        return value
    if isinstance(value, int) and value >= 0:
        return value
    raise BadValue(f"{value!r} is neither True, False, a count nor Keep(count=, age=, limit=)")


def _read_backoff(_option: Option, value: Any, _text: bool, _bare: bool) -> Backoff:
    if isinstance(value, Backoff):
        return value
    raise BadValue(f'{value!r} is no backoff: write fixed("60s"), exponential("1s"), or custom("my-type")')


def _read_id(_option: Option, value: Any, _text: bool, _bare: bool) -> str:
    if not isinstance(value, str):
        raise BadValue(f"{value!r} is no text")
    why = why_not_an_id(value)
    if why is not None:
        raise BadValue(f"{value!r}: {why}")
    return value


def _read_moment(_option: Option, value: Any, _text: bool, _bare: bool) -> datetime:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise BadValue(f"{value!r} is no aware datetime: write datetime.now(UTC)")
    return value


def _read_rate(_option: Option, value: Any, text: bool, _bare: bool) -> tuple[int, int]:
    """Read a number of jobs and a time in milliseconds."""
    if text and isinstance(value, str):
        value = Rate.parse(value)
    if not isinstance(value, Rate):
        raise BadValue(f'{value!r} is no rate: write Rate(10, per="1s")')
    return value.count, value.per_ms


def _read_dedup(_option: Option, value: Any, _text: bool, _bare: bool) -> Dedup:
    if isinstance(value, Dedup):
        return value
    if isinstance(value, str) and value:
        return Dedup(value)
    raise BadValue(f"{value!r} is no deduplication: write an id, or Dedup(id, ttl=...)")


def _read_parent(_option: Option, value: Any, _text: bool, _bare: bool) -> Any:
    """Read what holds a job. Only the queue, which writes the reference, knows more of it."""
    if not isinstance(getattr(value, "id", None), str):
        raise BadValue(f"{value!r} is no job: give the running one, or the handle that an add returned")
    return value


_READERS: Final[Mapping[Kind, Callable[[Option, Any, bool, bool], Any]]] = {
    "int": _read_int,
    "bool": _read_bool,
    "duration": _read_duration,
    "size": _read_size,
    "text": _read_text,
    "label": _read_label,
    "choice": _read_choice,
    "names": _read_names,
    "url": _read_url,
    "keep": _read_keep,
    "backoff": _read_backoff,
    "id": _read_id,
    "moment": _read_moment,
    "rate": _read_rate,
    "dedup": _read_dedup,
    "parent": _read_parent,
}
