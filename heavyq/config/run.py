"""The settings of one `heavyq run`, from flags, environment and pyproject.toml, each with its origin.

Owns what is resolved before a module is imported. What depends on the modules' queues is in `queues`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from heavyq.config.sources import (
    Given,
    Project,
    Sources,
    merge,
    read_environ,
    read_flags,
    read_pyproject,
    read_sets,
    unknown_variables,
)
from heavyq.config.table import nearest, options
from heavyq.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunSettings:
    """Everything that `heavyq run` was told.

    modules: dotted names, `pkg.*` not yet expanded; empty only if they were not asked for.
    concurrency: number of children; None: not given, then each queue's own holds (see `children_wanted`).
    queues: serve only these; empty: all. worker_type: profile names in lower case; None: all.
    redis_url: None: the embedded server. prefix: for queues that name none. failover_after_s: None: off.
    memory_budget: bytes that all jobs share; None: auto.
    options: what the three sources say, for `resolve_queue`. origins: per worker option, where its value
    came from. warnings: to be said at start.
    """

    modules: tuple[str, ...] = ()
    concurrency: int | None = None
    queues: tuple[str, ...] = ()
    worker_type: tuple[str, ...] | None = None
    redis_url: str | None = None
    prefix: str = "bull"
    drain_timeout_s: float = 20.0
    failover_after_s: float | None = 8.0
    connect_timeout_s: float = 10.0
    name: str | None = None
    memory_budget: int | None = None
    burst: bool = False
    log_format: Literal["text", "json"] = "text"
    log_level: str = "info"
    options: Sources = field(default_factory=Sources)
    origins: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def load_run_settings(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    pyproject: Path | None,
    *,
    sets: tuple[str, ...] = (),
    need_modules: bool = True,
) -> RunSettings:
    """Read the three sources and resolve the worker's own options.

    flags: by option name, as typed; None is a flag that was not given. pyproject: the file, None if there
    is none. sets: the texts of `--set`. need_modules: refuse to go on without a module. Raises UsageError
    for what was typed, ConfigError for what stands in the environment or the file.
    """
    project = read_pyproject(pyproject)
    from_flags, from_environ = read_flags(flags), read_environ(environ)
    given = merge(from_flags, from_environ, project.given)
    found = {o.name: given.get(o.name, Given(o.default, "default")) for o in options("worker")}
    worker_type = _worker_type(found["worker_type"].value)
    found["modules"] = _modules(from_flags, project, from_environ, worker_type)
    if need_modules and not found["modules"].value:
        raise ConfigError(
            "no module to work with: write `heavyq run MODULE`, or set modules in [tool.heavyq] of "
            "pyproject.toml, or HEAVYQ_MODULES"
        )
    concurrency = given.get("concurrency", Given(None, "the queues"))
    queue_options = {o.name for o in options("queue")}
    return RunSettings(
        modules=found["modules"].value,
        concurrency=concurrency.value,
        queues=found["queues"].value or (),
        worker_type=worker_type,
        redis_url=found["redis"].value,
        prefix=found["prefix"].value,
        drain_timeout_s=found["drain_timeout"].value,
        failover_after_s=found["failover_after"].value,
        connect_timeout_s=found["connect_timeout"].value,
        name=found["name"].value,
        memory_budget=found["memory_budget"].value,
        burst=found["burst"].value,
        log_format=cast("Literal['text', 'json']", found["log_format"].value),
        log_level=found["log_level"].value,
        options=Sources({name: value for name, value in given.items() if name in queue_options}, read_sets(sets)),
        origins={**{name: value.where for name, value in found.items()}, "concurrency": concurrency.where},
        warnings=unknown_variables(environ),
    )


def _worker_type(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    lower = tuple(name.lower() for name in names or ())
    return None if not lower or "all" in lower else lower


def _modules(
    flags: Mapping[str, Given],
    project: Project,
    environ: Mapping[str, Given],
    worker_type: tuple[str, ...] | None,
) -> Given:
    """Find the modules: arguments, then pyproject.toml (a table: by type), then HEAVYQ_MODULES."""
    if "modules" in flags:
        return flags["modules"]
    if project.modules_by_type:
        table = project.modules_by_type
        for kind in worker_type or ():
            if kind not in table:
                raise UsageError(
                    f"--worker-type {kind}: pyproject.toml names no modules for it{nearest(kind, table)}; "
                    f"it has: {', '.join(sorted(table))}"
                )
        names = [name for kind in worker_type or table for name in table[kind]]
        return Given(tuple(dict.fromkeys(names)), "pyproject.toml")
    if "modules" in project.given:
        return project.given["modules"]
    return environ.get("modules", Given((), "unset"))
