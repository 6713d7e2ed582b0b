"""The results as tables: for the terminal, and as markdown for docs/reference/benchmarks.md.

`python -m tests.bench.report results/FILE.json` prints the markdown.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from tests.bench.overshoot import FAST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.figures import Numbers


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of the table. value, beside: format strings over the benchmark's numbers."""

    benchmark: str
    what: str
    value: str
    beside: str = ""


_LATE = "{late_worst_ms} ms (p50 {late_p50_ms})"
_RENEWALS = "a lock of {lock_ms} ms always had {least_left_ms} left; our slowest look at it took {slowest_look_ms} ms"
_OVERSHOOTS = {
    "steps": "100 MB every 50 ms",
    "arrays": "numpy.ones, 20 MiB each",
    "small-pages": "as fast as 4 KiB pages come",
    "huge-pages": "as fast as 2 MiB pages come",
    "one-call": "4 GiB in one system call (MAP_POPULATE)",
}
_PAST = "p50 {p50_mib:.0f} MiB, worst {worst_mib:.0f}"
_LINES = (
    _Line("dispatch", "dispatch: add to first line, p50", "{p50_ms} ms", "bare PING {ping_p50_ms} ms"),
    _Line("dispatch", "dispatch: p99", "{p99_ms} ms", "bare PING {ping_p99_ms} ms"),
    _Line(
        "throughput",
        "short jobs a second, concurrency 2",
        "{jobs_per_s:,}",
        "the same scripts in bare pipelines {yardstick_per_s:,}",
    ),
    _Line("throughput", "CPU a job: supervisor", "{supervisor_cpu_us_per_job} us"),
    _Line("throughput", "CPU a job: children", "{children_cpu_us_per_job} us"),
    _Line(
        "births_bare", "fork to ready, bare", "{p50_ms} ms (p95 {p95_ms})", "add to first line {first_line_p50_ms} ms"
    ),
    _Line(
        "births_libraries",
        "fork to ready, numpy + pandas + scikit-learn",
        "{p50_ms} ms (p95 {p95_ms})",
        "add to first line {first_line_p50_ms} ms",
    ),
    _Line("deaths_bare", "child SIGKILLed to next first line, bare", "{p50_ms} ms (p95 {p95_ms})"),
    _Line("deaths_libraries", "the same with the libraries", "{p50_ms} ms (p95 {p95_ms})"),
    _Line("renewal_cpu_hogs", "renewal late, 8 CPU hogs, worst", _LATE, _RENEWALS),
    _Line("renewal_gil_hog", "renewal late, 40 s GIL hog and 2 CPU hogs, worst", _LATE, _RENEWALS),
    _Line("payload", "renewal late, payload of {payload_mb:.0f} MB, worst", _LATE, _RENEWALS),
    _Line(
        "payload",
        "supervisor's peak with it",
        "{supervisor_peak_mib} MiB",
        "{supervisor_at_rest_mib} MiB before; such a job took {job_s} s",
    ),
    *(
        _Line(
            f"watch {children} children",
            f"supervisor, {children} quiet jobs within 5 % of their memory_limit",
            "{near_percent} % of a core",
            "limit far away {far_percent} %, no limit {no_limit_percent} %, no job {rest_percent} %",
        )
        for children in (2, 8)
    ),
    _Line(
        "looks",
        "CPU of a look at a job every 25 ms, and at one with 4 processes below it",
        "{p50_us_0_below} us, {p50_us_4_below} us",
        "looked at again and again {warm_p50_us_0_below} us, {warm_p50_us_4_below} us",
    ),
    *(
        _Line(
            f"overshoot {name}",
            f"past a memory_limit of 1 GiB: {what}",
            _PAST,
            "stopped by heavyq {stopped_by_heavyq} of {samples}"
            + ("; the machine's best is {fastest_gib_per_s} GiB/s" if name in FAST else ""),
        )
        for name, what in _OVERSHOOTS.items()
    ),
    *(
        _Line(
            f"overshoot {name}, kernel limit",
            f"the same in a group of the kernel's: {_OVERSHOOTS[name]}",
            _PAST,
            "stopped by heavyq {stopped_by_heavyq}, killed by the kernel {killed_by_kernel} (at {group_limit_mib} MiB)",
        )
        for name in FAST
    ),
    _Line(
        "recycling",
        "child replaced after a job: last line to next first line",
        "{p50_ms} ms (p95 {p95_ms})",
        "a child that stays {stays_p50_ms} ms",
    ),
    _Line(
        "leaks",
        "{jobs} jobs of {job_s} s that leak {leak_mb} MB, recycle_rss {recycle_rss}: spent on replacing children",
        "{share_percent} % of the run",
        "{replaced} replaced, {p50_ms} ms each (worst {worst_ms})",
    ),
)


def rows(results: Numbers) -> Iterator[tuple[str, str, str]]:
    """Yield name, value and what stands beside it, for every number of a run."""
    found = results["benchmarks"]
    for name, numbers in found.items():
        if "error" in numbers:
            yield name, "not measured", numbers["error"].partition("\n")[0]
    for line in _LINES:
        numbers = found.get(line.benchmark, {"error": ""})
        if "error" not in numbers:
            yield tuple(text.format(**numbers) for text in (line.what, line.value, line.beside))  # type: ignore[misc]
    if "error" not in found.get("footprint", {"error": ""}):
        yield from _footprint(found["footprint"])


def _footprint(numbers: Numbers) -> Iterator[tuple[str, str, str]]:
    total = numbers["total"]
    cpu = "{cpu_percent_of_a_core} % of a core, {wakeups_per_s} wake-ups/s"
    yield "idle worker, two children", cpu.format(**total), f"PSS {total['pss_mib']} MiB"
    for role, process in numbers["processes"].items():
        yield f"idle: {role}", cpu.format(**process), f"PSS {process['pss_mib']} MiB"


def machine_line(results: Numbers) -> str:
    """Return in one line what the numbers were taken on."""
    m = results["machine"]
    return (
        f"{m['cores']} cores, {m['cpu']}, {m['memory_gib']} GiB, kernel {m['kernel']}, Python {m['python']}, "
        f"Valkey {m['valkey']}; load average before the run {m['load_average_before']}"
    )


def show(results: Numbers, console: Console) -> None:
    """Print a run for people."""
    quick = ", quick: too few samples to compare" if results["quick"] else ""
    table = Table(title=f"heavyq {results['heavyq']} ({results['commit']}){quick}", caption=machine_line(results))
    table.add_column("what")
    table.add_column("measured", justify="right")
    table.add_column("beside it")
    for row in rows(results):
        table.add_row(*row)
    console.print(table)


def markdown(results: Numbers) -> str:
    """Return a run as a markdown table."""
    head = ("| what | measured | beside it |", "|---|---|---|")
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows(results))])


if __name__ == "__main__":
    read: Any = json.loads(Path(sys.argv[1]).read_text())
    sys.stdout.write(f"{machine_line(read)}.\n\n{markdown(read)}\n")
