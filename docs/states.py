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
    ]
    for how, (state, actions) in begun:
        rows.append(("(new)", how, _name(state), _names(actions)))
    events: list[run.RunEvent] = [
        run.Assigned(),
        run.Reported(b"1", _USAGE),
        run.Raised(_FAILURE, _USAGE),
        run.Raised(_FAILURE, _USAGE, final=True),
        run.Postponed("snooze", 1, _USAGE),
        run.Postponed("rate_limited", 1, _USAGE),
        run.Postponed("children", 0, _USAGE),
        run.Stopped(_USAGE),
        run.ChildLost(_FAILURE, _USAGE),
        run.ChildLost(_FAILURE, _USAGE, "one of many"),
        run.ChildLost(_FAILURE, _USAGE, "another's"),
        run.LeaseLost(),
        run.StopAsked(),
        run.Condemned(_FULL, at_once=True),
        run.Condemned(_FAILURE),
        run.Refused(_FAILURE),
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
        child.RunTaken(2),
        child.RunTaken(1, alone=True),
        child.RunOver(1, clean=True, grown_bytes=0),
        child.RunOver(1, clean=False, grown_bytes=0),
        child.RunOver(2, clean=True, grown_bytes=0),
        child.Cleaned(whole=True),
        child.Cleaned(whole=False),
        child.RetireAsked("drain"),
        child.Ticked(),
        child.ChildExited(),
    ]
    return _explore([child.Starting(0.0)], events, lambda s, e: child.decide(s, e, 1.0, _LIMITS, seats=2))


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


_NAMES: dict[type, Callable[[Any], str]] = {
    child.Ready: lambda it: f"Ready ({_of_ready(it)})",
    child.RunTaken: lambda it: "RunTaken, alone" if it.alone else "RunTaken",
    child.RunOver: lambda it: "RunOver, clean" if it.clean else "RunOver, not clean",
    child.Cleaned: lambda it: "Cleaned" if it.whole else "Cleaned, not whole",
    run.Stopping: lambda it: f"Stopping ({it.why.value})",
    run.Settling: lambda it: f"Settling ({type(it.settlement).__name__})",
    run.Ended: lambda it: "Ended (lost)" if it.lost else "Ended",
    run.Raised: lambda it: "Raised, final" if it.final else "Raised",
    run.Postponed: lambda it: f"Postponed, {it.what}",
    run.ChildLost: lambda it: f"ChildLost, {it.blame}",
    run.Condemned: lambda it: "Condemned, at once" if it.at_once else "Condemned",
    run.Settled: lambda it: "Settled, lost" if it.lost else "Settled",
}


def _name(thing: Any) -> str:
    named = _NAMES.get(type(thing))
    return named(thing) if named else type(thing).__name__


def _of_ready(state: child.Ready) -> str:
    if state.runs:
        return "full" if not state.free else "seats open"
    return "idle" if state.clean else "cleaning"


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
