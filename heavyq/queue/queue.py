"""`Queue`: what a program declares once, and both producers and workers use. Its names are a contract with user code.

Owns the public face of a queue: declaring it, adding, looking; `Controls` and `Processing` are its other two sides.
Connects to nothing before its first call. Never runs a processor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, Self, final, overload

from typing_extensions import TypeVar, Unpack

from heavyq.bullmq.ops.page import State
from heavyq.config.table import JobOptions, QueueOptions
from heavyq.errors import BadValue
from heavyq.queue import connection as connections
from heavyq.queue import looking, registry, scheduling
from heavyq.queue.adding import add_many, add_one, name_and_payload
from heavyq.queue.controls import Controls
from heavyq.queue.declaration import Declaration, Place, check_name
from heavyq.queue.handle import JobHandle
from heavyq.queue.link import QueueLink
from heavyq.queue.named import NamedQueue
from heavyq.queue.processing import Processing

if TYPE_CHECKING:
    from datetime import datetime

    from pydantic import TypeAdapter

    from heavyq.bullmq.keys import QueueKey
    from heavyq.config.profiles import Profile
    from heavyq.config.units import Duration
    from heavyq.queue.aqueue import AsyncQueue
    from heavyq.queue.stream import Event
    from heavyq.queue.typed import Codec

P = TypeVar("P", default=dict[str, Any])
R = TypeVar("R", default=Any)
P2 = TypeVar("P2", default=dict[str, Any])
R2 = TypeVar("R2", default=Any)


@final
class Queue(Controls[P], Processing[P, R], Generic[P, R]):
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
                self._link = link
                self._processors, self._hooks, self._strategies = {}, {}, []
                registry.remember(prefix, name, self)
            elif known is not self:  # declared by another thread since __new__ looked
                self.__dict__.update(known.__dict__)

    def __repr__(self) -> str:
        return f"<Queue {self.name!r}>"

    @property
    def aio(self) -> AsyncQueue[P, R]:
        """The queue for asyncio: `await videos.aio.add(...)`. One connection pool for each running event loop."""
        from heavyq.queue.aqueue import AsyncQueue

        return AsyncQueue(self._link)

    # ---- adding ----

    @overload
    def add(self, payload: P, /, **options: Unpack[JobOptions]) -> JobHandle[P, R]: ...
    @overload
    def add(self, name: str, payload: P, /, **options: Unpack[JobOptions]) -> JobHandle[P, R]: ...
    def add(self, *what: Any, **options: Any) -> JobHandle[P, R]:
        """Add a job: `add(payload)`, named "process", or `add(name, payload)`; options by name.

        Its handle says `added=False`, and has the id of the job that is there, if one of its `job_id` exists, or one
        holds its deduplication id. parent: the running job, or a handle, that is to wait for it.
        Raises PayloadError if the payload does not fit its type (it names the field), PayloadTooLarge, UnknownOption,
        BadValue: nothing was added. AddUnknown if no answer came: it may have been; pass a `job_id` to make it safe
        to repeat. NoSuchParent, HasAnotherParent, RedisUnavailable, RedisRefused, RedisReplyError: it was not.
        """
        return JobHandle.of(self._link, self._link.drive(add_one(self._link, *name_and_payload(what), options)))

    def add_bulk(
        self, jobs: Iterable[P | tuple[str, P] | tuple[str, P, JobOptions]], /, **options: Unpack[JobOptions]
    ) -> list[JobHandle[P, R]]:
        """Add many jobs in one round trip, in order.

        jobs: `(name, payload)`, `(name, payload, options)`, or payloads alone, which are named "process". options:
        for all of them; a job's own win. All are checked before the first is sent.
        Raises as `add`; after AddUnknown any of them may have been added.
        """
        made = self._link.drive(add_many(self._link, jobs, options))
        return [JobHandle.of(self._link, each) for each in made]

    # ---- looking ----

    def handle(self, job_id: str) -> JobHandle[P, R]:
        """Return a handle of the job with this id, without asking whether there is one."""
        return JobHandle(self._link, job_id)

    def get_job(self, job_id: str) -> JobHandle[P, R] | None:
        """Read a job; None if the queue has none of that id."""
        record = self._link.drive(looking.get_job(self._link.key(), job_id))
        return None if record is None else JobHandle(self._link, record.id, record=record)

    def jobs(self, *states: State, offset: int = 0, limit: int = 100) -> list[JobHandle[P, R]]:
        """Read jobs: of these states, one after the other, of all if none is named.

        Completed and failed come newest first, the others as they will run. offset, limit: count through all the
        states. Raises BadValue for a state that is none of BullMQ's.
        """
        records = self._link.drive(looking.list_jobs(self._link.key(), states, offset, limit))
        return [JobHandle(self._link, record.id, record=record) for record in records]

    def events(self, since: str | datetime | Event | None = None, timeout: Duration | None = None) -> Iterator[Event]:
        """Read what happens in the queue, as it happens: `for event in videos.events(): ...`.

        since: an event, its id, or an aware moment: begin with what came after it, as far back as the queue keeps
        events ("0": the oldest); None: what comes from now on. timeout: end when nothing came for so long; None: never.
        A short outage of Redis is sat out. Raises BadValue.
        """
        from heavyq.queue.stream import events

        return events(self._link, since, timeout)

    # ---- by time ----

    def upsert_scheduler(
        self,
        scheduler_id: str,
        *,
        cron: str | None = None,
        every: Duration | None = None,
        tz: str | None = None,
        limit: int | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        offset: Duration | None = None,
        immediately: bool = False,
        name: str | None = None,
        data: P | None = None,
        **options: Unpack[JobOptions],
    ) -> JobHandle[P, R]:
        """Make a job scheduler, or change the one of this id; return the handle of its next job.

        cron: 5 fields, or 6 with seconds first, in the zone tz (an IANA name; else that of the workers). every: or
        the time between two jobs, shifted by offset. limit: so many jobs in all. start, end: none before, none after.
        immediately: the first job is due now. name: of its jobs; the scheduler's id if there is none. data, options:
        of each of its jobs; the queue's defaults for delay and deduplication do not hold for them.
        Raises BadValue, PayloadError, PayloadTooLarge, UnknownOption: nothing was changed.
        """
        where = f"upsert_scheduler({scheduler_id!r}) of queue {self.name!r}"
        when = scheduling.repeat(
            cron=cron,
            every=every,
            tz=tz,
            limit=limit,
            start=start,
            end=end,
            offset=offset,
            immediately=immediately,
            where=where,
        )
        talk = scheduling.upsert(self._link, scheduler_id, when, name, data, options, where)
        return JobHandle(self._link, self._link.drive(talk).job_id)

    # ---- seen otherwise ----

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
    def payload_codec(self) -> Codec[Any]:
        """Writes and reads the queue's payloads; raises PayloadError."""
        return self._link.types().payload

    @property
    def result_codec(self) -> Codec[Any]:
        """Writes and reads the queue's results; raises ValueError."""
        return self._link.types().result
