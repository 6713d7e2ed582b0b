"""docs/explain/states.md is what docs/states.py prints: the diagrams are the code's."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_committed_page_of_states_is_the_generated_one():
    spec = importlib.util.spec_from_file_location("states", DOCS / "states.py")
    states = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(states)
    assert (DOCS / "explain" / "states.md").read_text() == states.page(), "run: make docs"
    rows = states.run_rows() + states.child_rows()
    assert {state for state, *_ in states.run_rows()} >= {"Leased", "Running", "Stopping (handed back)"}
    assert len(rows) > 40
