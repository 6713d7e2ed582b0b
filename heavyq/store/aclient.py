"""Runs operations on Redis for one event loop: what `client` does for threads, with the same trips and errors.

Owns its connections: a list of those that are idle, so that taking and returning one never waits, and a task that is
cancelled in the middle of a call loses its connection and nothing else. Sends nothing twice. It closes itself when
its loop is shut down in good order (`asyncio.run` does that); of a loop that was only closed, `abandon` clears up.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import warnings
from typing import TYPE_CHECKING, Any, Final, TypeVar

import redis
from redis.exceptions import ResponseError

from heavyq.errors import HeavyqError, RedisUnavailable
from heavyq.store import trip
from heavyq.store.connect import make_async_pool, translate
from heavyq.store.trip import BLOCK_MAX_S, Event, away, closed
from heavyq.store.watch import Watch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from redis.asyncio.connection import AbstractConnection

    from heavyq.bullmq.keys import QueueKey
    from heavyq.bullmq.op import Op
    from heavyq.store.trip import Command, Trip, Until

R = TypeVar("R")

_CONNECTIONS_MAX: Final = 50  # so that ten thousand adds at once are no ten thousand connections
_BLOCKING_MAX: Final = 10_000
_IDLE_S: Final = 0.05  # a connection that nobody used for so long may have been closed unseen


class AsyncClient:
    """heavyq's connections to one Redis in one event loop, of one process. Lazy: no socket before the first call.

    url: see `connect.check_url`. timeout_s: for connecting, and for each reply. Every method raises RedisUnavailable,
    RedisRefused or RedisReplyError; after one of the first two the next call makes a new connection.
    """

    def __init__(self, url: str, *, timeout_s: float = 5.0) -> None:
        self._plain = _Pool(url, timeout_s, timeout_s, _CONNECTIONS_MAX)
        self._blocking = _Pool(url, timeout_s, timeout_s + BLOCK_MAX_S, _BLOCKING_MAX)
        self._loaded: set[str] = set()
        self._watches: dict[QueueKey, Watch] = {}
        self._guard: AsyncGenerator[None, None] | None = None
        self.closed = False

    async def run(self, op: Op[R]) -> R:
        """Run one operation and return its result; raise its error."""
        result: R | HeavyqError = (await self.run_many([op]))[0]
        if isinstance(result, HeavyqError):
            raise result
        return result

    async def run_many(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """Run operations in one round trip, as `Client.run_many`."""
        if not ops:
            return []
        return await self._looked_at(await self._carry(trip.run_ops(ops, self._loaded), self._plain))

    async def atomic(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """Run operations as one transaction, as `Client.atomic`."""
        return await self._looked_at(await self._carry(trip.run_atomic(ops), self._plain)) if ops else []

    async def read_events(self, q: QueueKey, last_id: str, block_ms: int, count: int) -> list[Event]:
        """Return the queue's events after `last_id`, as `Client.read_events`."""
        block = min(block_ms, int(BLOCK_MAX_S * 1000)) or None
        return await self._carry(trip.read_events(q, last_id, block, count), self._blocking if block else self._plain)

    async def await_event(
        self, q: QueueKey, job_id: str, after: str, timeout_s: float, until: Until
    ) -> dict[str, bytes] | None:
        """Wait for an event about a job, as `Client.await_event`. All who wait in a queue share one connection."""
        watch = self._watches.get(q)
        if watch is None:
            watch = self._watches[q] = Watch(lambda last, block_ms, count: self.read_events(q, last, block_ms, count))
        return await watch.wait(job_id, after, timeout_s, until)

    async def last_event_id(self, q: QueueKey) -> str:
        """Return the id of the queue's latest event; `0-0` if it has none."""
        return await self._carry(trip.last_event_id(q), self._plain)

    async def scan_queues(self, prefix: str) -> list[QueueKey]:
        """Return every queue below a prefix, by name."""
        return await self._carry(trip.scan_queues(prefix), self._plain)

    async def client_list(self) -> str:
        """Return the server's CLIENT LIST: a line for each connection."""
        return await self._carry(trip.client_list(), self._plain)

    async def pause(self, seconds: float) -> None:
        """Let time pass."""
        await asyncio.sleep(seconds)

    def new_lock(self) -> asyncio.Lock:
        """Return a lock that `enter` takes."""
        return asyncio.Lock()

    async def enter(self, lock: asyncio.Lock) -> None:
        """Take a lock; the caller releases it."""
        await lock.acquire()

    async def aclose(self) -> None:
        """Close every connection. A call that is under way, or comes later, raises RedisUnavailable."""
        self.closed = True
        guard, self._guard = self._guard, None
        if guard is not None:
            await guard.aclose()
        await self._plain.close()
        await self._blocking.close()

    def abandon(self) -> None:
        """Let go of what a loop has left open that was closed without being shut down. Silent."""
        self.closed = True
        self._guard = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            self._plain.abandon()
            self._blocking.abandon()
            gc.collect()  # the transports close their sockets as they go, and would warn

    async def _carry(self, going: Trip[R], pool: _Pool) -> R:
        """Carry a trip over one connection, to its end. Every error of it is ours, translated."""
        if self.closed:
            raise closed()
        if self._guard is None:
            self._guard = self._close_with_the_loop()
            await anext(self._guard)
        outage = pool.outage
        async with pool.turn:
            if self.closed:
                raise closed()
            if pool.outage is not outage:  # the server did not answer others while we waited: it would not us
                raise away(str(pool.outage))
            return await self._carry_now(going, pool)

    async def _carry_now(self, going: Trip[R], pool: _Pool) -> R:
        connection = None
        try:
            commands = next(going)
            connection = await pool.take()
            while True:
                commands = going.send(await _round_trip(connection, commands))
        except StopIteration as end:
            result: R = end.value
            return result
        except RedisUnavailable:
            await self._drop_idle()
            raise
        except (redis.RedisError, OSError) as error:
            ours = translate(error)
            if isinstance(ours, RedisUnavailable):
                ours.nothing_happened = connection is None
                if connection is None or isinstance(error, redis.TimeoutError):
                    pool.outage = away(str(ours))  # not the error itself: it holds on to its frames
                await self._drop_idle()
            raise ours from error
        finally:
            if connection is not None:
                await pool.give_back(connection)

    async def _close_with_the_loop(self) -> AsyncGenerator[None, None]:
        """A generator that is never asked again: the loop ends it when it shuts down, while it still can wait."""
        try:
            yield
        finally:
            if self._guard is not None:
                self._guard = None
                await self.aclose()

    async def _looked_at(self, results: list[Any]) -> list[Any]:
        if any(isinstance(result, RedisUnavailable) for result in results):
            await self._drop_idle()  # READONLY and its kin: the name may lead to another server by now
        return results

    async def _drop_idle(self) -> None:
        """Close the connections that nobody uses just now: where one broke, the others are stale."""
        self._loaded.clear()
        await self._plain.drop_idle()
        await self._blocking.drop_idle()


