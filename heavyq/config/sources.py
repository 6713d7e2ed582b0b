"""Option values from flags, environment and pyproject.toml: loaded in this one place, each with its origin.

Owns the reading of the three sources and their order. Decides nothing about queues (see `queues`).
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from heavyq.config.table import OPTIONS, find_option, nearest
from heavyq.errors import BadValue, ConfigError, NotBuiltYet, UnknownOption, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# Names in the environment that are no options: switches of the embedded server, of errors, and what
# children get.
_SWITCHES: Final = frozenset({"HEAVYQ_EMBEDDED", "HEAVYQ_TRACEBACK", "HEAVYQ_SLOT"})
# Kubernetes makes these for a Service named heavyq, or heavyq-something, in every pod of the namespace.
_KUBERNETES: Final = re.compile(
    r"HEAVYQ_(SERVICE_.*|PORT(_.*)?|\w+_SERVICE_(HOST|PORT(_\w+)?)|\w+_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
)
_SERVICE_URL: Final = re.compile(r"(tcp|udp|sctp)://")
_SET: Final = re.compile(r"(?P<queue>.+?)\.(?P<option>[A-Za-z][A-Za-z_-]*)=(?P<value>.*)", re.DOTALL)


class Given(NamedTuple):
    """A value, and where it was given."""

    value: Any
    where: str


@dataclass(frozen=True, slots=True)
class Sources:
    """What flags, environment and pyproject.toml say.

    given: per option, the value of the source that wins among the three. per_queue: `--set`, by queue and
    option.
    """

    given: Mapping[str, Given] = field(default_factory=dict)
    per_queue: Mapping[str, Mapping[str, Given]] = field(default_factory=dict)

    def unknown_queues(self, names: Sequence[str]) -> str | None:
        """Return a message if a `--set` names a queue that is not among these."""
        for queue in self.per_queue:
            if queue not in names:
                known = ", ".join(sorted(names)) or "none"
                return f"--set {queue}: the worker has no such queue{nearest(queue, names)}; it has: {known}"
        return None


# ---- flags ------------------------------------------------------------------------------------------------


def read_flags(flags: Mapping[str, Any]) -> dict[str, Given]:
    """Read flags by option name; None, False and an empty list are flags that were not given.

    Raises UsageError: the option, what is wrong and what to write.
    """
    found: dict[str, Given] = {}
    for name, value in flags.items():
        if value is None or value is False or value in ([], ()):
            continue
        option = OPTIONS[name]
        flag = option.flags[0]
        try:
            found[name] = Given(option.read(value, label=flag, text=True), flag)
        except (BadValue, NotBuiltYet) as error:
            raise UsageError(str(error)) from error
    return found


def read_sets(texts: Sequence[str]) -> dict[str, dict[str, Given]]:
    """Read `--set QUEUE.OPTION=VALUE`; of two for one option the later counts.

    Raises UsageError.
    """
    found: dict[str, dict[str, Given]] = {}
    for text in texts:
        match = _SET.fullmatch(text)
        if match is None:
            raise UsageError(f"--set {text}: write QUEUE.OPTION=VALUE, such as videos.lock_duration=5m")
        queue, name = match["queue"], match["option"].replace("-", "_")
        where = f"--set {queue}.{name}"
        if name in OPTIONS and OPTIONS[name].scope == "job":
            raise UsageError(f"{where}: a job's options belong to whoever adds it: set it in Queue(...) or in add")
        try:
            value = find_option(name, "queue", where="--set").read(match["value"], label=where, text=True)
        except (BadValue, NotBuiltYet, UnknownOption) as error:
            raise UsageError(str(error)) from error
        found.setdefault(queue, {})[name] = Given(value, where)
    return found


# ---- environment ------------------------------------------------------------------------------------------


def read_environ(environ: Mapping[str, str]) -> dict[str, Given]:
    """Read the options that the environment gives. An empty variable is one that is not set.

    Raises ConfigError.
    """
    found: dict[str, Given] = {}
    for option in OPTIONS.values():
        for variable in option.env:
            text = environ.get(variable, "")
            if not text.strip() or _made_by_kubernetes(variable, text):
                continue
            found[option.name] = Given(option.read(text, label=variable, text=True), variable)
            break
    return found


def unknown_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return a warning for each `HEAVYQ_*` variable that means nothing to heavyq.

    Raises ConfigError for one that names a job option: it would be ignored, and looks as if it were not.
    """
    known = {variable for option in OPTIONS.values() for variable in option.env} | _SWITCHES
    warnings = []
    for variable in sorted(environ):
        if not variable.startswith("HEAVYQ_") or variable in known or _made_by_kubernetes(variable, environ[variable]):
            continue
        name = variable.removeprefix("HEAVYQ_").lower()
        if name in OPTIONS and OPTIONS[name].scope == "job":
            raise ConfigError(
                f"{variable}: a job's options belong to whoever adds it: set {name} in Queue(...) or in add"
            )
        close = nearest(name, [k.removeprefix("HEAVYQ_").lower() for k in known if k.startswith("HEAVYQ_")])
        hint = re.sub(r'"(\w+)"', lambda m: f"HEAVYQ_{m[1].upper()}", close)
        warnings.append(f"{variable} in the environment means nothing to heavyq{hint}")
    return tuple(warnings)


def wants_traceback(environ: Mapping[str, str]) -> bool:
    """Tell whether `HEAVYQ_TRACEBACK` asks for tracebacks beside the one line that says what is wrong."""
    return environ.get("HEAVYQ_TRACEBACK", "0") not in {"", "0"}


def _made_by_kubernetes(variable: str, text: str) -> bool:
    return bool(_KUBERNETES.fullmatch(variable)) or (variable.endswith("_PORT") and bool(_SERVICE_URL.match(text)))


# ---- pyproject.toml ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Project:
    """`[tool.heavyq]` of one pyproject.toml. modules_by_type: only if `modules` is a table."""

    given: Mapping[str, Given] = field(default_factory=dict)
    modules_by_type: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def find_pyproject(folder: Path) -> Path | None:
    """Return the nearest pyproject.toml at or above a folder."""
    for place in (folder, *folder.parents):
        if (place / "pyproject.toml").is_file():
            return place / "pyproject.toml"
    return None


def read_pyproject(path: Path | None) -> Project:
    """Read `[tool.heavyq]`; without a file or a table, nothing is given.

    Raises ConfigError.
    """
    if path is None:
        return Project()
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("heavyq", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: [tool.heavyq] is no table")
    where = "pyproject.toml"
    by_type: dict[str, tuple[str, ...]] = {}
    found: dict[str, Given] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        label = f"{where} [tool.heavyq] {key}"
        if name in OPTIONS and OPTIONS[name].scope == "job":
            raise ConfigError(f"{label}: a job's options belong to whoever adds it: set it in Queue(...) or in add")
        option = find_option(name, "queue", "worker", where=f"{where} [tool.heavyq]")
        if name == "modules" and isinstance(value, dict):
            by_type = {kind.lower(): option.read(names, label=f"{label}.{kind}") for kind, names in value.items()}
        else:
            found[name] = Given(option.read(value, label=label, text=True), where)
    return Project(found, by_type)


def merge(*layers: Mapping[str, Given]) -> dict[str, Given]:
    """Merge sources; the first that gives an option wins."""
    merged: dict[str, Given] = {}
    for layer in reversed(layers):
        merged.update(layer)
    return merged
