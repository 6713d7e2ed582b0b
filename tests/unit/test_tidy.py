"""What no linter looks for: words and calls that may stand in certain files only."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from heavyq.bullmq import scripts

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "heavyq"
HIDDEN_BUT_OURS = {".ci", ".gitignore"}
NOT_OURS = {"node_modules", "build", "dist", "__pycache__", "demo-out", "package-lock.json"}


@cache
def sources(folder: Path) -> tuple[Path, ...]:
    """Every file below a folder that is ours and may be committed."""
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        hidden = path.name.startswith(".") and path.name not in HIDDEN_BUT_OURS
        if hidden or path.name in NOT_OURS or path.name.endswith(".egg-info"):
            continue
        found += sources(path) if path.is_dir() else [path]
    return tuple(found)


def python(folder: Path, *, but: set[str] = frozenset()) -> Iterator[tuple[str, ast.Module]]:  # type: ignore[assignment]
    """The Python files below a folder, by their path in the repository, each parsed."""
    for path in sources(folder):
        name = path.relative_to(REPOSITORY).as_posix()
        if path.suffix == ".py" and not any(name.startswith(prefix) for prefix in but):
            yield name, ast.parse(path.read_text())


def lines(folder: Path, pattern: str) -> list[str]:
    """Every line of every text file that matches, as `path:line: text`. This file, which names them, is left out."""
    looked_for = re.compile(pattern)
    return [
        f"{path.relative_to(REPOSITORY)}:{n}: {line.strip()[:120]}"
        for path in sources(folder)
        if path != Path(__file__).resolve()
        for n, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if looked_for.search(line)
    ]


def calls(tree: ast.AST) -> Iterator[tuple[int, str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func), node


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every string literal (an f-string's parts, too) that is no docstring."""
    prose = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in prose and isinstance(node.value, str | bytes):
            value = node.value
            yield node.lineno, value if isinstance(value, str) else value.decode(errors="replace")


def none(found: list[str]) -> None:
    assert not found, "\n" + "\n".join(found)


def calls_of(names: str, folder: Path, but: set[str]) -> list[str]:
    """Where functions of these names (a pattern) are called, outside the files that may."""
    wanted = re.compile(names)
    return [
        f"{name}:{line}: {called}"
        for name, tree in python(folder, but=but)
        for line, called, _ in calls(tree)
        if wanted.fullmatch(called)
    ]


def test_the_clock_is_read_in_one_place() -> None:
    none(calls_of(r"time\.time(_ns)?|datetime\.(datetime\.)?now", PACKAGE, {"heavyq/linux/clock.py"}))


def test_only_guard_zygote_and_keeper_fork() -> None:
    may = {"heavyq/worker/guard.py", "heavyq/job/zygote.py", "heavyq/store/keeper.py"}
    none(calls_of(r"(os\.)?fork(pty)?", PACKAGE, may))


def test_key_names_stand_in_bullmq_only() -> None:
    structures = (
        "wait|active|delayed|prioritized|paused|completed|failed|waiting-children"
        "|stalled|stalled-check|meta|events|marker|pc|repeat"
    )
    fields = "fence|settled|usage|failure|checkpoint|cancel|strikes|counter|beats|sweep"
    literal = re.compile(rf"(^|[^/]):({structures})$|^hq:({fields})$")
    none(
        [
            f"{name}:{line}: {text!r}"
            for name, tree in python(PACKAGE, but={"heavyq/bullmq/"})
            for line, text in texts(tree)
            if literal.search(text)
        ]
    )
    suffix = re.compile(structures)
    none(
        [
            f"{name}:{line}: {called}({ast.unparse(call.args[0])})"
            for name, tree in python(PACKAGE, but={"heavyq/bullmq/"})
            for line, called, call in calls(tree)
            if called.endswith(".key")
            and call.args
            and isinstance(call.args[0], ast.Constant)
            and suffix.fullmatch(str(call.args[0].value))
        ]
    )


def test_bullmqs_field_names_stand_in_bullmq_only() -> None:
    names = re.compile(
        "processedOn|finishedOn|failedReason|attemptsMade|attemptsStarted|stalledCounter|returnvalue|parentKey"
        "|removeOnComplete|removeOnFail|keepLogs|stackTraceLimit|sizeLimit|maxLenEvents"
    )
    none(
        [
            f"{name}:{line}: {text!r}"
            for name, tree in python(PACKAGE, but={"heavyq/bullmq/"})
            for line, text in texts(tree)
            if names.fullmatch(text)
        ]
    )


def test_tests_wait_with_eventually_and_never_sleep() -> None:
    found = calls_of(r"(time|asyncio)\.sleep", REPOSITORY / "tests", {"tests/support/", "tests/bench/"})
    none([place for place in found if "/test_" in place or "/conftest" in place])  # others are users' modules


def test_nothing_is_left_to_be_done_later() -> None:
    none(lines(REPOSITORY, r"\b(TODO|FIXME|XXX|NotImplementedError)\b"))


def test_no_path_of_a_machine_and_no_registry_is_named() -> None:
    machine = r"(?<![\w.])/(work|root|home/\w|Users)/|\.\./shared\b"
    registry = r"(pypi|npmjs|pythonhosted)\.(org|com)"
    none(lines(REPOSITORY, f"{machine}|{registry}"))


def test_every_module_says_what_it_owns() -> None:
    none([name for name, tree in python(PACKAGE) if tree.body and not ast.get_docstring(tree)])


def test_every_operation_is_a_pair_of_files() -> None:
    ops = PACKAGE / "bullmq" / "ops"
    lua, py = ({path.stem for path in ops.glob(f"*.{kind}")} for kind in ("lua", "py"))
    assert lua - py == scripts.SHARED - py
    assert lua, "no Lua at all"


@pytest.mark.parametrize("path", sorted((PACKAGE / "bullmq" / "ops").glob("*.lua")), ids=lambda path: path.name)
def test_every_script_says_its_keys_and_what_it_returns(path: Path) -> None:
    if path.stem not in scripts.SHARED:
        head = path.read_text()
        assert head.startswith("--")
        for word in ("-- KEYS[1]", "-- Returns"):
            assert word in head, f"{path.name} does not say {word}"


def test_links_between_pages_lead_somewhere() -> None:
    link = re.compile(r"\[[^\]]*\]\((?!https?:|#|mailto:)([^)#\s]+)")
    none(
        [
            f"{page.relative_to(REPOSITORY)}: {target}"
            for page in sources(REPOSITORY)
            if page.suffix == ".md"
            for target in link.findall(page.read_text())
            if not (page.parent / target).exists()
        ]
    )
