"""The worker's writes to Redis, in the order given: lease, settle, progress, logs, checkpoint.

Owns one connection, the pipelining of what waits, and the repeats while Redis is away. Only what is replayable
is repeated, and only here: the client's own retries are off. Replies become calls on the control loop.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from heavyq.bullmq.op import Op
from heavyq.errors import HeavyqError, ProtocolError, RedisUnavailable
from heavyq.store.client import Client
from heavyq.worker.part import Call, Inbox, Part

_PIPELINE_MAX = 128
_PAUSE_FIRST_S, _PAUSE_MAX_S = 0.05, 1.0


@dataclass(slots=True)
class Command:
    """One operation on its way.

    op: sent first. again: makes what is sent instead after a lost reply (a lease looks for its own token first);
    None: `op` itself.
    done: called on the control loop with the result, or with the HeavyqError that no repeat mends.
    """

    op: Op[Any]
    done: Callable[[Any], None] | None = None
    again: Callable[[], Op[Any]] | None = None


@dataclass(slots=True)
class _Latest:
    """A place in the queue whose operation is made when its turn comes: only the latest value is sent."""

    key: Hashable


class Commands(Part):
    """The commands thread."""

    vital = True

    def __init__(self, client: Client, inbox: Inbox, died: Callable[[Part, BaseException], None]) -> None:
        super().__init__("commands", inbox, died)
        self._client = client
        self._waiting: queue.SimpleQueue[tuple[Command, ...] | _Latest] = queue.SimpleQueue()
        self._latest: dict[Hashable, Callable[[], Op[Any] | None]] = {}
        self._lock = threading.Lock()  # for `_latest`
        self._log = structlog.get_logger().bind(thread="commands")
        self.away = False

    def send(self, *commands: Command) -> None:
        """Queue commands; those given together go in one round trip. Order is kept."""
        self._waiting.put(commands)

    def send_latest(self, key: Hashable, make: Callable[[], Op[Any] | None]) -> None:
        """Queue an operation that replaces the one of the same key if that has not been sent yet."""
        with self._lock:
            queued = key in self._latest
            self._latest[key] = make
        if not queued:
            self._waiting.put(_Latest(key))

    def stop(self) -> None:
        super().stop()
        self._waiting.put(())

    @property
    def idle(self) -> bool:
        """True when nothing waits to be sent."""
        return self._waiting.empty()

    def work(self) -> None:
        unanswered: list[Command] = []
        pause_s = _PAUSE_FIRST_S
        while True:
            if not unanswered:
                unanswered = self._take()
                if not unanswered and self.stopping.is_set():
                    return
            unanswered = self._run(unanswered)
            if not unanswered:
                if self.away:
                    self._log.info("redis is back")
                self.away, pause_s = False, _PAUSE_FIRST_S
            elif self.stopping.wait(pause_s):
                return
            else:
                pause_s = min(pause_s * 2, _PAUSE_MAX_S)

    def _take(self) -> list[Command]:
        """Wait for commands; take with them what else is there."""
        taken = list(self._made(self._waiting.get()))
        with contextlib.suppress(queue.Empty):
            while len(taken) < _PIPELINE_MAX:
                taken += self._made(self._waiting.get_nowait())
        return taken

    def _made(self, entry: tuple[Command, ...] | _Latest) -> tuple[Command, ...]:
        if not isinstance(entry, _Latest):
            return entry
        with self._lock:
            make = self._latest.pop(entry.key)
        op = make()
        return (Command(op),) if op else ()

    def _run(self, commands: Sequence[Command]) -> list[Command]:
        """Send a batch; return what must be sent again, in order."""
        replies = self._replies(commands)
        again: list[Command] = []
        answered: list[Call] = []
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, RedisUnavailable):
                self._note_away(reply)
                if command.op.replayable or command.again:
                    op = command.again() if command.again else command.op
                    again.append(Command(op, command.done, command.again))
                    continue
            if command.done:
                answered.append((command.done, (reply,)))
            elif isinstance(reply, HeavyqError):
                what = "was lost" if isinstance(reply, RedisUnavailable) else "was refused by redis"
                self._log.error(f"a write {what}", verb=command.op.verb, error=str(reply))
        if answered:
            self.inbox.post_all(answered)
        return again

    def _replies(self, commands: Sequence[Command]) -> list[Any]:
        try:
            return self._client.run_many([c.op for c in commands])
        except HeavyqError as error:  # of the whole batch: whatever it says, nothing is known of what was sent
            return [RedisUnavailable(str(error))] * len(commands)
        except Exception as error:  # noqa: BLE001 - one that cannot be put into bytes must not take the others along
            if len(commands) > 1:
                return [reply for command in commands for reply in self._replies([command])]
            return [ProtocolError(f"{commands[0].op.verb} cannot be sent: {error!r}")]

    def _note_away(self, error: HeavyqError) -> None:
        if not self.away:
            self.away = True
            self._log.warning("redis is away: results wait, jobs go on", error=str(error))
