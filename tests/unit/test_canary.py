"""The words for a canary that did not come to its end, and what is tried in it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from heavyq.job.canary import end_in_words, hang_in_words
from heavyq.job.trials import Trial, trials
from heavyq.queue import registry

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY = Trial("scikit-learn", lambda: None, needs="sklearn.cluster")
HOOK = Trial("@canary encode_one", lambda: None, is_hook=True)
CURE = 'move what computes at import into a @preload function, or set start_method="spawn" on the queues'
TRIED = "the child that was forked to try"
SPAWN = 'if it does not survive a fork, set start_method="spawn" on the queues'
POOL = (
    "most likely a pool of OpenMP threads was made in the main thread at import, and a forked child has none of them: "
)


@pytest.mark.parametrize(
    ("trial", "over_s", "said"),
    [
        (LIBRARY, 10.0, f"a forked child hangs in scikit-learn (two threads, over 10 s): {POOL}{CURE}"),
        (
            HOOK,
            2.5,
            f"a forked child hangs in @canary encode_one (over 2.5 s); if it computes with threads: {CURE}",
        ),
        (None, 10.0, f"a forked child hangs in its birth (over 10 s); if it computes with threads: {CURE}"),
    ],
    ids=["library", "hook", "unborn"],
)
def test_each_hang_is_told_with_what_to_do(trial: Trial | None, over_s: float, said: str) -> None:
    assert hang_in_words(trial, over_s) == said


@pytest.mark.parametrize(
    ("trial", "raised", "code", "said"),
    [
        (HOOK, "OSError: x (app.py:7)", 1, f"@canary encode_one raised OSError: x (app.py:7) in {TRIED} it"),
        (LIBRARY, None, -11, f"{TRIED} scikit-learn was killed in it by signal 11 (SIGSEGV): {SPAWN}"),
        (HOOK, None, -35, f"{TRIED} @canary encode_one was killed in it by signal 35 (?): {SPAWN}"),
        (HOOK, None, 7, f"{TRIED} @canary encode_one ended in it with exit code 7"),
        (None, None, 1, f"{TRIED} its birth ended in it with exit code 1"),
    ],
    ids=["raised", "signal", "unnamed signal", "exit", "unborn"],
)
def test_each_other_ending_is_told_with_what_to_do(
    trial: Trial | None, raised: str | None, code: int, said: str
) -> None:
    assert end_in_words(trial, raised, code) == said


@pytest.mark.parametrize("trial", [LIBRARY, HOOK, None])
def test_a_canary_that_somebody_killed_is_no_reason_to_spawn(trial: Trial | None) -> None:
    """The kernel, where the container is too small. Children that import for themselves would need more."""
    said = end_in_words(trial, None, -9)
    assert "was killed in it by signal 9 (SIGKILL): most likely by the kernel, for want of memory" in said
    assert "the container may be too small" in said
    assert "spawn" not in said
    assert "fork," not in said


def test_another_library_that_may_have_made_the_pool_is_named_too() -> None:
    libraries = ["torch", "scikit-learn", "OpenMP (/lib/libgomp.so.1)"]
    said = hang_in_words(Trial("torch", lambda: None, needs="torch"), 10.0, libraries)
    assert "hangs in torch" in said
    assert "made in the main thread at import (by torch or scikit-learn: they may share it), and" in said


def test_only_loaded_libraries_are_tried_and_the_users_hooks_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    def look() -> None: ...

    hooks: list[Callable[[], object]] = [look]
    monkeypatch.setattr(registry, "canary_hooks", hooks)
    for library in ("torch", "sklearn"):
        monkeypatch.delitem(sys.modules, library, raising=False)
    assert [trial.name for trial in trials() if not trial.name.startswith("OpenMP")] == [f"@canary {look.__qualname__}"]
    monkeypatch.setitem(sys.modules, "sklearn", sys)
    monkeypatch.setitem(sys.modules, "torch", sys)
    names = [trial.name for trial in trials()]
    assert names[:2] == ["torch", "scikit-learn"]
    assert names[-1] == f"@canary {look.__qualname__}"
