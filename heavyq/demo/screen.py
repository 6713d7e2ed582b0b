"""What the demo draws: a live table on a terminal, a line now and then elsewhere, the table at the end.

Owns the console. Decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import IO, Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from heavyq.demo.story import Watched

_BAR_WIDTH = 12  # then the table fits a terminal of 80 columns
_PLAIN_WIDTH = 120
_PLAIN_EVERY_S = 5.0
_NUMBERS = {"attempts", "wall", "CPU", "peak memory"}
_MIN_WIDTHS = {"state": 9, "doing": 17}  # so that nothing jumps as they change
_COLOURS = {"active": "cyan", "completed": "green", "failed": "red", "delayed": "yellow"}


class Screen:
    """The console, inside a `with` block also the live table.

    stream: stdout, or stderr when stdout is for a document.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._console = Console(file=stream, highlight=False)
        if not self._console.is_terminal:
            self._console = Console(file=stream, highlight=False, width=_PLAIN_WIDTH)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._began_s = time.monotonic()
        self._told_s = self._began_s

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str, style: str = "") -> None:
        """Print a line that stays."""
        self._console.print(Text(text, style), soft_wrap=True)

    def tell(self, text: str, style: str = "") -> None:
        """Print what has happened, with the time since the start."""
        self.say(f"{time.monotonic() - self._began_s:6.1f} s  {text}", style)

    def show(self, jobs: Sequence[Watched]) -> None:
        """Show how far the jobs are."""
        if self._live is not None:
            self._live.update(_progress_table(jobs), refresh=True)
        elif time.monotonic() - self._told_s >= _PLAIN_EVERY_S:
            self._told_s = time.monotonic()
            self.tell(" | ".join(f"{job.title} {_plain(job)}" for job in jobs))

    def table(self, jobs: Sequence[Watched]) -> None:
        """Print what became of the jobs."""
        table = Table(
            title="\nWhat happened (all runs of a job together)", title_justify="left", box=None, pad_edge=False
        )
        for column in ("job", "id", "state", "attempts", "wall", "CPU", "peak memory", "reason"):
            table.add_column(
                column, justify="right" if column in {"attempts", "wall", "CPU", "peak memory"} else "left"
            )
        for job in jobs:
            facts = job.summary()
            reason = ", ".join(facts["reasons"])
            table.add_row(
                job.title,
                job.handle.id,
                _state(job),
                str(job.attempts),
                f"{facts['wall_s']:.1f} s",
                f"{facts['cpu_s']:.1f} s",
                f"{facts['peak_rss_bytes'] / 1024**2:.0f} MiB",
                f"{reason}, then resumed" if reason and facts["resumed_at"] else reason,
            )
        self._console.print(table)


def _progress_table(jobs: Sequence[Watched]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("job", "state", "", "", "doing", "attempt", "child"):
        table.add_column(column, no_wrap=True, min_width=_MIN_WIDTHS.get(column))
    for job in jobs:
        active = job.state == "active"
        table.add_row(
            job.title,
            _state(job),
            ProgressBar(
                total=100, completed=job.percent, width=_BAR_WIDTH, complete_style="cyan", finished_style="green"
            ),
            f"{job.percent:3.0f}%",
            job.doing if active else "",
            str(job.attempt),
            str(job.child.pid) if job.child else "",
        )
    return table


def _state(job: Watched) -> Text:
    return Text(job.state, _COLOURS.get(job.state, ""))


def _plain(job: Watched) -> str:
    if job.state != "active":
        return job.state
    return f"{job.percent:.0f}% (attempt {job.attempt}{f', child {job.child.pid}' if job.child else ''})"
