"""The words for a canary that did not come to its end, and what is tried in it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from heavyq.job.canary import in_words
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
    ("trial", "raised", "code", "hung_s", "said"),
    [
        (LIBRARY, None, 1, 10.0, f"a forked child hangs in scikit-learn (two threads, over 10 s): {POOL}{CURE}"),
        (
            HOOK,
            None,
            -9,
            10.0,
            f"a forked child hangs in @canary encode_one (over 10 s); if it computes with threads: {CURE}",
        ),
        (HOOK, "OSError: x (app.py:7)", 1, None, f"@canary encode_one raised OSError: x (app.py:7) in {TRIED} it"),
        (LIBRARY, None, -11, None, f"{TRIED} scikit-learn was killed in it by signal 11 (SIGSEGV): {SPAWN}"),
        (HOOK, None, -35, None, f"{TRIED} @canary encode_one was killed in it by signal 35 (?): {SPAWN}"),
        (HOOK, None, 7, None, f"{TRIED} @canary encode_one ended in it with exit code 7"),
        (None, None, 1, None, f"{TRIED} its birth ended in it with exit code 1"),
    ],
    ids=["library hangs", "hook hangs", "raised", "signal", "unnamed signal", "exit", "unborn"],
)
def test_each_ending_is_told_with_what_to_do(
    trial: Trial | None, raised: str | None, code: int, hung_s: float | None, said: str
) -> None:
    assert in_words(trial, raised, code, hung_s) == said


def test_another_library_that_may_have_made_the_pool_is_named_too() -> None:
    libraries = ["torch", "scikit-learn", "OpenMP (/lib/libgomp.so.1)"]
    said = in_words(Trial("torch", lambda: None, needs="torch"), None, 1, 10.0, libraries)
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
