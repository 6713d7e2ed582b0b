"""`Job`: what a processor gets. Its names are a contract with user code.

Owns the view of one run from inside the child. What belongs to the run goes through the channel; only what a method
says it asks of Redis goes there, through the queue's own client, which is made when it is first asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.ops.children import Children, children
from heavyq.bullmq.ops.update_data import update_data
from heavyq.bullmq.options import WireOptions
from heavyq.errors import JobError, PayloadTooLarge
from heavyq.job import wire
from heavyq.queue.typed import to_json

if TYPE_CHECKING:
    from heavyq.queue.queue import Queue

P = TypeVar("P", default=dict[str, Any])
R = TypeVar("R", default=Any)
R2 = TypeVar("R2", default=Any)

PROGRESS_BYTES_MAX = 64 * 1024
CHECKPOINT_BYTES_MAX = 1024 * 1024
LOG_ROW_MAX = 8 * 1024


@dataclass(frozen=True, slots=True)
class JobInfo:
    """The facts of one run, as the supervisor sent them."""

    id: str
    name: str
    queue_name: str
    prefix: str
    attempt: int
    attempts_made: int
    fence: int
    timestamp_ms: int
    slot: int
    workdir: Path
    opts: bytes
    parent: str | None
    progress: Any
    checkpoint: Any


class Job(Generic[P, R]):
    """One run of one job.

    id, name, queue_name: text. data: the payload in its type. attempt: 1 on the first run. attempts_made:
    BullMQ's count before this run. fence: grows with every lease of the queue: store it beside what you write
    outside, and refuse a smaller one. timestamp: when the job was added, aware UTC. opts: the job's options as
    stored. parent: the full key of the parent, `<prefix>:<queue>:<id>`, None if it has none. checkpoint: what an
    earlier run saved, else None. workdir: an empty folder, emptied after the run; TMPDIR points to it, or to the folder
    that it is in. slot: 0..N-1, unique among the worker's children at any moment.
    progress: the last value that was sent.
    What asks Redis blocks until it answers: in an `async def`, write `await asyncio.to_thread(job.children_values)`.
    """

    def __init__(
        self,
        info: JobInfo,
        data: P,
        send: Callable[[bytes, bytes], None],
        *,
        queue: Queue[Any, Any],
        check: Callable[[], None],
    ) -> None:
        self._info = info
        self._send = send
        self._queue = queue
        self._check = check  # raises where the job's API must not be used
        self.data: P = data
        self.progress: Any = info.progress
        self.checkpoint: Any = info.checkpoint

    @property
    def id(self) -> str:
        return self._info.id

    @property
    def name(self) -> str:
        return self._info.name

    @property
    def queue_name(self) -> str:
        return self._info.queue_name

    @property
    def queue_key(self) -> QueueKey:
        """The queue's qualified name."""
        return QueueKey(self._info.prefix, self._info.queue_name)

    @property
    def key(self) -> str:
        """The job's full key, `<prefix>:<queue>:<id>`."""
        return self.queue_key.key(self.id)

    @property
    def parent(self) -> str | None:
        return self._info.parent

    @property
    def attempt(self) -> int:
        return self._info.attempt

    @property
    def attempts_made(self) -> int:
        return self._info.attempts_made

    @property
    def fence(self) -> int:
        return self._info.fence

    @property
    def slot(self) -> int:
        return self._info.slot

    @property
    def workdir(self) -> Path:
        return self._info.workdir

    @cached_property
    def opts(self) -> WireOptions:
        return WireOptions.read(self._info.opts)  # the supervisor has found that they can be read

    @property
    def timestamp(self) -> datetime:
        return datetime.fromtimestamp(self._info.timestamp_ms / 1000, tz=UTC)

    def update_progress(self, value: float | dict[str, Any]) -> None:
        """Tell the world how far the job is: a number or a dict, at most 64 KiB as JSON.

        Call it as often as you like: only the latest value is kept until it is sent.
        Raises ValueError for what is no JSON or too large, NotInJobProcess in a forked process.
        """
        raw = to_json(value)
        if len(raw) > PROGRESS_BYTES_MAX:
            raise ValueError(f"progress of {len(raw)} bytes: at most {PROGRESS_BYTES_MAX} are taken")
        self._send(wire.PROGRESS, raw)
        self.progress = value

    def log(self, row: str) -> None:
        """Add a row to the job's log, which Bull Board and `heavyq logs` show; cut at 8 KiB."""
        self._send(wire.LOG, str(row)[:LOG_ROW_MAX].encode("utf-8", "replace"))

    def save_checkpoint(self, value: Any) -> None:
        """Save where the job stands: JSON of at most 1 MiB. The next run finds it in `checkpoint`.

        It is kept through retries, hand-backs and crashes, and deleted when the job completes.
        Raises ValueError for what is no JSON or too large, NotInJobProcess in a forked process.
        """
        raw = to_json(value)
        if len(raw) > CHECKPOINT_BYTES_MAX:
            raise ValueError(
                f"checkpoint of {len(raw)} bytes: at most {CHECKPOINT_BYTES_MAX} are taken; save a path instead"
            )
        self._send(wire.CHECKPOINT, raw)
        self.checkpoint = value

    def update_data(self, value: P) -> None:
        """Write the job's payload anew: a later run finds it, and whoever looks at the job. Asks Redis.

        Raises PayloadError for what does not fit its type, PayloadTooLarge, NoSuchJob if the job was removed meanwhile,
        RedisUnavailable, NotInJobProcess.
        """
        self._check()
        link = self._queue._link  # noqa: SLF001 - its worker's side
        raw = link.types(self.name).payload.encode(value)
        if len(raw) > link.max_payload:
            raise PayloadTooLarge(f"the payload has {len(raw)} bytes as JSON, and max_payload is {link.max_payload}")
        link.client().run(update_data(self.queue_key, self.id, raw))
        self.data = value

    def children_values(self, queue: Queue[Any, R2] | None = None) -> dict[str, R2]:
        """Return what the job's completed children have returned, by the child's full key. Asks Redis.

        queue: only its children, and their results in its type; without it those of all, as plain JSON.
        Raises JobError for a result that does not fit the type, RedisUnavailable, NotInJobProcess.
        """
        base = "" if queue is None else queue.key().key("")
        decode: Callable[[bytes], Any] = json.loads if queue is None else queue.result_codec.decode
        found = {}
        for key, raw in self._children().processed.items():
            if key.startswith(base):
                try:
                    found[key] = decode(raw)
                except (ValueError, RecursionError) as error:
                    raise JobError(f"the result of the child {key}: {error}") from None
        return found

    def failed_children_values(self) -> dict[str, str]:
        """Return why children have failed that the job goes on without, by the child's full key. Asks Redis.

        Raises RedisUnavailable, NotInJobProcess.
        """
        return dict(self._children().ignored)

    def _children(self) -> Children:
        self._check()
        return self._queue._link.client().run(children(self.queue_key, self.id))  # noqa: SLF001 - its worker's side
