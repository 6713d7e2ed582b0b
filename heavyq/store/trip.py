"""What is sent to the server and what its replies mean, written once for both clients.

A trip is a generator: it yields the commands of one round trip, is sent their replies (an error among them as a
value), and returns a result. It opens no connection and waits for nothing: `client` and `aclient` carry it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from redis.exceptions import NoScriptError

from heavyq.bullmq.keys import QueueKey, queue_of_meta, queues_pattern
from heavyq.bullmq.scripts import script
from heavyq.errors import HeavyqError, ProtocolError, RedisUnavailable
from heavyq.store.connect import translate

if TYPE_CHECKING:
    from heavyq.bullmq.op import Arg, Op

T = TypeVar("T")
Event = tuple[str, dict[str, bytes]]
Until = Callable[[dict[str, bytes]], bool]
Command = tuple["Arg", ...]
Trip = Generator[Sequence[Command], list[Any], T]

BLOCK_MAX_S: Final = 10.0  # a longer wait is several blocks, so that a server that hangs is noticed
EVENTS_AT_ONCE: Final = 100  # each may carry a whole result
_SCAN_COUNT: Final = 1000


def run_ops(ops: Sequence[Op[Any]], loaded: set[str]) -> Trip[list[Any]]:
    """Run operations in order; return for each its result or its own error. loaded: the scripts the server has."""
    replies = yield from _send(ops, loaded, load=False)
    # A server that forgets its scripts (SCRIPT FLUSH) forgets all at once: what must go again is the end
    # of the batch, and the order of the writes is kept.
    forgotten = [n for n, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
    if forgotten:
        loaded.clear()
        again = yield from _send([ops[n] for n in forgotten], loaded, load=True)
        for n, reply in zip(forgotten, again, strict=True):
            replies[n] = reply
    return [_read(op, reply) for op, reply in zip(ops, replies, strict=True)]


def run_atomic(ops: Sequence[Op[Any]]) -> Trip[list[Any]]:
    """Run operations as one transaction; return as `run_ops`. Raises if it was discarded: nothing was done.

    The scripts are loaded within it: one that is missing would be found out when half of it was done.
    """
    scripts = [script(op.verb) for op in ops]
    loads = {each.sha: each for each in scripts}
    commands: list[Command] = [("MULTI",), *(("SCRIPT", "LOAD", each.text) for each in loads.values())]
    commands += [_call(op, each.sha) for op, each in zip(ops, scripts, strict=True)]
    *queued, done = yield [*commands, ("EXEC",)]
    if isinstance(done, Exception):
        why = next((reply for reply in queued if isinstance(reply, Exception)), done)
        error = translate(why)
        if isinstance(error, RedisUnavailable):
            error.nothing_happened = True
        raise error
    if not isinstance(done, list) or len(done) != len(commands) - 1:
        raise ProtocolError(f"EXEC replied {done!r:.100} (a bug in heavyq: report it)")
    refused = {sha: reply for sha, reply in zip(loads, done, strict=False) if isinstance(reply, Exception)}
    return [
        _read(op, refused.get(each.sha, reply))
        for op, each, reply in zip(ops, scripts, done[len(loads) :], strict=True)
    ]


def read_events(q: QueueKey, after: str, block_ms: int | None, count: int) -> Trip[list[Event]]:
    """Return events after an id. block_ms: None does not wait."""
    block: Command = () if block_ms is None else ("BLOCK", block_ms)
    streams = _value((yield [("XREAD", "COUNT", count, *block, "STREAMS", q.events, after)])) or []
    return [
        (event_id.decode(), {name.decode("utf-8", "replace"): value for name, value in _pairs(flat or [])})
        for _, entries in streams
        for event_id, flat in entries
    ]


def last_event_id(q: QueueKey) -> Trip[str]:
    """Return the id of a queue's latest event; `0-0` if it has none."""
    latest = _value((yield [("XREVRANGE", q.events, "+", "-", "COUNT", 1)]))
    return latest[0][0].decode() if latest else "0-0"


def scan_queues(prefix: str) -> Trip[list[QueueKey]]:
    """Return every queue below a prefix, by name."""
    pattern, cursor, keys = queues_pattern(prefix), b"0", set[bytes]()
    while True:
        cursor, found = _value((yield [("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT, "TYPE", "hash")]))
        keys.update(found)
        if cursor == b"0":
            break
    queues = (queue_of_meta(prefix, key.decode("utf-8", "replace")) for key in keys)
    return sorted(queue for queue in queues if queue is not None)


def client_list() -> Trip[str]:
    """Return CLIENT LIST: a line for each connection."""
    text: bytes = _value((yield [("CLIENT", "LIST")]))
    return text.decode("utf-8", "replace")


def closed() -> RedisUnavailable:
    """Return the error of a client that was closed."""
    return away("this client is closed")


def away(why: str) -> RedisUnavailable:
    """Return the error of what was not sent."""
    error = RedisUnavailable(why)
    error.nothing_happened = True
    return error


def is_later(event_id: str, other: str) -> bool:
    """Tell whether an event's id comes after another's."""
    return _numbers(event_id) > _numbers(other)


def _numbers(event_id: str) -> tuple[int, int]:
    ms, _, number = event_id.partition("-")
    return int(ms), int(number or 0)


def _send(ops: Sequence[Op[Any]], loaded: set[str], *, load: bool) -> Trip[list[Any]]:
    """Send a batch, and ahead of it its scripts if one may be new to the server; return replies and errors.

    All of its scripts, not only the new: was one forgotten meanwhile, its entry would come after the others.
    """
    scripts = [script(op.verb) for op in ops]
    ahead = {each.sha: each for each in scripts}
    if not load and ahead.keys() <= loaded:
        ahead = {}
    commands: list[Command] = [("SCRIPT", "LOAD", each.text) for each in ahead.values()]
    commands += [_call(op, each.sha) for op, each in zip(ops, scripts, strict=True)]
    replies = yield commands
    loads = dict(zip(ahead, replies, strict=False))
    refused = {sha: reply for sha, reply in loads.items() if isinstance(reply, Exception)}
    loaded.update(loads.keys() - refused.keys())
    # What could not be loaded says why; NOSCRIPT would only say that it is missing.
    return [
        refused.get(each.sha, reply) if isinstance(reply, NoScriptError) else reply
        for each, reply in zip(scripts, replies[len(ahead) :], strict=True)
    ]


def _call(op: Op[Any], sha: str) -> Command:
    return ("EVALSHA", sha, len(op.keys), *map(_encode, (*op.keys, *op.args)))


def _encode(arg: Arg) -> Arg:
    # A lone surrogate (a file name in a traceback) must not make a job's outcome unwritable.
    return arg.encode("utf-8", "backslashreplace") if isinstance(arg, str) else arg


def _value(replies: list[Any]) -> Any:
    """Return the only reply, or raise it."""
    (reply,) = replies
    if isinstance(reply, Exception):
        raise translate(reply)
    return reply


def _pairs(flat: list[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _read(op: Op[Any], reply: Any) -> Any:
    if isinstance(reply, Exception):
        return translate(reply)
    try:
        return op.read(reply)
    except HeavyqError as error:
        return error
    except Exception as error:  # noqa: BLE001 - one reply that we misread must not hide those of its neighbours
        return ProtocolError(f"the reply of {op.verb} cannot be read: {error!r} (a bug in heavyq: report it)")
