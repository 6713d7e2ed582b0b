"""Importing the user's modules: what `pkg.*` means, and one line that says why an import failed.

Owns the import path and the wording. Called where user code may run: in the zygote and in short-lived
commands, never in the supervisor.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from heavyq.errors import ConfigError, HeavyqError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_HEAVYQ = Path(__file__).parents[1]
_DEMO = _HEAVYQ / "demo"  # user code, of ours


def import_modules(names: Iterable[str]) -> tuple[str, ...]:
    """Import modules, with the current folder on the path; return the names of what was imported.

    Whatever a module raises comes through: put it into words with `why_it_does_not_import`.
    """
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    imported = []
    for name in names:
        for single in _expand(name):
            importlib.import_module(single)
            imported.append(single)
    return tuple(dict.fromkeys(imported))


def _expand(name: str) -> Iterator[str]:
    """Yield the modules of one name: `pkg.*` is the package and all below it, but `__main__`, a program."""
    if not name.endswith(".*"):
        yield _checked(name)
        return
    package = importlib.import_module(_checked(name.removesuffix(".*")))
    yield package.__name__
    if not hasattr(package, "__path__"):
        raise ConfigError(f"{name}: {package.__name__} is a module, no package; write {package.__name__}")
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + ".", onerror=_raise):
        if not found.name.endswith(".__main__"):
            yield found.name


def _raise(_name: str) -> NoReturn:
    raise  # noqa: PLE0704 - walk_packages calls this inside its except; without it a broken package is skipped


def _checked(name: str) -> str:
    if name.endswith(".py") or "/" in name:
        dotted = name.removesuffix(".py").strip("./").replace("/", ".")
        raise ConfigError(f"{name} is a file name; a module is named with dots: {dotted}")
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"{name!r} is no module name: write pkg.module or pkg.*")
    return name


def why_it_does_not_import(error: BaseException, names: Iterable[str] = ()) -> str:
    """Return one line: what an import raised, and where.

    names: the modules that were asked for: one of them that does not exist is told apart from one that is
    missing inside them.
    """
    if isinstance(error, ModuleNotFoundError) and error.name and _asked_for(error.name, names):
        return f"there is no module {error.name} in {Path.cwd()} or on the import path (is the folder right?)"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    why = what_was_raised(error)
    if isinstance(error, SystemExit):
        why += '; what a program does belongs below `if __name__ == "__main__":`'
    return why


def what_was_raised(error: BaseException) -> str:
    """Return one line: what user code raised, and where in it. An error of heavyq's needs no name."""
    name, text = type(error).__name__, text_of(error)
    if not isinstance(error, HeavyqError) or not text:
        text = f"{name}: {text}" if text else name
    line, where = text.splitlines()[0], _where(error)
    return f"{line} ({where})" if where else line


def text_of(error: BaseException) -> str:
    """Return the text of an error of user code, which may have none, or raise when it is asked."""
    try:
        return str(error)
    except Exception as other:  # noqa: BLE001 - anything may be raised there
        return f"(no text: its __str__ raises {type(other).__name__})"


def _asked_for(missing: str, names: Iterable[str]) -> bool:
    return any(f"{name.removesuffix('.*')}.".startswith(f"{missing}.") for name in names)


def _where(error: BaseException) -> str:
    """Return file and line of the user's frame that is nearest to the error."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith("<") and "/importlib/" not in frame.filename and not _is_ours(frame.filename):
            return f"{frame.filename}:{frame.lineno}"
    return ""


def _is_ours(filename: str) -> bool:
    path = Path(filename)
    return path.is_relative_to(_HEAVYQ) and not path.is_relative_to(_DEMO)
