"""Print docs/reference/conformance.md: BullMQ's wire line by line, and the tests that prove each line.

Reads docs/reference/conformance.toml (the lines), the tests (`# conformance: C-001 C-002` as the first line of a test's
body) and tests/interop/results.json (what `make interop` saw last). `make docs` writes the page; a test says that the
committed page is this output, and that no line is without a test or a reason.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
REPOSITORY = DOCS.parent
TESTS = REPOSITORY / "tests"
LINES = DOCS / "reference" / "conformance.toml"
RESULTS = TESTS / "interop" / "results.json"
GENERATIONS = ("5", "6")
_NAMED = re.compile(r"^\s+# conformance:((?: C-\d{3})+)$")
_WORDS = {"passed": "yes", "failed": "**no**", "skipped": "not run", None: "not run"}


@dataclass(frozen=True, slots=True)
class Test:
    """One test function: its file from tests/, its name."""

    file: str
    name: str

    @property
    def with_node(self) -> bool:
        """Tell whether real BullMQ takes part."""
        return self.file.startswith("interop/")

    @property
    def key(self) -> str:
        return f"{self.file}::{self.name}"

    @property
    def link(self) -> str:
        return f"[{Path(self.file).stem}](../../tests/{self.file})::{self.name}"


@dataclass(slots=True)
class Line:
    """One line of the list. only: the generation that it is about, None for both. reason: why no test proves it."""

    id: str
    says: str
    only: str | None
    reason: str | None
    tests: list[Test] = field(default_factory=list)


@dataclass(slots=True)
class Area:
    letter: str
    title: str
    lines: list[Line]


def areas() -> list[Area]:
    """Return the list as it is written, no test looked at."""
    read = tomllib.loads(LINES.read_text())
    only = {line: generation for generation, lines in read.pop("only").items() for line in lines}
    unproved: dict[str, str] = read.pop("unproved")
    found = []
    for letter, entries in read.items():
        title = entries.pop("title")
        lines = [Line(n, says, only.get(n), unproved.get(n)) for n, says in entries.items()]
        found.append(Area(letter, title, lines))
    unknown = (only.keys() | unproved.keys()) - {line.id for area in found for line in area.lines}
    if unknown:
        raise ValueError(f"{LINES.name}: no such line: {', '.join(sorted(unknown))}")
    return found


def proofs() -> Iterator[tuple[str, Test]]:
    """Yield each line that a test names, with the test."""
    for path in sorted(TESTS.rglob("test_*.py")):
        if "node_modules" not in path.parts:
            yield from _proofs_in(path)


def _proofs_in(path: Path) -> Iterator[tuple[str, Test]]:
    text = path.read_text()
    if "# conformance:" not in text:
        return
    name = path.relative_to(TESTS).as_posix()
    functions = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    for n, line in enumerate(text.splitlines(), 1):
        if "# conformance:" not in line:
            continue
        named = _NAMED.match(line)
        inside = [test.name for test in functions if test.lineno < n <= (test.end_lineno or 0)]
        if named is None or not inside:
            raise ValueError(f"tests/{name}:{n}: not `# conformance: C-001 C-002` inside a test")
        for line_id in named[1].split():
            yield line_id, Test(name, inside[0])


def proved() -> list[Area]:
    """Return the list with the tests of each line."""
    found = areas()
    lines = {line.id: line for area in found for line in area.lines}
    for line_id, test in proofs():
        if line_id not in lines:
            raise ValueError(f"tests/{test.key} names {line_id}: there is no such line in {LINES.name}")
        if test not in lines[line_id].tests:
            lines[line_id].tests.append(test)
    return found


def results() -> dict[str, Any]:
    """Return what the last `make interop` wrote: versions, date, outcome of each test on each generation."""
    if not RESULTS.exists():
        return {"date": None, "versions": {}, "tests": {}}
    read: dict[str, Any] = json.loads(RESULTS.read_text())
    return read


def outcome(line: Line, generation: str, seen: dict[str, dict[str, str]]) -> str | None:
    """Return the outcome of a line's tests on one generation; None: none of them has run on it."""
    found = set()
    for test in line.tests:
        outcomes = seen.get(test.key.removeprefix("interop/"), {})
        found.add(outcomes.get(generation, outcomes.get("any")))
    return next((each for each in ("failed", "passed", "skipped") if each in found), None)


def _cell(line: Line, generation: str, seen: dict[str, dict[str, str]]) -> str:
    if line.only not in (None, generation):
        return ""
    if not line.tests:
        return "-"
    if not any(test.with_node for test in line.tests):
        return "alone"
    return _WORDS[outcome(line, generation, seen)]


def _row(line: Line, seen: dict[str, dict[str, str]]) -> str:
    by = "<br>".join(test.link for test in line.tests) or f"*{line.reason}*"
    v5, v6 = (_cell(line, generation, seen) for generation in GENERATIONS)
    return f"| {line.id} | {line.says} | {v5} | {v6} | {by} |\n"


def _summary(found: list[Area], last: dict[str, Any]) -> str:
    lines = [line for area in found for line in area.lines]
    tested = [line for line in lines if line.tests]
    alone = sum(not any(test.with_node for test in line.tests) for line in tested)
    counts = {
        generation: sum(outcome(line, generation, last["tests"]) == "passed" for line in lines if line.only != other)
        for generation, other in (GENERATIONS, GENERATIONS[::-1])
    }
    about = {
        generation: sum(line.only != other for line in lines) - alone
        for generation, other in (GENERATIONS, GENERATIONS[::-1])
    }
    versions = last["versions"]
    ran = ", ".join(f"{counts[g]} of {about[g]} with BullMQ {versions.get(g, g)}" for g in GENERATIONS)
    return (
        f"**{len(tested)} of {len(lines)} lines are proved by tests.** Seen to pass by the last recorded `make interop`"
        f" ({last['date'] or 'none yet'}): {ran}; the other {alone} lines need no BullMQ beside heavyq"
        " (`alone`). An empty cell: the line is about the other generation.\n"
    )


def page() -> str:
    """Return the whole page."""
    found, last = proved(), results()
    others = [f"{name} {version}" for name, version in last["versions"].items() if name not in GENERATIONS]
    head = (
        "# Conformance: BullMQ's wire line by line\n\n"
        "Made by `python docs/conformance.py` from [the list](conformance.toml), the tests, and what `make interop`\n"
        "saw last. A test with real BullMQ runs on both generations: `yes` passed, `not run` has no recorded run yet.\n"
        "`alone`: proved on heavyq and a real server, without Node.\n\n"
    )
    parts = [head, _summary(found, last)]
    if others:
        parts.append(f"\nBeside them: {', '.join(others)}.\n")
    for area in found:
        parts.append(
            f"\n## {area.letter}. {area.title}\n\n| line | what | v5 | v6 | proved by |\n|---|---|---|---|---|\n"
        )
        parts += [_row(line, last["tests"]) for line in area.lines]
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
