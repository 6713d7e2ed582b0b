"""`heavyq run`: reads the settings of a worker and starts its supervisor, in this process.

Owns the command line of a worker. The supervisor owns everything after.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heavyq.cli import say
from heavyq.cli.flags import takes_options
from heavyq.config import RunSettings, find_pyproject, load_run_settings

if TYPE_CHECKING:
    import typer


def register(app: typer.Typer) -> None:
    app.command("run")(run)


@takes_options()
def run(**flags: Any) -> int:
    """Work the jobs of the queues that MODULEs declare."""
    settings = read_settings(flags, need_modules=True)
    from heavyq.worker import supervisor  # loaded late: no other command needs it

    return supervisor.run(settings)


def read_settings(flags: dict[str, Any], *, need_modules: bool) -> RunSettings:
    """Read a worker's settings from flags, environment and the nearest pyproject.toml; say the warnings."""
    sets = tuple(flags.pop("sets", None) or ())
    pyproject = find_pyproject(Path.cwd())
    settings = load_run_settings(flags, os.environ, pyproject, sets=sets, need_modules=need_modules)
    for warning in settings.warnings:
        say.warning(warning)
    return settings
