"""`Queue`: what a program declares once, and both producers and workers use. Its names are a contract with user code.

Owns the public face of a queue: adding, looking, declaring processors. Connects to nothing before its first call.
Never runs a processor.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Self, final, overload

from typing_extensions import TypeVar, Unpack

from heavyq.bullmq.ops.counts import counts
from heavyq.bullmq.ops.find import find
from heavyq.bullmq.ops.page import PAGE_MAX, STATES, State, page
from heavyq.config.table import JobOptions, QueueOptions
from heavyq.errors import BadValue, HeavyqError
from heavyq.queue import connection as connections
from heavyq.queue import registry
from heavyq.queue.adding import DEFAULT_NAME, add_many, add_one
from heavyq.queue.declaration import Declaration, Place, check_name
from heavyq.queue.handle import JobHandle
from heavyq.queue.link import QueueLink
from heavyq.queue.named import NamedQueue

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from heavyq.bullmq.keys import QueueKey
    from heavyq.config.profiles import Profile
    from heavyq.job.context import Job
    from heavyq.queue.registry import Processor
    from heavyq.queue.typed import Codec

P = TypeVar("P", default=dict[str, Any])
R = TypeVar("R", default=Any)
P2 = TypeVar("P2", default=dict[str, Any])
R2 = TypeVar("R2", default=Any)
_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


@final
class Queue(Generic[P, R]):
    """A queue of jobs.

    name: BullMQ's; not empty, without ":". payload, result: a type that pydantic takes, or a TypeAdapter; without
    them a payload is a dict and a result any JSON. profile: STANDARD, LIGHT, MEDIUM, HEAVY or one of your own; the
    one of `connect()`, else STANDARD. connection: a URL; else see `heavyq.connect`. prefix: first part of the key
    names, "bull" unless `connect()` or the worker says otherwise. options: worker options and job defaults by name;
    they win over the profile's.

    Two of one name and prefix in a process are one queue: the second gets the first, with what both said. What one
    says against the other is an error that shows both places. Threads may share a queue, and a forked process may
    go on using it.
    Raises UnknownOption (a TypeError, with the nearest name), BadValue (a ValueError), NotBuiltYet.
    """

    _link: QueueLink
    _processors: dict[str | None, Processor]

    if not TYPE_CHECKING:  # pyright would take P and R from here, where there is nothing to take

        def __new__(cls, name: str, *, prefix: str | None = None, **_: Any) -> Self:
            queue = registry.known(prefix, name) if isinstance(name, str) else None
            return super().__new__(cls) if queue is None else queue

    def __init__(
        self,
        name: str,
        *,
        payload: type[P] | TypeAdapter[P] | None = None,
        result: type[R] | TypeAdapter[R] | None = None,
        profile: Profile | None = None,
        connection: str | None = None,
        prefix: str | None = None,
        **options: Unpack[QueueOptions],
    ) -> None:
        where = Place.of_caller(1)
        name = check_name(name)
        prefix = None if prefix is None else connections.check_prefix(prefix, where=f"Queue({name!r})")
        with registry.lock:
            known = registry.known(prefix, name)
            link = QueueLink(prefix, name) if known is None else known._link  # noqa: SLF001 - our own kind
            link.declaration.add(
                where, payload=payload, result=result, profile=profile, connection=connection, options=options
            )
            link.types_changed()
            if known is None:
                self._link, self._processors = link, {}
                registry.remember(prefix, name, self)
            elif known is not self:  # declared by another thread since __new__ looked
                self._link, self._processors = link, known._processors  # noqa: SLF001 - our own kind

    def __repr__(self) -> str:
        return f"<Queue {self.name!r}>"

    # ---- adding ----

    @overload
    def add(self, payload: P, /, **options: Unpack[JobOptions]) -> JobHandle[P, R]: ...
    @overload
    def add(self, name: str, payload: P, /, **options: Unpack[JobOptions]) -> JobHandle[P, R]: ...
    def add(self, *what: Any, **options: Any) -> JobHandle[P, R]:
        """Add a job: `add(payload)`, named "process", or `add(name, payload)`; options by name.

        Raises PayloadError if the payload does not fit its type (it names the field), PayloadTooLarge, UnknownOption,
        BadValue: nothing was added. AddUnknown if no answer came: it may have been; pass a `job_id` to make it safe
        to repeat. RedisUnavailable, RedisRefused, RedisReplyError: it was not.
        """
        match what:
            case (payload,):
                return add_one(self._link, DEFAULT_NAME, payload, options)
            case (name, payload):
                return add_one(self._link, name, payload, options)
            case _:
                raise TypeError(f"add takes a payload, or a name and a payload, and not {len(what)} values")

    def add_bulk(
        self, jobs: Iterable[P | tuple[str, P] | tuple[str, P, JobOptions]], /, **options: Unpack[JobOptions]
    ) -> list[JobHandle[P, R]]:
        """Add many jobs in one round trip, in order.

        jobs: `(name, payload)`, `(name, payload, options)`, or payloads alone, which are named "process". options:
        for all of them; a job's own win. All are checked before the first is sent.
        Raises as `add`; after AddUnknown any of them may have been added.
        """
        return add_many(self._link, jobs, options)

    # ---- looking ----

    def handle(self, job_id: str) -> JobHandle[P, R]:
        """Return a handle of the job with this id, without asking whether there is one."""
        return JobHandle(self._link, job_id)

    def get_job(self, job_id: str) -> JobHandle[P, R] | None:
        """Read a job; None if the queue has none of that id."""
        record = self._link.client().run(find(self._link.key(), job_id))
        return None if record is None else JobHandle(self._link, record.id, record=record)

    def jobs(self, *states: State, offset: int = 0, limit: int = 100) -> list[JobHandle[P, R]]:
        """Read jobs: of these states, one after the other, of all if none is named.

        Completed and failed come newest first, the others as they will run. offset, limit: count through all the
        states. Raises BadValue for a state that is none of BullMQ's.
        """
        if offset < 0 or limit < 0:
            raise BadValue(f"jobs(offset={offset}, limit={limit}): neither can be negative")
        wanted = [_check_state(state) for state in states] or STATES
        key, client = self._link.key(), self._link.client()
        size = client.run(counts(key)).by_state()
        pages = []
        for state in dict.fromkeys(wanted):
            here = max(0, min(limit, size[state] - offset))
            for start in range(offset, offset + here, PAGE_MAX):
                most = min(PAGE_MAX, offset + here - start)
                newest_first = state in ("completed", "failed")
                pages.append(page(key, state, offset=start, limit=most, newest_first=newest_first))
            offset, limit = max(0, offset - size[state]), limit - here
        found = client.run_many(pages)
        for answer in found:
            if isinstance(answer, HeavyqError):
                raise answer
        return [JobHandle(self._link, record.id, record=record) for records in found for record in records]

    def counts(self) -> dict[str, int]:
        """Count the jobs of each state, at one moment: waiting, active, delayed, prioritized, ..."""
        return self._link.client().run(counts(self._link.key())).by_state()

    # ---- processing ----

    @overload
    def processor(self, function: Callable[[Job[P, R]], R], /) -> Callable[[Job[P, R]], R]: ...
    @overload
    def processor(self, *names: str) -> Callable[[Callable[[Job[P, R]], R]], Callable[[Job[P, R]], R]]: ...
    def processor(self, *names: Any) -> Any:
        """Declare a function for the queue's jobs: `@videos.processor` for all, `@videos.processor("a", "b")` by name.

        The function stays a plain function. A job whose name has none fails as `no_processor`.
        """
        if len(names) == 1 and callable(names[0]):
            return self._process(None, names[0])
        return _by_name(self, names)

    def named(
        self,
        name: str,
        *,
        payload: type[P2] | TypeAdapter[P2] | None = None,
        result: type[R2] | TypeAdapter[R2] | None = None,
    ) -> NamedQueue[P2, R2]:
        """Return the queue seen through one job name, with types of its own."""
        where = Place.of_caller(1)
        if not isinstance(name, str) or not name:
            raise BadValue(f"{self!r}.named(): the job's name is text, and not {name!r}")
        with registry.lock:
            said = self._link.named.get(name) or Declaration(f"{self.name} / {name}")
            said.add(where, payload=payload, result=result, options={})
            self._link.named[name] = said
            self._link.types_changed()
        return NamedQueue(self, name)

    def _process(self, name: str | None, function: _Decorated, view: str | None = None) -> _Decorated:
        """Take a function for a name, None for all. view: whose types it works with, None for the queue's."""
        if not callable(function):
            raise BadValue(f"{self!r}.processor takes a function, or names of jobs")
        with registry.lock:
            before = self._processors.get(name)
            if before is not None and not _same_source(before.function, function):
                raise BadValue(
                    f"{self!r} has two processors for {'every job' if name is None else f'jobs named {name!r}'}: "
                    f"{_shown(before.function)} and {_shown(function)}"
                )
            link = self._link
            self._processors[name] = registry.Processor(function, lambda: link.types(view))
        return function

    # ---- what the worker reads ----

    @property
    def name(self) -> str:
        """The queue's name."""
        return self._link.name

    @property
    def profile(self) -> Profile:
        """The queue's profile."""
        return self._link.profile

    @property
    def code_options(self) -> Mapping[str, Any]:
        """The worker options that the code sets, in seconds and bytes."""
        return self._link.declaration.options.worker

    @property
    def connection_url(self) -> str | None:
        """The URL that the code names for this queue, here or by `connect()`; None if it leaves that open."""
        url: str | None = self._link.declaration.get("connection")
        return url or connections.default_url()

    def key(self, otherwise: str | None = None) -> QueueKey:
        """Return the qualified name. otherwise: the prefix, if the code names none."""
        return self._link.key(otherwise)

    @property
    def processors(self) -> Mapping[str | None, Processor]:
        """The functions by job name; None is for every name that has none of its own."""
        return MappingProxyType(self._processors)

    def processor_of(self, name: str) -> Processor | None:
        """Return the function for a job of this name, None if there is none."""
        return self._processors.get(name) or self._processors.get(None)

    @property
    def payload_codec(self) -> Codec[Any]:
        """Writes and reads the queue's payloads; raises PayloadError."""
        return self._link.types().payload

    @property
    def result_codec(self) -> Codec[Any]:
        """Writes and reads the queue's results; raises ValueError."""
        return self._link.types().result


