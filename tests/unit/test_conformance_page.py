"""docs/reference/conformance.md is what docs/conformance.py prints; none of its lines lacks a proof or a reason."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
MARK = "# " + "conformance:"  # in two pieces: the page reads this file too


@pytest.fixture(scope="module")
def conformance() -> Any:
    spec = importlib.util.spec_from_file_location("conformance_page", DOCS / "conformance.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_committed_page_of_conformance_is_the_generated_one(conformance: Any) -> None:
    assert (DOCS / "reference" / "conformance.md").read_text() == conformance.page(), "run: make docs"


def test_the_list_is_whole(conformance: Any) -> None:
    found = conformance.areas()
    assert [line.id for area in found for line in area.lines] == [f"C-{n:03}" for n in range(1, 183)]
    assert "".join(area.letter for area in found) == "ABCDEFGHIJKL"
    assert all(line.says for area in found for line in area.lines)


def test_every_line_has_a_test_or_a_reason(conformance: Any) -> None:
    lines = [line for area in conformance.proved() for line in area.lines]
    assert [line.id for line in lines if not line.tests and not line.reason] == []
    assert [line.id for line in lines if line.tests and line.reason] == [], "proved now: take the reason out"


def test_recorded_results_are_of_tests_that_exist(conformance: Any) -> None:
    interop = conformance.TESTS / "interop"
    written = {
        f"{path.name}::{line.split('(')[0].removeprefix('def ')}"
        for path in interop.glob("test_*.py")
        for line in path.read_text().splitlines()
        if line.startswith("def test_")
    }
    assert [name for name in conformance.results()["tests"] if name not in written] == [], "run: make interop"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"def test_one():\n    {MARK} C-1\n    pass\n", "inside a test"),
        (f"def test_one():\n    pass\n\n{MARK} C-001\n", "inside a test"),
        (f"def test_one():\n    {MARK} C-183\n    pass\n", "no such line"),
    ],
)
def test_a_wrong_claim_is_refused(
    conformance: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, why: str
) -> None:
    (tmp_path / "test_some.py").write_text(text)
    monkeypatch.setattr(conformance, "TESTS", tmp_path)
    with pytest.raises(ValueError, match=why):
        conformance.proved()
