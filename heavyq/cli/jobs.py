"""`heavyq jobs`: the jobs of a queue, by state, reason and age."""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING

import typer

from heavyq.bullmq.ops.page import STATES, page
from heavyq.cli import record, say
from heavyq.cli.flags import takes_place
from heavyq.cli.place import Place, read_place
from heavyq.config import nearest, parse_duration
from heavyq.errors import BadValue, UsageError
from heavyq.linux.clock import epoch_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from heavyq.bullmq.job_hash import JobRecord

_PAGE = 200
# what one looks for first stands first
_ORDER = ("active", "failed", "waiting", "prioritized", "delayed", "waiting-children", "completed")
_WAITING = frozenset({"waiting", "prioritized", "delayed"})


def register(app: typer.Typer) -> None:
    app.command("jobs")(jobs)


@takes_place()
def jobs(
    queue: str = typer.Argument(..., metavar="QUEUE"),
    state: str = typer.Option(None, "--state", metavar="STATE", help=f"Only these: {', '.join(STATES)}."),
    reason: str = typer.Option(None, "--reason", metavar="REASON", help="Only jobs that failed for this reason."),
    since: str = typer.Option(None, "--since", metavar="TIME", help="Only what happened in this time, such as 1h."),
    limit: int = typer.Option(20, "--limit", min=1, help="At most so many. [default: 20]", show_default=False),
    *,
    redis: str | None,
    prefix: str | None,
    as_json: bool,
) -> None:
    """List jobs: of a state, or of all; finished ones newest first, waiting ones in the order they will run."""
    if state is not None and state not in STATES:
        raise UsageError(f"--state {state}: no such state{nearest(state, STATES)}; one of: {', '.join(STATES)}")
    wanted = _filter(reason, since)
    place = read_place(redis, prefix)
    totals = place.counts(queue).by_state()
    states = [state] if state else [each for each in _ORDER if reason is None or each != "completed"]
    everything = chain.from_iterable(_jobs_in(place, queue, each, totals[each]) for each in states)
    found = list(islice(filter(wanted, everything), limit))
    if as_json:
        say.document([record.as_json(queue, each) for each in found])
    elif found:
        say.table(("id", "name", "state", "attempts", "when", "took", "why"), map(_row, found))
    else:
        say.note(f"queue {queue} has no such jobs")


def _jobs_in(place: Place, queue: str, state: str, total: int) -> Iterator[JobRecord]:
    """Yield the jobs of a state, page by page."""
    for offset in range(0, total, _PAGE):
        asked = page(place.key(queue), state, offset=offset, limit=_PAGE, newest_first=state not in _WAITING)
        yield from place.client.run(asked)


def _filter(reason: str | None, since: str | None) -> Callable[[JobRecord], bool]:
    oldest_ms = 0.0
    if since is not None:
        try:
            oldest_ms = epoch_ms() - parse_duration(since) * 1000
        except BadValue as error:
            raise UsageError(f"--since: {error}") from error

    def wanted(job: JobRecord) -> bool:
        return (reason is None or (job.failure or {}).get("reason") == reason) and _latest_ms(job) >= oldest_ms

    return wanted


def _latest_ms(job: JobRecord) -> int:
    return job.finished_on_ms or job.processed_on_ms or job.timestamp_ms


def _row(job: JobRecord) -> tuple[str, ...]:
    took_s = record.duration_s(job)
    when = (say.moment(_latest_ms(job)) or "")[:19].replace("T", " ")
    took = "" if took_s is None else f"{took_s:.1f} s"
    why = "" if job.state == "completed" else record.why(job)  # it may still carry an earlier attempt's failure
    return job.id, job.name, job.state or "", str(job.attempts_made), when, took, why
