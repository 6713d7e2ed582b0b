"""What the files in `deploy/` say, in heavyq's own terms: a command line as the worker would read it.

Owns the sums that those files must get right: how long a stop takes, what fits into a container.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer.main
import yaml

from heavyq.cli.app import _app
from heavyq.config import load_run_settings
from heavyq.core.memory import mark_bytes
from heavyq.worker.supervisor import _SETTLE_LIMIT_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from heavyq.config import RunSettings

FOLDER = Path(__file__).resolve().parents[2] / "deploy"
MIB = 1 << 20
GRACE_S = 5.0  # for a stopped job to save its work: not an option yet
WORKER_BYTES = 48 * MIB  # guard and supervisor: tests/integration/test_deploy_image.py measures them
CHILD_BYTES = 4 * MIB  # without a job
FEW_IMPORTS, MANY_IMPORTS = 64 * MIB, 1024 * MIB  # zygotes: heavyq alone; a few large libraries


def settings_of(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> RunSettings:
    """Read `run ...` as the command does. Fails where the command would."""
    command: Any = typer.main.get_command(_app(argv))
    name, *words = argv
    flags = dict(command.commands[name].make_context(name, words).params)
    sets = tuple(flags.pop("sets") or ())
    return load_run_settings(flags, environ or {}, None, sets=sets, need_modules=False)


def option(settings: RunSettings, name: str) -> Any:
    """Return a queue option that the command line gives to all queues; None if it gives none."""
    given = settings.options.given.get(name)
    return given.value if given else None


def stop_s(settings: RunSettings) -> float:
    """Return how long a worker may take to end after TERM."""
    return settings.drain_timeout_s + GRACE_S + _SETTLE_LIMIT_S


def room_left(settings: RunSettings, limit_bytes: int, *, tmpfs_bytes: int = 0) -> int:
    """Return what a container has for imports if all its jobs are at their limit and its tmpfs is full."""
    assert settings.concurrency, "the number of children is left open"
    jobs: int = settings.concurrency * (CHILD_BYTES + option(settings, "memory_limit"))
    return mark_bytes(limit_bytes) - jobs - WORKER_BYTES - tmpfs_bytes


def documents(*path: str) -> list[dict[str, Any]]:
    """Return the YAML documents of a file in `deploy/`."""
    return list(yaml.safe_load_all(FOLDER.joinpath(*path).read_text()))
