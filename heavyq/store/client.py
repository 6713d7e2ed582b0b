"""Runs operations on Redis: any number in one round trip, errors translated, nothing ever sent twice.

Owns two pools of connections: one for scripts, one (named as BullMQ's workers name theirs) for calls that
block. Decides no repeats after a lost reply: the caller knows what may be sent again. Threads may share it.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

import redis
from redis.exceptions import ResponseError

from heavyq.bullmq.events import job_of
from heavyq.errors import HeavyqError, RedisUnavailable
from heavyq.store import trip
from heavyq.store.connect import make_client, translate
from heavyq.store.trip import BLOCK_MAX_S, EVENTS_AT_ONCE, Event, closed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from heavyq.bullmq.keys import QueueKey
    from heavyq.bullmq.op import Op
    from heavyq.store.trip import Command, Trip, Until

R = TypeVar("R")

_BLOCK_MIN_S: Final = 0.002  # 0 would be for ever, and servers before 7.0.8 round less than this to it


class Client:
    """heavyq's connection to one Redis. Lazy: no socket before the first call.

    url: see `connect.check_url`. timeout_s: for connecting, and for each reply. name: CLIENT SETNAME of the
    connections that block (a worker's: `<prefix>:<base64 of queue>[:w:<name>]`); the others have none, as
    BullMQ's. Every method raises RedisUnavailable, RedisRefused or RedisReplyError; after one of the first
    two the next call makes a new connection.
    """

    def __init__(self, url: str, *, timeout_s: float = 5.0, name: str | None = None) -> None:
        self._redis = make_client(url, timeout_s=timeout_s, read_timeout_s=timeout_s)
        self._blocking = make_client(url, timeout_s=timeout_s, read_timeout_s=timeout_s + BLOCK_MAX_S, name=name)
        self._loaded: set[str] = set()
        self._closed = False

    def run(self, op: Op[R]) -> R:
        """Run one operation and return its result; raise its error."""
        result: R | HeavyqError = self.run_many([op])[0]
        if isinstance(result, HeavyqError):
            raise result
        return result

    def run_many(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """Run operations in the order given, in one round trip, not as one transaction.

        Returns for each its result or its own error, a HeavyqError. Raises RedisUnavailable if the connection
        broke: of each of them it is then unknown whether it happened.
        """
        if not ops:
            return []
        return self._looked_at(self._carry(trip.run_ops(ops, self._loaded), self._redis))

    def atomic(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """Run operations as one transaction (MULTI/EXEC); nobody sees a part of them done.

        Returns as `run_many`. Raises RedisUnavailable or RedisReplyError if the server discarded it: nothing was
        done (`nothing_happened`).
        """
        return self._looked_at(self._carry(trip.run_atomic(ops), self._redis)) if ops else []

    def pop_marker(self, q: QueueKey, timeout_s: float) -> tuple[bytes, float] | None:
        """Wait for the queue's marker and take it; None after `timeout_s` seconds without one.

        Returns the member and its score (epoch ms of the earliest delayed job, or 0). Whoever pops a marker
        must lease once, or put it back (`ops.wake`).
        """
        deadline_s = time.monotonic() + timeout_s
        left_s = timeout_s
        while True:
            block_s = min(max(left_s, _BLOCK_MIN_S), BLOCK_MAX_S)
            popped = self._call(self._blocking.execute_command, "BZPOPMIN", q.marker, f"{block_s:.3f}")
            if popped:
                return popped[1], float(popped[2])
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return None

    def read_events(self, q: QueueKey, last_id: str, block_ms: int, count: int) -> list[Event]:
        """Return the queue's events after `last_id`, at most `count`; wait up to `block_ms` for one.

        last_id: an event's id, `0` for the oldest that is kept. block_ms: 0 does not wait; over 10 s counts
        as 10 s. Each event is its id and its fields; values stay bytes, for anybody may have written them.
        """
        block = min(block_ms, int(BLOCK_MAX_S * 1000)) or None
        return self._carry(trip.read_events(q, last_id, block, count), self._blocking if block else self._redis)

    def await_event(
        self, q: QueueKey, job_id: str, after: str, timeout_s: float, until: Until
    ) -> dict[str, bytes] | None:
        """Wait for an event about a job, after `after`, of which `until` says that it is the one; return its fields.

        Returns None after `timeout_s` seconds without one.
        """
        deadline_s = time.monotonic() + timeout_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            for event_id, fields in self.read_events(q, after, max(1, int(left_s * 1000)), EVENTS_AT_ONCE):
                after = event_id
                if job_of(fields) == job_id and until(fields):
                    return fields
        return None

    def last_event_id(self, q: QueueKey) -> str:
        """Return the id of the queue's latest event, to read on from there; `0-0` if it has none."""
        return self._carry(trip.last_event_id(q), self._redis)

    def scan_queues(self, prefix: str) -> list[QueueKey]:
        """Return every queue below a prefix, by name. Walks the whole keyspace: for people, not for loops."""
        return self._carry(trip.scan_queues(prefix), self._redis)

    def client_list(self) -> str:
        """Return the server's CLIENT LIST: a line for each connection."""
        return self._carry(trip.client_list(), self._redis)

    def pause(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def new_lock(self) -> threading.Lock:
        """Return a lock that `enter` takes."""
        return threading.Lock()

    def enter(self, lock: threading.Lock) -> None:
        """Take a lock; the caller releases it."""
        lock.acquire()

    def info(self, section: str) -> dict[str, Any]:
        """Return a section of the server's INFO."""
        fields: dict[str, Any] = self._call(self._redis.info, section)
        return fields

    def ping(self) -> None:
        """Raise if the server does not answer, or refuses us."""
        self._call(self._redis.ping)

    def show(self) -> None:
        """Have the connection that carries our name: lists of workers are lists of such connections."""
        self._call(self._blocking.ping)

    def close(self) -> None:
        """Close every connection. A call that is under way, or comes later, raises RedisUnavailable."""
        self._closed = True
        self._redis.close()
        self._blocking.close()

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        if self._closed:
            raise closed()
        try:
            return function(*args)
        except (redis.RedisError, OSError) as error:
            ours = translate(error)
            if isinstance(ours, RedisUnavailable):
                self._drop_idle()
            raise ours from error
        except (AttributeError, ValueError) as error:
            if self._closed:  # redis-py, when its socket goes away under it
                raise RedisUnavailable("this client was closed in the middle of a call") from error
            raise

    def _carry(self, going: Trip[R], by: redis.Redis) -> R:
        """Carry a trip over one connection, to its end. Every error of it is ours, translated."""
        if self._closed:
            raise closed()
        pool, connection = by.connection_pool, None
        try:
            commands = next(going)
            connection = pool.get_connection()
            while True:
                commands = going.send(_round_trip(connection, commands))
        except StopIteration as end:
            result: R = end.value
            return result
        except RedisUnavailable:
            self._drop_idle()
            raise
        except (redis.RedisError, OSError) as error:
            ours = translate(error)
            if isinstance(ours, RedisUnavailable):
                ours.nothing_happened = connection is None
                self._drop_idle()
            raise ours from error
        except (AttributeError, ValueError) as error:
            if self._closed:  # redis-py, when its socket goes away under it
                raise RedisUnavailable("this client was closed in the middle of a call") from error
            raise
        finally:
            if connection is not None:
                pool.release(connection)

    def _looked_at(self, results: list[Any]) -> list[Any]:
        if any(isinstance(result, RedisUnavailable) for result in results):
            self._drop_idle()  # READONLY and its kin: the name may lead to another server by now
        return results

    def _drop_idle(self) -> None:
        """Close the connections that nobody uses just now: where one broke, the others are stale."""
        self._loaded = set()
        for each in (self._redis, self._blocking):
            each.connection_pool.disconnect(inuse_connections=False)


def _round_trip(connection: Any, commands: Sequence[Command]) -> list[Any]:
    """Send commands at once and read their replies, an error among them as a value.

    What redis-py's pipeline does, less what it does for transactions, retries and callbacks: half its time.
    """
    try:
        connection.send_packed_command(connection.pack_commands(commands))
        return [_reply_of(connection) for _ in commands]
    except BaseException:
        connection.disconnect()  # what is still to be read on it is not ours any more
        raise


def _reply_of(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error
