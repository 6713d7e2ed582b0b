"""A process that has declared nothing yet: for tests that declare queues, hooks and defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heavyq.queue import connection, registry

if TYPE_CHECKING:
    import pytest

_VARIABLES = ("HEAVYQ_REDIS", "REDIS_URL", "HEAVYQ_PREFIX")


def forget_declarations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget every queue, hook and default, until the end of the test; take what names a Redis from the environment."""
    monkeypatch.setattr(registry, "_queues", {})
    for hooks in ("preload_hooks", "canary_hooks", "child_start_hooks", "child_stop_hooks", "around_hooks"):
        monkeypatch.setattr(registry, hooks, [])
    monkeypatch.setattr(connection, "_by_code", connection._Defaults())
    monkeypatch.setattr(connection, "_by_worker", connection._Defaults())
    monkeypatch.setattr(connection, "_embedded_url", None)
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
