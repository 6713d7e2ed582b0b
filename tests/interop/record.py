"""What `make interop` saw, as tests/interop/results.json: the page docs/reference/conformance.md shows it.

Owns that file; writes it only when asked to (`--record`). The file changes when what it says does, not with each run.
"""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parent / "results.json"
_WORST_FIRST = ("failed", "skipped", "passed")


class Recorder:
    """A pytest plugin: the outcome of each test function for each generation ("any": no Node took part)."""

    def __init__(self) -> None:
        self.versions: dict[str, str] = {}
        self._tests: dict[str, dict[str, str]] = {}
        self._places: dict[str, tuple[str, str]] = {}  # node id -> test, generation

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            if isinstance(item, pytest.Function):
                callspec = getattr(item, "callspec", None)
                generation = str(callspec.params.get("node", "any")) if callspec else "any"
                self._places[item.nodeid] = (f"{item.path.name}::{item.originalname}", generation)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        place = self._places.get(report.nodeid)
        if place is not None and (report.when == "call" or not report.passed):
            outcomes = self._tests.setdefault(place[0], {})
            seen = (report.outcome, outcomes.get(place[1], "passed"))
            outcomes[place[1]] = next(each for each in _WORST_FIRST if each in seen)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.testscollected == 0 or session.shouldstop:
            return
        seen = {"versions": self.versions, "tests": self._tests}
        said = json.loads(PATH.read_text()) if PATH.exists() else {}
        if {name: said.get(name) for name in seen} != seen:
            PATH.write_text(self._text(dt.datetime.now(dt.UTC).date()))

    def _text(self, day: dt.date) -> str:
        tests = ",\n".join(f"  {json.dumps(name)}: {_line(self._tests[name])}" for name in sorted(self._tests))
        return f'{{\n "date": "{day}",\n "versions": {_line(self.versions)},\n "tests": {{\n{tests}\n }}\n}}\n'


def _line(values: dict[str, str]) -> str:
    return json.dumps(dict(sorted(values.items())))
