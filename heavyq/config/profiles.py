"""Profiles: named sets of worker options and job defaults; and the reading of options given in Python.

Owns STANDARD, LIGHT, MEDIUM, HEAVY and how one is derived from another. Knows no source but Python code.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from typing_extensions import Unpack

from heavyq.config.policies import check_policies
from heavyq.config.table import OPTIONS, QueueOptions, find_option
from heavyq.config.units import format_size
from heavyq.config.values import Keep, exponential, fixed
from heavyq.errors import BadValue

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class CodeOptions:
    """Options given in Python, read and checked: seconds, bytes, `Keep`, `Backoff`. Only what was given.

    worker: how the worker runs the queue's jobs; plain JSON values. job: job defaults.
    """

    worker: Mapping[str, Any]
    job: Mapping[str, Any]


def read_queue_options(given: Mapping[str, Any], *, where: str) -> CodeOptions:
    """Read the options of a `Queue(...)` or a profile.

    where: whose they are, for messages: `Queue('videos')`.
    Raises UnknownOption (a TypeError), BadValue (a ValueError), NotBuiltYet.
    """
    worker: dict[str, Any] = {}
    job: dict[str, Any] = {}
    for name, value in given.items():
        option = find_option(name, "queue", "job", where=where)
        if option.per_add and option.built:
            raise BadValue(f"{where}: {name} belongs to one add: write add(..., {name}=...)")
        read = option.read(value, label=f"{where}: {name}")
        (worker if option.scope == "queue" else job)[name] = read
    _check_memory(worker, where)
    check_policies(job, where)
    return CodeOptions(MappingProxyType(worker), MappingProxyType(job))


def unfit_memory(request: int | None, recycle: int | None, limit: int | None) -> str | None:
    """Return what is wrong with a memory_request above the memory_limit, or with a recycle_rss that reaches it."""
    if limit is None:
        return None
    if request is not None and request > limit:
        return (
            f"memory_request {format_size(request)} is above memory_limit {format_size(limit)}: "
            "a job that uses what it asks for would be stopped; raise the limit or lower the request"
        )
    if recycle is not None and recycle >= limit:
        return (
            f"recycle_rss {format_size(recycle)} is not below memory_limit {format_size(limit)}: "
            "what earlier jobs leave in a child counts for the next, which would be stopped for it; lower recycle_rss"
        )
    return None


def _check_memory(worker: Mapping[str, Any], where: str) -> None:
    if why := unfit_memory(worker.get("memory_request"), worker.get("recycle_rss"), worker.get("memory_limit")):
        raise BadValue(f"{where}: {why}")


class Profile:
    """A named set of options for queues of one kind. Immutable.

    name: what `--worker-type` calls it; lower case. Values are read as attributes, in seconds and bytes:
    `HEAVY.lock_duration`. An option that the profile does not set has its default.
    """

    __slots__ = ("_given", "name")

    name: str
    _given: CodeOptions

    def __init__(self, name: str, **options: Unpack[QueueOptions]) -> None:
        self._set(name, read_queue_options(options, where=f"profile {name!r}"))

    def _set(self, name: str, given: CodeOptions) -> None:
        name = name.strip().lower() if isinstance(name, str) else ""
        if not name or name == "all" or any(c.isspace() or c == "," for c in name):
            raise BadValue(f'a profile\'s name is one word, and not "all": {name!r}')
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "_given", given)

    def replace(self, *, name: str | None = None, **options: Unpack[QueueOptions]) -> Profile:
        """Return a profile that differs from this one in what is given.

        name: of the new profile; without it the new one keeps the name and serves the same `--worker-type`.
        """
        name = self.name if name is None else name
        changed = read_queue_options(options, where=f"profile {name!r}")
        worker = {**self.worker_options, **changed.worker}
        _check_memory(worker, f"profile {name!r}")
        return _build(name, worker, {**self.job_options, **changed.job})

    @property
    def worker_options(self) -> Mapping[str, Any]:
        """What the profile sets of the worker's options, in seconds and bytes."""
        return self._given.worker

    @property
    def job_options(self) -> Mapping[str, Any]:
        """What the profile sets of the job defaults."""
        return self._given.job

    def to_json(self) -> dict[str, Any]:
        """Return the name and the worker's options as plain JSON. Job defaults stay with whoever adds."""
        return {"name": self.name, "options": dict(self.worker_options)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Profile:
        """Read what `to_json` wrote."""
        lists_of = {name: tuple(value) if isinstance(value, list) else value for name, value in data["options"].items()}
        return _build(data["name"], lists_of, {})

    def __getattr__(self, name: str) -> Any:
        option = OPTIONS.get(name)
        if option is None or option.scope == "worker" or option.per_add or not option.built:
            raise AttributeError(f"a profile has no option {name!r}")
        return self.worker_options.get(name, self.job_options.get(name, option.default))

    def __setattr__(self, name: str, _value: object) -> NoReturn:
        raise AttributeError(f"profiles are frozen: write profile.replace({name}=...)")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("profiles are frozen")

    def __reduce__(self) -> tuple[Any, ...]:
        return _build, (self.name, dict(self.worker_options), dict(self.job_options))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Profile)
            and self.name == other.name
            and self.worker_options == other.worker_options
            and self.job_options == other.job_options
        )

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        given = {**self.worker_options, **self.job_options}
        return f"Profile({self.name!r}{''.join(f', {key}={value!r}' for key, value in given.items())})"


def _build(name: str, worker: Mapping[str, Any], job: Mapping[str, Any]) -> Profile:
    """Make a profile of values that were read before: 7200.0 is seconds here, not a suspect bare number."""
    profile = Profile.__new__(Profile)
    given = CodeOptions(MappingProxyType(dict(worker)), MappingProxyType(dict(job)))
    profile._set(name, given)  # noqa: SLF001 - its own constructor
    return profile


STANDARD: Final = Profile(
    "standard",
    concurrency=1,
    lock_duration="30s",
    stalled_interval="30s",
    attempts=3,
    backoff=exponential("1s"),
    remove_on_complete=True,
)
LIGHT: Final = STANDARD.replace(name="light", concurrency=50)
MEDIUM: Final = STANDARD.replace(name="medium", concurrency=10, lock_duration="5m")
HEAVY: Final = STANDARD.replace(
    name="heavy",
    concurrency=1,
    lock_duration="1h",
    stalled_interval="5m",
    attempts=2,
    backoff=fixed("60s"),
    remove_on_complete=Keep(count=100),
)
PROFILES: Final = (STANDARD, LIGHT, MEDIUM, HEAVY)