def _by_name(queue: Queue[Any, Any], names: tuple[Any, ...]) -> Callable[[_Decorated], _Decorated]:
    for name in names:
        if not isinstance(name, str) or not name:
            raise BadValue(f"{queue!r}.processor takes a function, or names of jobs, and not {name!r}")

    def decorate(function: _Decorated) -> _Decorated:
        for name in dict.fromkeys(names) or (None,):
            queue._process(name, function)  # noqa: SLF001 - its own decorator
        return function

    return decorate


def _check_state(state: object) -> str:
    if state not in STATES:
        close = difflib.get_close_matches(str(state), STATES, n=1)
        hint = f' (did you mean "{close[0]}"?)' if close else ""
        raise BadValue(f"jobs(): no state is called {state!r}{hint}; the states are: {', '.join(STATES)}")
    return str(state)


def _same_source(a: Callable[..., Any], b: Callable[..., Any]) -> bool:
    """Tell whether a function is another, defined anew: its module was run again, perhaps edited."""
    here, there = registry.source_of(a), registry.source_of(b)
    return a is b or (here is not None and there is not None and here[:2] == there[:2])


def _shown(function: Callable[..., Any]) -> str:
    source = registry.source_of(function)
    return repr(function) if source is None else f"{source[1]} at {source[0]}:{source[2]}"
