"""Flags made from the table of options, so that an option's name, meaning and default stand once.

Owns how an option looks on a command line. Reads no value: `heavyq.config` does, and words what is wrong.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final, TypeVar

import typer

from heavyq.config import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from heavyq.config import Option

F = TypeVar("F", bound="Callable[..., Any]")
_METAVARS: Final = {
    "int": "N",
    "duration": "TIME",
    "size": "SIZE",
    "names": "NAME",
    "url": "URL",
    "text": "TEXT",
    "label": "TEXT",
    "id": "ID",
}
JSON: Final = typer.Option(False, "--json", help="Print one JSON document on stdout.")


def takes_options(*extra: inspect.Parameter) -> Callable[[F], F]:
    """Let a command take every flag of a worker, `--set` and MODULEs, as keywords by option name."""
    worker = [o for o in OPTIONS.values() if o.scope != "job" and o.flags and o.name != "modules"]
    modules = typer.Argument(None, metavar="MODULE", help=_help(OPTIONS["modules"]))
    sets = typer.Option(None, "--set", metavar="QUEUE.OPTION=VALUE", help="One option of one queue; may be repeated.")
    listed = (parameter("modules", list[str], modules), *map(_flag, worker), parameter("sets", list[str], sets), *extra)
    return _with_parameters(listed)


def takes_place(*names: str) -> Callable[[F], F]:
    """Let a command take `--redis`, `--prefix`, `--json` and the options named, besides its own parameters."""
    flags = {name: _flag(OPTIONS[name]) for name in (*names, "redis", "prefix")}
    flags["as_json"] = parameter("as_json", bool, JSON)

    def decorate(command: F) -> F:
        own = inspect.signature(command, eval_str=True).parameters.values()
        kept = (p for p in own if p.name not in flags and p.kind is not p.VAR_KEYWORD)
        return _with_parameters((*kept, *flags.values()))(command)

    return decorate


def parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    """Return one parameter in the form that typer reads."""
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation)


def _flag(option: Option) -> inspect.Parameter:
    annotation: Any = str
    default: Any = None
    if option.kind == "bool":
        annotation, default = bool, False
    elif option.kind == "names" and option.name != "worker_type":
        annotation = list[str]
    words = typer.Option(
        default,
        *option.flags,
        help=_help(option),
        metavar=None if annotation is bool else _metavar(option),
        hidden=not option.built,
        show_default=False,
    )
    return parameter(option.name, annotation, words)


def _metavar(option: Option) -> str:
    if option.auto:
        return f"{_METAVARS[option.kind]}|auto"
    return _METAVARS.get(option.kind, "|".join(option.choices))


def _help(option: Option) -> str:
    unsaid = option.kind == "bool" or (option.default is None and not option.auto)
    default = "" if unsaid else f" [default: {option.show(option.default)}]"
    return f"{option.meaning[0].upper()}{option.meaning[1:]}.{default}"


def _with_parameters(listed: Sequence[inspect.Parameter]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        command.__signature__ = inspect.Signature(listed)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in listed}
        return command

    return decorate
