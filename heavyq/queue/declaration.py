"""What the code says about one queue, from every place that says something, and where it was said.

Owns the merging of several `Queue(...)` of one name, and the refusal when they contradict each other. Knows no
Redis and no processor.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from heavyq.config.profiles import CodeOptions, Profile, read_queue_options
from heavyq.config.table import OPTIONS
from heavyq.errors import BadValue
from heavyq.queue.connection import check_url
from heavyq.queue.typed import Types

if TYPE_CHECKING:
    from collections.abc import Mapping

_NO_OPTIONS: Final = ("payload", "result", "profile", "connection")


@dataclass(frozen=True, slots=True)
class Place:
    """A line of user code. of_module: it stands outside of every function."""

    file: str
    line: int
    of_module: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    @classmethod
    def of_caller(cls, depth: int) -> Place:
        """Return the line that called. depth: 1 is the caller of the function that asks."""
        frame = sys._getframe(depth + 1)  # noqa: SLF001 - inspect.stack reads source files for each frame
        return cls(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name == "<module>")


@dataclass(frozen=True, slots=True)
class _Said:
    value: Any
    where: Place


class Declaration:
    """All that was said about one queue.

    A line of a module that is run again (a reload, a notebook's cell, a program that is also imported) replaces
    what it said before.
    """

    def __init__(self, name: str) -> None:
        self._label = f"Queue({name!r})"
        self._said: dict[str, _Said] = {}

    def add(
        self,
        where: Place,
        *,
        payload: Any = None,
        result: Any = None,
        profile: Profile | None = None,
        connection: str | None = None,
        options: Mapping[str, Any],
    ) -> None:
        """Take what one place says; after an error nothing has changed.

        Raises UnknownOption (a TypeError), BadValue (a ValueError), NotBuiltYet.
        """
        if profile is not None and not isinstance(profile, Profile):
            raise BadValue(f"{self._label}: profile={profile!r} is no Profile; write heavyq.HEAVY or the like")
        if connection is not None:
            connection = check_url(connection, where=self._label)
        own = zip(_NO_OPTIONS, (payload, result, profile, connection), strict=True)
        read = read_queue_options(options, where=self._label)
        given = {name: value for name, value in own if value is not None} | dict(read.worker) | dict(read.job)
        others = {name: said for name, said in self._said.items() if not _anew(said.where, where)}
        for name in given.keys() & others.keys():
            before = others[name]
            if before.value != given[name]:
                raise BadValue(
                    f"{self._label} is declared twice and {name} differs: {_shown(name, before.value)} at "
                    f"{before.where}, {_shown(name, given[name])} at {where}; say it in one place"
                )
        Types.of(self._label, given.get("payload"), given.get("result")).check()
        self._said = {name: _Said(value, where) for name, value in given.items()} | others

    def get(self, name: str) -> Any:
        """Return what was said of `payload`, `result`, `profile` or `connection`; None if nothing."""
        said = self._said.get(name)
        return None if said is None else said.value

    @property
    def options(self) -> CodeOptions:
        """What was said of worker options and job defaults."""
        worker: dict[str, Any] = {}
        job: dict[str, Any] = {}
        for name, said in self._said.items():
            if name not in _NO_OPTIONS:
                (worker if OPTIONS[name].scope == "queue" else job)[name] = said.value
        return CodeOptions(worker, job)


def check_name(name: object) -> str:
    """Return a queue's name. Raises BadValue where BullMQ would refuse it too."""
    if not isinstance(name, str):
        raise BadValue(f"a queue's name is text, and not {name!r}")
    if not name:
        raise BadValue("a queue's name cannot be empty")
    if ":" in name:
        raise BadValue(f'a queue\'s name cannot contain ":": {name!r}')
    return name


def _anew(before: Place, now: Place) -> bool:
    """Tell whether a module's line speaks again. The same line of a function may well speak of something else."""
    return now.of_module and before == now


def _shown(name: str, value: Any) -> str:
    if isinstance(value, Profile):
        return f"profile {value.name}"
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    option = OPTIONS.get(name)
    return repr(value) if option is None else option.show(value)
