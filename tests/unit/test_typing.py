"""The types of the public API: what must pass mypy --strict and pyright, and the mistakes that both must catch."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "typing"
ROOT = FOLDER.parents[1]
FILES = [str(FOLDER / name) for name in ("passes.py", "mistakes.py")]


def marked(name: str) -> set[int]:
    lines = (FOLDER / name).read_text().splitlines()
    return {n for n, line in enumerate(lines, 1) if line.endswith("# wrong")}


def run(*argv: str) -> str:
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False).stdout


def mypy() -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {"passes.py": {}, "mistakes.py": {}}
    out = run(sys.executable, "-m", "mypy", "--strict", "--hide-error-context", "--no-pretty", *FILES)
    for path, line, message in re.findall(r"^(\S+?):(\d+): error: (.*)$", out, re.MULTILINE):
        found.setdefault(Path(path).name, {})[int(line)] = message
    assert "checked 2 source files" in out, out
    return found


def pyright() -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {"passes.py": {}, "mistakes.py": {}}
    out = run(sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, *FILES)
    report = json.loads(out)
    assert report["summary"]["filesAnalyzed"] == 2, out
    for each in report["generalDiagnostics"]:
        if each["severity"] == "error":
            name, line = Path(each["file"]).name, each["range"]["start"]["line"] + 1
            found.setdefault(name, {})[line] = each["message"]
    return found


CHECKERS = [
    mypy,
    pytest.param(
        pyright, marks=pytest.mark.skipif(shutil.which("node") is None, reason="pyright needs node, and there is none")
    ),
]


@pytest.mark.parametrize("checker", CHECKERS)
def test_the_api_has_the_types_it_promises_and_mistakes_are_caught(checker):
    found = checker()
    assert found["passes.py"] == {}
    caught, wrong = found["mistakes.py"], marked("mistakes.py")
    assert wrong - caught.keys() == set(), "these mistakes were not caught"
    assert {line: caught[line] for line in caught.keys() - wrong} == {}, "these lines are no mistakes"
