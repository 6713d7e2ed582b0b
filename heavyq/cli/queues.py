"""`heavyq queues`: the counts of every queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.bullmq.ops.counts import counts
from heavyq.cli import say
from heavyq.cli.flags import takes_place
from heavyq.cli.place import read_place
from heavyq.errors import HeavyqError

if TYPE_CHECKING:
    import typer

    from heavyq.bullmq.ops.counts import Counts


def register(app: typer.Typer) -> None:
    app.command("queues")(queues)


@takes_place()
def queues(*, redis: str | None, prefix: str | None, as_json: bool) -> None:
    """Show how many jobs every queue holds, by state."""
    place = read_place(redis, prefix)
    keys = place.client.scan_queues(place.prefix)
    found: list[tuple[str, Counts]] = []
    for key, result in zip(keys, place.client.run_many([counts(key) for key in keys]), strict=True):
        if isinstance(result, HeavyqError):
            raise result
        found.append((key.name, result))
    if as_json:
        say.document(
            [
                {"queue": name, "prefix": place.prefix, "paused": each.paused, "counts": each.by_state()}
                for name, each in found
            ]
        )
    elif found:
        states = list(found[0][1].by_state())
        rows = [(name, *each.by_state().values(), "paused" if each.paused else "") for name, each in found]
        say.table(("queue", *states, ""), rows)
    else:
        say.note(f"there is no queue under the prefix {place.prefix}")
