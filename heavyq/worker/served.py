"""One queue as a worker serves it: its options, and what is known of the work in it.

Owns whether a lease is worth asking for. Leases nothing: control does, in turns over all queues.
"""

from __future__ import annotations

from dataclasses import dataclass

from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.options import KEEP_ALL, Keep
from heavyq.config import QueueSettings
from heavyq.linux.clock import monotonic_s
from heavyq.worker.crew import ChildKind
from heavyq.worker.waiter import Waiter

_EMPTY_TRUST_S = 0.5  # how long a queue that was found empty, and is not waited for, counts as empty


@dataclass(frozen=True, slots=True)
class Traits:
    """What the worker has to know of a queue's functions, which only children can call.

    is_async: its jobs share children. hooks: the events that its `@on` functions want. strategy: it has a backoff
    strategy of its own. keep_completed, keep_failed: what stays of jobs that say nothing of it.
    """

    is_async: bool = False
    hooks: frozenset[str] = frozenset()
    strategy: bool = False
    keep_completed: Keep = KEEP_ALL
    keep_failed: Keep = KEEP_ALL


@dataclass(slots=True)
class Served:
    """A queue that this worker serves.

    held: runs and unanswered leases. may_have_work: a lease is worth asking for. due_ms: when its earliest
    delayed job is due. asleep_until_s: it is rate limited until then. empty_since_s: when a lease found nothing.
    marker_taken: its marker was popped, and nobody has leased since. has_room: its next job would fit in memory.
    blocked_since_s: since when it has had no room. asked: leases without an answer. need_bytes: what its jobs are taken
    to need since the container was full. settling: jobs whose outcome Redis has not answered yet; each still holds a
    seat. asked_work_s, sure_work_s: when it was last asked whether there is work, and told that there is. traits: what
    its functions are.
    """

    key: QueueKey
    settings: QueueSettings
    kind: ChildKind
    limit: int
    traits: Traits = Traits()
    waiter: Waiter | None = None
    held: int = 0
    may_have_work: bool = True
    due_ms: int | None = None
    asleep_until_s: float = 0.0
    empty_since_s: float = 0.0
    marker_taken: bool = False
    has_room: bool = True
    blocked_since_s: float | None = None
    asked: int = 0
    need_bytes: int = 0
    seen_work_s: float = 0.0
    settling: int = 0
    asked_work_s: float = 0.0
    sure_work_s: float = -1e9

    def worth_asking(self, now_s: float) -> bool:
        """True when a lease may find a job: there is work as far as is known, or nobody has looked for a while.

        While every seat is taken nobody waits for the queue's marker. Were it taken for empty all that time, a
        queue that never runs dry would keep it from being served at all.
        """
        if now_s < self.asleep_until_s:
            return False
        if self.may_have_work:
            return True
        unwatched = self.waiter is not None and not self.waiter.busy and not self.asleep_until_s
        return unwatched and now_s - self.empty_since_s >= _EMPTY_TRUST_S

    def sleep(self, seconds: float) -> None:
        """Take no job of it for so long: a rate limit was met."""
        self.asleep_until_s = max(self.asleep_until_s, monotonic_s() + seconds)

    @property
    def request_bytes(self) -> int:
        """What room its next job needs: as declared, or as learnt; 0: nobody knows."""
        return max(self.settings.memory_request or 0, self.need_bytes)

    @property
    def is_empty(self) -> bool:
        """True when the last lease found no job, and none is delayed, as far as is known."""
        return not self.may_have_work and self.due_ms is None and not self.asleep_until_s

    @property
    def lock_ms(self) -> int:
        return int(self.settings.lock_duration_s * 1000)
