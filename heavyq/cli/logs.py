"""`heavyq logs`: the log of one job, and with --follow what it will still write."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer

from heavyq.bullmq.ops.find import find
from heavyq.bullmq.ops.logs import logs as read_logs
from heavyq.cli import say
from heavyq.cli.flags import takes_place
from heavyq.cli.place import read_place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heavyq.cli.place import Place

_PAUSE_S = 0.3
_FINISHED = frozenset({"completed", "failed"})


def register(app: typer.Typer) -> None:
    app.command("logs")(logs)


@takes_place()
def logs(
    queue: str = typer.Argument(..., metavar="QUEUE"),
    job_id: str = typer.Argument(..., metavar="ID"),
    follow: bool = typer.Option(False, "--follow", "-f", help="Go on until the job has ended."),
    *,
    redis: str | None,
    prefix: str | None,
    as_json: bool,
) -> None:
    """Show what a job logged."""
    place = read_place(redis, prefix)
    place.job(queue, job_id)
    rows = (
        _followed(place, queue, job_id) if follow else iter(place.client.run(read_logs(place.key(queue), job_id)).rows)
    )
    if as_json:
        say.document({"id": job_id, "queue": queue, "logs": list(rows)})
        return
    for row in rows:
        say.answer(row)


def _followed(place: Place, queue: str, job_id: str) -> Iterator[str]:
    """Yield rows as they come; end when the job has finished or is gone."""
    key = place.key(queue)
    seen, last = 0, None
    while True:
        job = place.client.run(find(key, job_id))  # before its rows: then what it wrote last is among them
        rows = place.client.run(read_logs(key, job_id, start=max(0, seen - 1))).rows
        if last is None:
            new, seen = rows, len(rows)
        elif rows[:1] == (last,):
            new, seen = rows[1:], seen + len(rows) - 1
        else:  # the oldest rows were cut off (keep_logs) and the others moved
            rows = place.client.run(read_logs(key, job_id)).rows
            new, seen = rows[_end_of(last, rows) :], len(rows)
        yield from new
        last = new[-1] if new else last
        if job is None or job.state in _FINISHED:
            return
        time.sleep(_PAUSE_S)


def _end_of(row: str, rows: tuple[str, ...]) -> int:
    """Return the index behind the last row that is equal; 0 if none is."""
    return len(rows) - rows[::-1].index(row) if row in rows else 0
