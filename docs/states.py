"""Print docs/explain/states.md: every transition of the two machines, found by running them.

`make docs` writes the page; a test says that the committed page is this output.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

from heavyq.core import child, run
from heavyq.core.outcome import Failure, Usage
from heavyq.core.retry import Backoff
from heavyq.errors import ProtocolError

_USAGE = Usage(0, 0.0, 0.0)
_FAILURE = Failure("exception", "boom")
_FULL = Failure("memory_limit", "full")
_LIMITS = child.ChildLimits(max_jobs=2, recycle_rss_bytes=None, max_age_s=None)

Row = tuple[str, str, str, str]


def run_rows() -> list[Row]:
    """Every transition of a run, and the ways in which one begins."""
    facts = run.JobFacts(made=0, attempts=1, backoff=None, roll=0.0)
    again = run.JobFacts(made=0, attempts=2, backoff=None, roll=0.0)
    later = run.JobFacts(made=0, attempts=2, backoff=Backoff("fixed", 1000, 0.0), roll=0.0)
    retried = run.JobFacts(made=0, attempts=1, backoff=None, roll=0.0, memory_retry=True)
    rows: list[Row] = []
    begun = [
        ("leased", run.begin(facts, draining=False)),
        ("leased, draining", run.begin(facts, draining=True)),
        ("leased, unreadable", run.begin(run.JobFacts(0, 1, None, 0.0, unreadable=_FAILURE), draining=False)),
        ("leased, with `defa`", run.begin(run.JobFacts(0, 1, None, 0.0, deferred=_FAILURE), draining=False)),
        ("leased, needs a duty", run.begin(run.JobFacts(0, 1, None, 0.0, duty="d"), draining=False)),
    ]
    for how, (state, actions) in begun:
        rows.append(("(new)", how, _name(state), _names(actions)))
    events: list[run.RunEvent] = [
        run.Assigned(),
        run.Reported(b"1", _USAGE),
        run.Raised(_FAILURE, _USAGE),
        run.ChildLost(_FAILURE, _USAGE),
        run.LeaseLost(),
        run.StopAsked(),
        run.MemoryExceeded(_FULL),
        run.Settled(lost=False),
        run.Settled(lost=True),
    ]
    starts = [run.begin(f, draining=False)[0] for f in (facts, again, later, retried)]
    return rows + _explore(starts, events, run.decide)


def child_rows() -> list[Row]:
    """Every transition of a child."""
    events: list[child.ChildEvent] = [
        child.ChildReady(),
        child.RunTaken(1),
        child.RunOver(clean=True, grown_bytes=0),
        child.RunOver(clean=False, grown_bytes=0),
        child.Cleaned(whole=True),
        child.Cleaned(whole=False),
        child.RetireAsked("drain"),
        child.Ticked(),
        child.ChildExited(),
    ]
    return _explore([child.Starting(0.0)], events, lambda s, e: child.decide(s, e, 1.0, _LIMITS))


def _explore(starts: Iterable[Any], events: Iterable[Any], decide: Callable[[Any, Any], Any]) -> list[Row]:
    """Walk from the first states through every event, until nothing new is found."""
    rows: dict[Row, None] = {}
    seen, todo = set(starts), list(starts)
    while todo:
        state = todo.pop(0)
        for event in events:
            try:
                following, actions = decide(state, event)
            except ProtocolError:
                continue
            if following != state or actions:
                rows[_name(state), _name(event), _name(following), _names(actions)] = None
            if following not in seen:
                seen.add(following)
                todo.append(following)
    return list(rows)


def _name(thing: Any) -> str:
    match thing:
        case child.Ready():
            return "Ready (busy)" if thing.run is not None else "Ready (idle)" if thing.clean else "Ready (cleaning)"
        case run.Stopping():
            return f"Stopping ({thing.why.value})"
        case run.Settling():
            return f"Settling ({type(thing.settlement).__name__})"
        case run.Ended():
            return "Ended (lost)" if thing.lost else "Ended"
        case child.RunOver():
            return "RunOver, clean" if thing.clean else "RunOver, not clean"
        case child.Cleaned():
            return "Cleaned" if thing.whole else "Cleaned, not whole"
        case run.Settled():
            return "Settled, lost" if thing.lost else "Settled"
        case _:
            return type(thing).__name__


def _names(actions: Iterable[Any]) -> str:
    return ", ".join(type(a).__name__ for a in actions)


def _diagram(rows: Iterable[Row]) -> str:
    """A mermaid drawing: one arrow for each pair of states, with the events that lead from one to the other."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for source, event, target, _ in rows:
        pair = tuple("[*]" if n == "(new)" else n.partition(" (")[0] for n in (source, target))
        if pair[0] != pair[1]:
            labels = arrows.setdefault((pair[0], pair[1]), [])
            label = event.partition(",")[0]
            if label not in labels:
                labels.append(label)
    lines = [f"    {a} --> {b}: {' / '.join(labels)}" for (a, b), labels in arrows.items()]
    return "```mermaid\nstateDiagram-v2\n" + "\n".join(lines) + "\n```\n"


def _table(rows: Iterable[Row]) -> str:
    head = "| state | event | next state | actions |\n|---|---|---|---|\n"
    return head + "".join(f"| {a} | {b} | {c} | {d} |\n" for a, b, c, d in rows)


def page() -> str:
    """Return the whole page."""
    runs, children = run_rows(), child_rows()
    return (
        "# The two state machines\n\n"
        "Made by `python docs/states.py` from the code itself (`heavyq/core/run.py`, `heavyq/core/child.py`): every\n"
        "row was found by running `decide`. An event in no row of a state changes nothing there, or cannot\n"
        "happen and is a `ProtocolError`.\n\n"
        "## A run: one lease's life\n\n" + _diagram(runs) + "\n" + _table(runs) + "\n"
        "## A child\n\n" + _diagram(children) + "\n" + _table(children)
    )


if __name__ == "__main__":
    sys.stdout.write(page())
