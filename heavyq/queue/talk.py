"""A conversation with Redis as a generator: it yields what it asks, is sent the answers, and returns its result.

    def rows_of(q, job_id) -> Talk[list[str]]:          ┌ drive(client, talk)           threads: blocks
        page = yield from run(logs(q, job_id))     ───► ┤
        return list(page.rows)                          └ await adrive(client, talk)    asyncio: awaits

Owns the requests there are and the two drivers; everything that producers do is written once, as a talk, and both
faces of a queue drive it. A talk never blocks by itself: whatever waits is a request. An error is raised where it was
asked for, and so is the cancellation of a task; after that a talk may clean up, but asks for nothing more.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey
    from heavyq.bullmq.op import Op
    from heavyq.store.aclient import AsyncClient
    from heavyq.store.client import Client
    from heavyq.store.trip import Until

    AnyClient = Client | AsyncClient

T = TypeVar("T")

# Each request asks a client of either kind; the one answers, the other gives something to await.


@dataclass(frozen=True, slots=True)
class Run:
    """One operation; answered by its result. Its error is raised."""

    op: Op[Any]

    def ask(self, client: AnyClient) -> Any:
        return client.run(self.op)


@dataclass(frozen=True, slots=True)
class RunMany:
    """Operations in one round trip, not as one transaction; answered by each one's result or HeavyqError."""

    ops: Sequence[Op[Any]]

    def ask(self, client: AnyClient) -> Any:
        return client.run_many(self.ops)


@dataclass(frozen=True, slots=True)
class Atomic:
    """Operations as one transaction (MULTI/EXEC); answered as RunMany. Raises if nothing of it was done."""

    ops: Sequence[Op[Any]]

    def ask(self, client: AnyClient) -> Any:
        return client.atomic(self.ops)


@dataclass(frozen=True, slots=True)
class ReadEvents:
    """A queue's events after an id, at most `count`, waiting up to `block_ms` (0: not at all); a list of Event."""

    q: QueueKey
    after: str
    block_ms: int
    count: int

    def ask(self, client: AnyClient) -> Any:
        return client.read_events(self.q, self.after, self.block_ms, self.count)


@dataclass(frozen=True, slots=True)
class LastEvent:
    """The id of a queue's latest event, `0-0` if it has none."""

    q: QueueKey

    def ask(self, client: AnyClient) -> Any:
        return client.last_event_id(self.q)


@dataclass(frozen=True, slots=True)
class AwaitEvent:
    """The next event about one job, after an id (of LastEvent's), within a time.

    until: tells of an event's fields whether it is the one. Answered by its fields; None if none came in time.
    """

    q: QueueKey
    job_id: str
    after: str
    timeout_s: float
    until: Until

    def ask(self, client: AnyClient) -> Any:
        return client.await_event(self.q, self.job_id, self.after, self.timeout_s, self.until)


@dataclass(frozen=True, slots=True)
class ScanQueues:
    """Every queue below a prefix; a list of QueueKey."""

    prefix: str

    def ask(self, client: AnyClient) -> Any:
        return client.scan_queues(self.prefix)


@dataclass(frozen=True, slots=True)
class ClientList:
    """The server's CLIENT LIST, as text."""

    def ask(self, client: AnyClient) -> Any:
        return client.client_list()


@dataclass(frozen=True, slots=True)
class Pause:
    """Some seconds of doing nothing."""

    seconds: float

    def ask(self, client: AnyClient) -> Any:
        return client.pause(self.seconds)


@dataclass(frozen=True, slots=True)
class Enter:
    """A lock, of `threading` for `drive`, of `asyncio` for `adrive`. Whoever entered releases it, by a plain call."""

    lock: Any

    def ask(self, client: AnyClient) -> Any:
        return client.enter(self.lock)


Request = Run | RunMany | Atomic | ReadEvents | LastEvent | AwaitEvent | ScanQueues | ClientList | Pause | Enter
Talk = Generator[Request, Any, T]


def run(op: Op[T]) -> Talk[T]:
    """Run one operation; `yield from` gives its result, in its type."""
    result: T = yield Run(op)
    return result


def run_all(ops: Sequence[Op[T]]) -> Talk[list[T]]:
    """Run operations in one round trip; the first that failed raises its error."""
    answers: list[Any] = yield RunMany(ops)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def drive(client: Client, talk: Talk[T]) -> T:
    """Hold a conversation in this thread and return its result. Raises what the talk raises."""
    try:
        request = next(talk)
        while True:
            try:
                answer = request.ask(client)
            except BaseException as error:  # noqa: BLE001 - an interrupt too is raised where the talk stands
                request = talk.throw(error)
            else:
                request = talk.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


async def adrive(client: AsyncClient, talk: Talk[T]) -> T:
    """Hold a conversation in this task and return its result. Raises what the talk raises."""
    try:
        request = next(talk)
        while True:
            try:
                answer = await request.ask(client)
            except BaseException as error:  # noqa: BLE001 - so that a cancelled talk lets go of what it holds
                request = talk.throw(error)
            else:
                request = talk.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result
