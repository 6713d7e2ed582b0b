"""A queue under test: runs operations on a real server and reads back everything that they left.

Owns a clock that stands still (`now`), tokens, and plain views of the queue's keys. Asserts nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from heavyq.bullmq import ops
from heavyq.bullmq.lease import Lease, LeasedJob, LeaseReply
from heavyq.bullmq.options import Keep

if TYPE_CHECKING:
    import redis

    from heavyq.bullmq.keys import QueueKey
    from heavyq.bullmq.op import Op
    from heavyq.store.client import Client

R = TypeVar("R")

NOW_MS = 1_795_492_829_667
USAGE = b'{"ats":1}'
FAILURE = b'{"ats":1,"reason":"exception"}'
SETTLES = ("complete", "fail", "retry", "delay", "hand_back", "wait_children")


class Rig:
    """One queue, its server, and a clock in ms that only tests move."""

    def __init__(self, client: Client, raw: redis.Redis, q: QueueKey) -> None:
        self.client, self.raw, self.q = client, raw, q
        self.now = NOW_MS
        self._tokens = 0

    # -- operations, with defaults for what a test does not care about

    def run(self, op: Op[R]) -> R:
        return self.client.run(op)

    def add(self, name: str = "job", *, data: bytes = b"{}", opts: bytes = b"{}", **options: Any) -> str:
        options.setdefault("timestamp_ms", self.now)
        return self.run(ops.add(self.q, name=name, data=data, opts=opts, **options)).id

    def token(self) -> str:
        self._tokens += 1
        return f"hq:w1:{self._tokens}"

    def try_lease(self, *, token: str | None = None, **options: Any) -> LeaseReply:
        options = {"lock_ms": 30_000, "worker_name": None, "now_ms": self.now, **options}
        return self.run(ops.lease(self.q, token=token or self.token(), **options))

    def lease_job(self, **options: Any) -> LeasedJob:
        reply = self.try_lease(**options)
        assert isinstance(reply, LeasedJob), reply
        return reply

    def lease(self, **options: Any) -> Lease:
        return self.lease_job(**options).lease

    def settle_op(self, verb: str, lease: Lease, **options: Any) -> Op[ops.Settled]:
        now_ms = options.pop("now_ms", self.now)
        trace = {"failed_reason": "boom", "stacktrace": b'["E: boom"]', "failure": FAILURE, "usage": USAGE}
        defaults: dict[str, dict[str, Any]] = {
            "complete": {"returnvalue": b'{"ok":true}', "keep": Keep(), "usage": USAGE},
            "fail": {**trace, "keep": Keep(), "attempts": 1},
            "retry": {**trace, "lifo": False},
            "delay": {**trace, "delay_ms": 1000, "burn_attempt": True},
            "hand_back": {"usage": USAGE},
            "wait_children": {"usage": USAGE},
        }
        verbs = {name: getattr(ops, name) for name in SETTLES}
        op: Op[ops.Settled] = verbs[verb](lease, now_ms=now_ms, **{**defaults[verb], **options})
        return op

    def settle(self, verb: str, lease: Lease, **options: Any) -> ops.Settled:
        return self.run(self.settle_op(verb, lease, **options))

    def sweep(self, *, interval_ms: int = 60_000, limit: int = 1, look: bool = True) -> tuple[str, ...]:
        """Sweep; with `look` the interval since the last one is over."""
        if look:
            self.raw.delete(self.key("stalled-check"))
        return self.run(ops.sweep(self.q, now_ms=self.now, stalled_interval_ms=interval_ms, max_stalled_count=limit))

    def expire_lock(self, job_id: str) -> None:
        """What the server does when the lock's time is over."""
        self.raw.delete(self.key(f"{job_id}:lock"))

    # -- what is there

    def key(self, suffix: str) -> str:
        return self.q.key(suffix)

    def meta(self, **fields: Any) -> None:
        self.raw.hset(self.key("meta"), mapping=fields)

    def hash(self, suffix: str) -> dict[str, str]:
        return {_text(name): _text(value) for name, value in self.raw.hgetall(self.key(suffix)).items()}

    def field(self, job_id: str, field: str) -> str | None:
        value = self.raw.hget(self.key(job_id), field)
        return None if value is None else _text(value)

    def list(self, suffix: str) -> list[str]:
        return [_text(item) for item in self.raw.lrange(self.key(suffix), 0, -1)]

    def zset(self, suffix: str) -> dict[str, float]:
        """Members and scores, in order."""
        pairs = self.raw.zrange(self.key(suffix), 0, -1, withscores=True)
        return {_text(member): score for member, score in pairs}

    def text(self, suffix: str) -> str | None:
        value = self.raw.get(self.key(suffix))
        return None if value is None else _text(value)

    def events(self) -> list[dict[str, str]]:
        entries = self.raw.xrange(self.key("events"))
        return [{_text(name): _text(value) for name, value in fields.items()} for _, fields in entries]

    def forget_events(self) -> None:
        self.raw.delete(self.key("events"))

    def exists(self, suffix: str) -> bool:
        return bool(self.raw.exists(self.key(suffix)))

    def dump(self) -> dict[str, Any]:
        """Everything below the queue's name, as plain data; times to live are left out."""
        start = len(self.key(""))
        keys = sorted(self.raw.scan_iter(self.key("*"), count=1000))
        types = self.raw.pipeline(transaction=False)
        for key in keys:
            types.type(key)
        values = self.raw.pipeline(transaction=False)
        kinds = types.execute()
        for key, kind in zip(keys, kinds, strict=True):
            match kind:
                case b"hash":
                    values.hgetall(key)
                case b"list":
                    values.lrange(key, 0, -1)
                case b"zset":
                    values.zrange(key, 0, -1, withscores=True)
                case b"set":
                    values.smembers(key)
                case b"string":
                    values.get(key)
                case b"stream":
                    values.xrange(key)
                case other:
                    raise AssertionError(f"{key!r} is a {other!r}")
        found = zip(keys, kinds, values.execute(), strict=True)
        return {_text(key)[start:]: _plain(kind, value) for key, kind, value in found}


def _plain(kind: bytes, value: Any) -> Any:
    match kind:
        case b"hash":
            return {_text(name): _text(item) for name, item in value.items()}
        case b"list":
            return [_text(item) for item in value]
        case b"zset":
            return {_text(member): score for member, score in value}
        case b"set":
            return {_text(item) for item in value}
        case b"stream":
            return [_plain(b"hash", fields) for _, fields in value]
        case _:
            return _text(value)


def read_json(text: str | None) -> Any:
    assert text is not None
    return json.loads(text)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