class _Pool:
    """Connections of one kind. Whoever takes one gives it back; of all this only taking ever really waits."""

    # turn: held by whoever has a connection. outage: the latest sign that the server is away.

    def __init__(self, url: str, timeout_s: float, read_timeout_s: float, most: int) -> None:
        self.turn = asyncio.Semaphore(most)
        self.outage: RedisUnavailable | None = None
        self._factory: Any = make_async_pool(url, timeout_s=timeout_s, read_timeout_s=read_timeout_s)
        self._closed = False
        self._idle: list[tuple[AbstractConnection, float]] = []
        self._busy: set[AbstractConnection] = set()

    async def take(self) -> AbstractConnection:
        """Return a connection that stands. Raises redis-py's errors."""
        while self._idle:
            connection, since_s = self._idle.pop()
            self._busy.add(connection)
            try:
                stands = await _stands(connection, since_s)
            except BaseException:
                await self._drop(connection)
                raise
            if stands:
                return connection
            await self._drop(connection)
        return await self._connect(self._factory.make_connection())

    async def _connect(self, connection: Any) -> AbstractConnection:
        self._busy.add(connection)
        try:
            await connection.connect()
        except BaseException:
            await self._drop(connection)
            raise
        connected: AbstractConnection = connection
        return connected

    async def give_back(self, connection: AbstractConnection) -> None:
        """Keep a connection for the next call, unless it broke."""
        self._busy.discard(connection)
        if self._closed:
            await self._drop(connection)
        elif connection.is_connected:
            self._idle.append((connection, asyncio.get_running_loop().time()))

    async def drop_idle(self) -> None:
        """Close what nobody uses just now."""
        while self._idle:
            await self._drop(self._idle.pop()[0])

    async def close(self) -> None:
        """Close everything; a call that is under way fails."""
        self._closed = True
        await self.drop_idle()
        for connection in list(self._busy):
            await self._drop(connection)

    def abandon(self) -> None:
        """Forget everything; the loop is no more."""
        self._idle.clear()
        self._busy.clear()

    async def _drop(self, connection: AbstractConnection) -> None:
        self._busy.discard(connection)
        with contextlib.suppress(redis.RedisError, OSError):
            await connection.disconnect(nowait=True)


async def _stands(connection: Any, since_s: float) -> bool:
    """Tell whether a connection that was idle may be used: it was not closed, and holds no stray reply."""
    if asyncio.get_running_loop().time() - since_s > _IDLE_S:
        for _ in range(2):  # the loop reads what came meanwhile, the server's goodbye too, and then takes note of it
            await asyncio.sleep(0)
    can_read = getattr(connection, "can_read", None) or connection.can_read_destructive  # redis-py 8, and 7
    try:
        return connection.is_connected and not await can_read()
    except (redis.RedisError, OSError):
        return False


async def _round_trip(connection: Any, commands: Sequence[Command]) -> list[Any]:
    """Send commands at once and read their replies, an error among them as a value."""
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        await connection.send_packed_command(connection.pack_commands(commands))
        # redis-py sends within `asyncio.wait_for`, which in Python 3.11 may swallow a cancellation that comes as the
        # send is done: the task would wait for replies that nobody wants, for ever if it blocks.
        if task and task.cancelling() > before:
            raise asyncio.CancelledError
        return [await _reply_of(connection) for _ in commands]
    except BaseException:
        await connection.disconnect(nowait=True)  # what is still to be read on it is not ours any more
        raise


async def _reply_of(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
