"""Runs operations on Redis: any number in one round trip, errors translated, nothing ever sent twice.

Owns two pools of connections: one for scripts, one (named as BullMQ's workers name theirs) for calls that
block. Decides no repeats after a lost reply: the caller knows what may be sent again. Threads may share it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

import redis
from redis.exceptions import NoScriptError, ResponseError

from heavyq.bullmq.keys import QueueKey, queue_of_meta, queues_pattern
from heavyq.bullmq.scripts import script
from heavyq.errors import HeavyqError, ProtocolError, RedisUnavailable
from heavyq.store.connect import make_client, translate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from heavyq.bullmq.op import Arg, Op

R = TypeVar("R")
Event = tuple[str, dict[str, bytes]]

_BLOCK_MAX_S: Final = 10.0  # a longer wait is several blocks, so that a server that hangs is noticed
_BLOCK_MIN_S: Final = 0.002  # 0 would be for ever, and servers before 7.0.8 round less than this to it
_SCAN_COUNT: Final = 1000


class Client:
    """heavyq's connection to one Redis. Lazy: no socket before the first call.

    url: see `connect.check_url`. timeout_s: for connecting, and for each reply. name: CLIENT SETNAME of the
    connections that block (a worker's: `<prefix>:<base64 of queue>[:w:<name>]`); the others have none, as
    BullMQ's. Every method raises RedisUnavailable, RedisRefused or RedisReplyError; after one of the first
    two the next call makes a new connection.
    """

    def __init__(self, url: str, *, timeout_s: float = 5.0, name: str | None = None) -> None:
        self._redis = make_client(url, timeout_s=timeout_s, read_timeout_s=timeout_s)
        self._blocking = make_client(url, timeout_s=timeout_s, read_timeout_s=timeout_s + _BLOCK_MAX_S, name=name)
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
        replies = self._call(self._send, ops)
        # A server that forgets its scripts (SCRIPT FLUSH) forgets all at once: what must go again is the end
        # of the batch, and the order of the writes is kept.
        forgotten = [n for n, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if forgotten:
            self._loaded = set()
            again = self._call(self._send, [ops[n] for n in forgotten], True)
            for n, reply in zip(forgotten, again, strict=True):
                replies[n] = reply
        results = [_read(op, reply) for op, reply in zip(ops, replies, strict=True)]
        if any(isinstance(result, RedisUnavailable) for result in results):
            self._drop_idle()  # READONLY and its kin: the name may lead to another server by now
        return results

    def pop_marker(self, q: QueueKey, timeout_s: float) -> tuple[bytes, float] | None:
        """Wait for the queue's marker and take it; None after `timeout_s` seconds without one.

        Returns the member and its score (epoch ms of the earliest delayed job, or 0). Whoever pops a marker
        must lease once, or put it back (`ops.wake`).
        """
        deadline_s = time.monotonic() + timeout_s
        left_s = timeout_s
        while True:
            block_s = min(max(left_s, _BLOCK_MIN_S), _BLOCK_MAX_S)
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
        block = min(block_ms, int(_BLOCK_MAX_S * 1000)) or None
        reader = self._blocking if block else self._redis
        streams = self._call(reader.xread, {q.events: last_id}, count, block)
        return [
            (event_id.decode(), {name.decode("utf-8", "replace"): value for name, value in fields.items()})
            for _, entries in streams
            for event_id, fields in entries
        ]

    def last_event_id(self, q: QueueKey) -> str:
        """Return the id of the queue's latest event, to read on from there; `0-0` if it has none."""
        latest = self._call(self._redis.xrevrange, q.events, "+", "-", 1)
        return latest[0][0].decode() if latest else "0-0"

    def scan_queues(self, prefix: str) -> list[QueueKey]:
        """Return every queue below a prefix, by name. Walks the whole keyspace: for people, not for loops."""
        pattern = queues_pattern(prefix)
        found = self._call(lambda: set(self._redis.scan_iter(pattern, count=_SCAN_COUNT, _type="HASH")))
        queues = (queue_of_meta(prefix, key.decode("utf-8", "replace")) for key in found)
        return sorted(queue for queue in queues if queue is not None)

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
            raise RedisUnavailable("this client is closed")
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

    def _send(self, ops: Sequence[Op[Any]], load: bool = False) -> list[Any]:
        """Send a batch, and ahead of it its scripts if one may be new to the server; return replies and errors.

        All of its scripts, not only the new: was one forgotten meanwhile, its entry would come after the others.
        """
        scripts = [script(op.verb) for op in ops]
        ahead = {each.sha: each for each in scripts}
        if not load and ahead.keys() <= self._loaded:
            ahead = {}
        commands: list[tuple[Arg, ...]] = [("SCRIPT", "LOAD", each.text) for each in ahead.values()]
        commands += [
            ("EVALSHA", each.sha, len(op.keys), *map(_encode, (*op.keys, *op.args)))
            for op, each in zip(ops, scripts, strict=True)
        ]
        replies = self._round_trip(commands)
        loads = dict(zip(ahead, replies, strict=False))
        refused = {sha: reply for sha, reply in loads.items() if isinstance(reply, Exception)}
        self._loaded.update(loads.keys() - refused.keys())
        # What could not be loaded says why; NOSCRIPT would only say that it is missing.
        return [
            refused.get(each.sha, reply) if isinstance(reply, NoScriptError) else reply
            for each, reply in zip(scripts, replies[len(ahead) :], strict=True)
        ]

    def _round_trip(self, commands: Sequence[tuple[Arg, ...]]) -> list[Any]:
        """Send commands at once and read their replies, an error among them as a value.

        What redis-py's pipeline does, less what it does for transactions, retries and callbacks: half its time.
        """
        pool = self._redis.connection_pool
        connection: Any = pool.get_connection()
        try:
            connection.send_packed_command(connection.pack_commands(commands))
            return [_reply_of(connection) for _ in commands]
        except BaseException:
            connection.disconnect()  # what is still to be read on it is not ours any more
            raise
        finally:
            pool.release(connection)

    def _drop_idle(self) -> None:
        """Close the connections that nobody uses just now: where one broke, the others are stale."""
        self._loaded = set()
        for each in (self._redis, self._blocking):
            each.connection_pool.disconnect(inuse_connections=False)


def _reply_of(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


def _encode(arg: Arg) -> Arg:
    # A lone surrogate (a file name in a traceback) must not make a job's outcome unwritable.
    return arg.encode("utf-8", "backslashreplace") if isinstance(arg, str) else arg


def _read(op: Op[Any], reply: Any) -> Any:
    if isinstance(reply, Exception):
        return translate(reply)
    try:
        return op.read(reply)
    except HeavyqError as error:
        return error
    except Exception as error:  # noqa: BLE001 - one reply that we misread must not hide those of its neighbours
        return ProtocolError(f"the reply of {op.verb} cannot be read: {error!r} (a bug in heavyq: report it)")
