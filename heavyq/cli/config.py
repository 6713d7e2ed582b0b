"""`heavyq config`: every option in effect, its value, and where it came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from heavyq.cli import say
from heavyq.cli.catalogue import declared_queues
from heavyq.cli.flags import JSON, parameter, takes_options
from heavyq.cli.run import read_settings
from heavyq.config import OPTIONS, Given, children_wanted, nearest, of_worker_type, options, resolve_queue
from heavyq.errors import UsageError
from heavyq.job.around import is_async
from heavyq.store import embedded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import typer

    from heavyq.config import QueueSettings, RunSettings
    from heavyq.queue.queue import Queue


def register(app: typer.Typer) -> None:
    app.command("config")(config)


@takes_options(parameter("as_json", bool, JSON))
def config(**flags: Any) -> None:
    """Show every option, its value and where it came from: as `heavyq run` with the same arguments would see them."""
    as_json = flags.pop("as_json")
    settings = read_settings(flags, need_modules=False)
    resolved = _resolved(settings)
    worker = _worker(settings, list(resolved.values()))
    queues = {name: each.found for name, each in resolved.items()}
    if as_json:
        say.document({"worker": _plain(worker), "queues": {name: _plain(found) for name, found in queues.items()}})
        return
    say.answer("worker")
    _show(worker)
    for name, found in queues.items():
        say.answer(f"\nqueue {name}")
        _show(found)
    if not settings.modules:
        say.note("no queues are shown: name a MODULE, or set modules in pyproject.toml, or HEAVYQ_MODULES")


class _Resolved(NamedTuple):
    """A queue's options. found: each value and where it came from. shares: its jobs are async, and share children."""

    settings: QueueSettings
    found: Mapping[str, Given]
    shares: bool


def _worker(settings: RunSettings, queues: Sequence[_Resolved]) -> dict[str, Given]:
    values = {option.name: getattr(settings, _FIELDS.get(option.name, option.name)) for option in options("worker")}
    values["redis"] = _without_password(settings.redis_url)
    alone, shared = ([each.settings for each in queues if each.shares == shares] for shares in (False, True))
    children = children_wanted(settings.concurrency, alone, shared) if queues else settings.concurrency
    return {name: Given(value, settings.origins[name]) for name, value in {"concurrency": children, **values}.items()}


def _resolved(settings: RunSettings) -> dict[str, _Resolved]:
    """Import the modules and resolve the options of the queues that the worker would serve."""
    if not settings.modules:
        return {}
    declared = declared_queues(settings)
    names = list(declared)
    if complaint := settings.options.unknown_queues(names):
        raise UsageError(complaint)
    for name in settings.queues:
        if name not in declared:
            raise UsageError(f"--queue {name}: no such queue{nearest(name, names)}; known: {', '.join(names)}")
    of_type = of_worker_type(settings.worker_type, {name: queue.profile.name for name, queue in declared.items()})
    return {
        name: _Resolved(*resolve_queue(name, queue.profile, queue.code_options, settings.options), _shares(queue))
        for name, queue in declared.items()
        if name in of_type and (not settings.queues or name in settings.queues)
    }


def _shares(queue: Queue[Any, Any]) -> bool:
    functions = [processor.function for processor in queue.processors.values()]
    return bool(functions) and all(is_async(function) for function in functions)


_FIELDS = {
    "redis": "redis_url",
    "drain_timeout": "drain_timeout_s",
    "failover_after": "failover_after_s",
    "connect_timeout": "connect_timeout_s",
}


def _plain(found: Mapping[str, Given]) -> dict[str, Any]:
    """Durations in seconds, sizes in bytes, a rate as text."""
    return {name: {"value": _json(name, given.value), "from": given.where} for name, given in found.items()}


def _json(name: str, value: Any) -> Any:
    return OPTIONS[name].show(value) if OPTIONS[name].kind == "rate" and value is not None else value


def _show(found: Mapping[str, Given]) -> None:
    rows = [(name, _words(name, given.value), given.where) for name, given in found.items()]
    say.table(("option", "value", "from"), rows)


def _words(name: str, value: Any) -> str:
    if value is None and name == "concurrency":
        return "all children"
    if value is None and name == "redis" and embedded.available():
        return "the embedded server"
    return OPTIONS[name].show(value)


def _without_password(url: str | None) -> str | None:
    if url is None:
        return None
    parts = urlsplit(url)
    return url if parts.password is None else url.replace(f":{parts.password}@", ":***@", 1)
