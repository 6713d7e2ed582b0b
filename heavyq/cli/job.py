"""`heavyq job`: one job, whole."""

from __future__ import annotations

import typer

from heavyq.cli import record, say
from heavyq.cli.flags import takes_place
from heavyq.cli.place import read_place


def register(app: typer.Typer) -> None:
    app.command("job")(job)


@takes_place()
def job(
    queue: str = typer.Argument(..., metavar="QUEUE"),
    job_id: str = typer.Argument(..., metavar="ID"),
    *,
    redis: str | None,
    prefix: str | None,
    as_json: bool,
) -> None:
    """Show one job: its state, data, result, and why it failed."""
    found = read_place(redis, prefix).job(queue, job_id)
    if as_json:
        say.document(record.as_json(queue, found))
        return
    for name, value in record.lines(queue, found):
        say.answer(f"{name:<17} {value}" if "\n" not in value else f"{name}\n{value.rstrip()}")
