"""The `heavyq` command: which commands there are, and how an error becomes one line and an exit code.

Owns that and nothing else: each command is a module of its own. Driven by `heavyq.__main__`; for `run` the guard
has forked before.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

import typer

from heavyq.cli import say
from heavyq.config import wants_traceback
from heavyq.errors import AddUnknown, HeavyqError, RedisRefused, RedisReplyError, RedisUnavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

_INTERRUPTED = 130
# typer's own errors have no public root: it is the base of the one that is public
_MISUSE: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

# in the order of the help
_COMMANDS: Final = ("run", "add", "job", "jobs", "queues", "logs", "config", "demo")


def _app(argv: Sequence[str]) -> typer.Typer:
    """Build the command line.

    Where the first word is a command, only that one is loaded: a supervisor holds what it imports as long as it runs.
    """
    app = typer.Typer(
        name="heavyq",
        help="The Python worker for heavy BullMQ jobs.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_options)
    for name in argv[:1] if argv and argv[0] in _COMMANDS else _COMMANDS:
        importlib.import_module(f"heavyq.cli.{name}").register(app)
    return app


def _options(
    *,
    show_version: bool = typer.Option(False, "--version", help="Show the version and exit.", is_eager=True),
) -> None:
    if show_version:
        say.answer(f"heavyq {_version()}")
        raise typer.Exit


def _version() -> str:
    try:
        return version("heavyq")
    except PackageNotFoundError:
        return "from source, not installed"


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code. Never raises what a person did; a bug of ours comes through."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code: Any = _app(argv)(args=list(argv), prog_name="heavyq", standalone_mode=False)
    except HeavyqError as error:
        return _failed(error, _advice(error, of_a_worker=list(argv[:1]) == ["run"]))
    except _MISUSE as error:
        return _failed(UsageError(_misuse(error))) if str(error) else UsageError.exit_code  # help was shown
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except BrokenPipeError:  # `heavyq jobs q | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0


def _misuse(error: Any) -> str:
    """Word an error of the parser, with the help that would have told."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "heavyq"
    return f"{error.format_message().strip().rstrip('.')} (see {command} --help)"


def _failed(error: HeavyqError, advice: str = "") -> int:
    if wants_traceback(os.environ):
        sys.excepthook(type(error), error, error.__traceback__)
    say.error(str(error) + advice)
    return error.exit_code


def _advice(error: HeavyqError, *, of_a_worker: bool) -> str:
    """Say what to do about a Redis that a command needs."""
    if isinstance(error, AddUnknown) or (of_a_worker and isinstance(error, RedisUnavailable)):
        return ""  # it has its own
    if isinstance(error, RedisUnavailable):
        return " (is Redis running, and is --redis or HEAVYQ_REDIS right?)"
    if isinstance(error, RedisRefused):
        return " (user and password stand in the URL: redis://USER:PASSWORD@HOST)"
    if isinstance(error, RedisReplyError):
        return " (is the database in the URL one that Redis has, and may this user run scripts?)"
    return ""
