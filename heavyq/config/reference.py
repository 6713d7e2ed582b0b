"""The reference page of all options, made from the table: `python -m heavyq.config.reference` prints it.

Owns the page's wording around the table. The committed page is this output; a test compares the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.options import Backoff
from heavyq.config.profiles import PROFILES
from heavyq.config.table import options
from heavyq.config.units import format_duration
from heavyq.config.values import Keep

if TYPE_CHECKING:
    from collections.abc import Iterable

    from heavyq.config.option import Option
    from heavyq.config.profiles import Profile

_HEAD = """\
# Options

Made by `python -m heavyq.config.reference`; do not edit by hand. `heavyq config` prints every value in effect and
where it came from.

Durations are seconds, a `timedelta`, or text such as `"90s"`, `"5m"`, `"1h30m"`; a bare number of 10,000 or more is
refused, for it was meant as milliseconds. Sizes are bytes or text: `Ki Mi Gi` are binary, `K M G` decimal. An option
that may be off takes `None` in Python, and `off` elsewhere.

The column BullMQ has the option's name there, and its unit and default where they are others; what has no entry is
heavyq's own.
"""
_QUEUE = """\
## How a worker runs a queue's jobs

In `Queue(...)`, in a profile, with `--set QUEUE.OPTION=VALUE`, in the environment, or in `[tool.heavyq]` of
pyproject.toml under the option's name. Who wins: `--set`, then `Queue(...)`, then the flag, then the environment, then
pyproject.toml, then the profile, then the default.
"""
_JOB = """\
## Options of a job

In `Queue(...)` or a profile as a default, in one `add`, or on the command line of `heavyq add`. They belong to whoever
adds: a job that Node added carries Node's, and a worker never rewrites them.
"""
_WORKER = """\
## Options of a worker

On the command line of `heavyq run`, in the environment, or in `[tool.heavyq]` of pyproject.toml; the first that says
something wins.
"""
_PROFILES = """\
## Profiles

Named sets of the options above; `HEAVY.replace(name="gpu", ...)` makes one of your own. Without a profile a queue has
`STANDARD`.
"""
_PENDING = """\
## Not built yet

Known by name, and refused with "not built yet" wherever they are given.
"""


def page() -> str:
    """Return the whole page as Markdown."""
    parts = [
        _HEAD,
        _QUEUE,
        _table(("option", "default", "range", "flag, environment", "BullMQ", "meaning"), map(_row, options("queue"))),
        _JOB,
        _table(("option", "default", "range", "flag", "BullMQ", "meaning"), map(_row, options("job"))),
        _WORKER,
        _table(("option", "default", "range", "flag, environment", "BullMQ", "meaning"), map(_row, options("worker"))),
        _PROFILES,
        _profiles(),
        _PENDING,
        _table(("option", "meaning"), ((f"`{o.name}`", o.meaning) for o in _pending())),
    ]
    return "\n".join(parts)


def _row(option: Option) -> tuple[str, ...]:
    names = " ".join(f"`{name}`" for name in (*option.flags, *option.env))
    scope = " (one add only)" if option.per_add else " (also for one add)" if option.also_per_add else ""
    theirs, *rest = option.bullmq.split(maxsplit=1) or ("",)
    bullmq = " ".join((_code(theirs), *rest)) if theirs else ""
    return f"`{option.name}`", show(option, option.default), option.range_text(), names, bullmq, option.meaning + scope


def _code(word: str) -> str:
    """Mark a name as code; a comma after it is none of its."""
    return f"`{word.removesuffix(',')}`{',' if word.endswith(',') else ''}"


def _profiles() -> str:
    shown = [o for o in (*options("queue"), *options("job")) if any(_sets(p, o) for p in PROFILES)]
    rows = ((f"`{o.name}`", *(show(o, getattr(p, o.name)) for p in PROFILES)) for o in shown)
    return _table(("option", *(profile.name.upper() for profile in PROFILES)), rows)


def _sets(profile: Profile, option: Option) -> bool:
    return option.name in profile.worker_options or option.name in profile.job_options


def _pending() -> list[Option]:
    return [o for scope in ("queue", "job", "worker") for o in options(scope, built=False)]


def show(option: Option, value: object) -> str:
    """Return a value as a person would write it in Python or in a shell."""
    if isinstance(value, Backoff):
        jitter = f", jitter={value.jitter:g}" if value.jitter else ""
        return f'{value.type}("{format_duration(value.delay_ms / 1000)}"{jitter})'
    if isinstance(value, Keep):
        return f"Keep(count={value.count})" if value.age is None else repr(value)
    return option.show(value)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [_line(head), _line(("---",) * len(head)), *map(_line, rows)]
    return "\n".join(lines) + "\n"


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    print(page(), end="")
