"""What a command prints: its answer on stdout, everything for people beside it on stderr, one JSON document.

Owns the two streams, and that text out of Redis cannot steer a terminal. Knows no command.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_KEPT: Final = frozenset("\n\t")
_PIPE_WIDTH: Final = 10_000


def answer(text: str) -> None:
    """Print a line of the command's answer, for people."""
    sys.stdout.write(plain(text) + "\n")
    sys.stdout.flush()


def document(value: Any) -> None:
    """Print the answer as one JSON document."""
    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent) + "\n")
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print the answer as a table, for people. Numbers stand on the right."""
    from rich.console import Console  # loaded late: a supervisor prints none
    from rich.table import Table
    from rich.text import Text

    cells = [[plain(str(cell)) for cell in row] for row in rows]
    console = Console(highlight=False)
    if not console.is_terminal:  # into a file or a pipe nothing is folded
        console = Console(highlight=False, width=_PIPE_WIDTH)
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for n, column in enumerate(columns):
        numbers = bool(cells) and all(row[n].isdigit() for row in cells)
        last = n == len(columns) - 1
        grid.add_column(column, justify="right" if numbers else "left", overflow="fold", no_wrap=not last)
    for row in cells:
        grid.add_row(*(Text(cell) for cell in row))
    console.print(grid)


def note(text: str) -> None:
    """Say something beside the answer."""
    sys.stderr.write(f"heavyq: {_one_line(text)}\n")
    sys.stderr.flush()


def warning(text: str) -> None:
    note(f"warning: {text}")


def error(text: str) -> None:
    """Say in one line why the command failed."""
    note(text)


def _one_line(text: str) -> str:
    return plain(" ".join(text.split()))


def plain(text: str) -> str:
    """Return text without what a terminal obeys: what is printed was written by whoever adds jobs."""
    return "".join(char if char.isprintable() or char in _KEPT else "\ufffd" for char in text)


def moment(epoch_ms: int | None) -> str | None:
    """Return a moment as ISO 8601 in UTC."""
    return None if epoch_ms is None else datetime.fromtimestamp(epoch_ms / 1000, tz=UTC).isoformat()


def decoded(raw: bytes | None) -> Any:
    """Return stored JSON as a value; text that is no JSON (anybody may have written it) as that text."""
    if raw is None:
        return None
    try:
        return json.loads(raw, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return raw.decode("utf-8", "replace")


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")
