"""The nest for these tests. They need torch and gRPC: `make libraries` makes the environment and runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.nest import Nest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def nest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Nest]]:
    """Make zygotes of one's own: `nest(MODULE_TEXT, bare=True)`; they have imported when it returns."""
    made: list[Nest] = []

    def make(text: str, **options: object) -> Nest:
        made.append(Nest(tmp_path, text, monkeypatch, **options))  # type: ignore[arg-type]
        return made[-1].__enter__()

    yield make
    for one in made:
        one.__exit__()
