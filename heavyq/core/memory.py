"""Memory, decided on plain numbers: when to look again, whose bytes they are, what fits, who is stopped. Pure.

Knows no process, no /proc, no clock: sizes are bytes and times are seconds, given with each question. Driven by the
worker's watch thread (charges, the container) and by control (what fits).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

GIB = 2**30
MIB = 2**20

LOOK_MIN_S = 0.025
LOOK_MAX_S = 0.5
FASTEST_BYTES_PER_S = 4 * GIB  # a process can hardly fault in memory faster: what it cannot reach need not be watched
POINTS_MAX = 200
_POINT_GAP_S = 0.05

_SMALL_CONTAINER = GIB
IDLE_WORTH_BYTES = 16 * MIB
_CHILD_BYTES = 32 * MIB  # what a child holds of its own before it has done anything

REPRIEVE_S = 1.0
REST_FACTOR = 20  # what holds up a job, or the watch, may take a twentieth of the time

GROUP_SLACK_BYTES = 16 * MIB
RETAINED_MIN_BYTES = 32 * MIB


# ---- when to look


def next_look_s(headroom_bytes: Sequence[int]) -> float:
    """Return how long nobody can get past a limit, given how far each is from its own."""
    nearest = min(headroom_bytes, default=FASTEST_BYTES_PER_S)
    return min(LOOK_MAX_S, max(LOOK_MIN_S, nearest / FASTEST_BYTES_PER_S))


class Timeline:
    """A run's charge over time, in at most POINTS_MAX points: when it is full, every second point goes."""

    def __init__(self) -> None:
        self._points: list[tuple[float, int]] = []
        self._gap_s = _POINT_GAP_S

    def add(self, at_s: float, charge_bytes: int) -> None:
        """Take a sample. at_s: seconds since the run began, never less than the one before."""
        if self._points and at_s - self._points[-1][0] < self._gap_s:
            last_s, last_bytes = self._points[-1]
            self._points[-1] = (last_s, max(last_bytes, charge_bytes))  # a peak between two points is told
            return
        if len(self._points) == POINTS_MAX:
            self._points = self._points[::2]
            self._gap_s *= 2
        self._points.append((round(at_s, 3), charge_bytes))

    def points(self) -> tuple[tuple[float, int], ...]:
        return tuple(self._points)


# ---- whose bytes they are


@dataclass(frozen=True, slots=True)
class Held:
    """What one process holds, as the kernel accounts for it exactly.

    anon: private memory that it has mapped, whoever shares its pages. pss: its part of anonymous and shared memory,
    each page divided by those who map it. lazy_free: given back already, taken away when somebody needs it. shared:
    shared memory that it has mapped.
    """

    anon_bytes: int
    pss_bytes: int
    lazy_free_bytes: int
    shared_bytes: int = 0

    def borne_by_others(self, own_bytes: int = 0) -> int:
        """Return how much of its part may be of pages that others map too. own: of that, what is surely its own."""
        return max(0, min(self.pss_bytes - max(0, own_bytes), self.anon_bytes + self.shared_bytes - self.pss_bytes))


def confirmed_bytes(
    *, charge_bytes: int, birth_bytes: int, child: Held, below: Sequence[Held], lent_bytes: int, born_bytes: int
) -> int:
    """Return what a job surely holds.

    charge_bytes: what the quick meter says of the tree: it counts a page once for each process that maps it, so a job
    that forks seems to hold its own memory many times, and the zygote's too. birth_bytes: the child's own at its birth.
    lent, born: see `divided_bytes`.

    What the child has mapped since its birth is its own, whoever shares it now. What stands below it counts as far as
    the kernel divides it, without what the zygote lends: generous to the job by what its siblings bear of that.
    """
    own = child.anon_bytes - child.lazy_free_bytes - birth_bytes
    divided = divided_bytes(child, below, own_bytes=own, lent_bytes=lent_bytes, born_bytes=born_bytes)
    return max(own, min(charge_bytes, divided))


def divided_bytes(child: Held, below: Sequence[Held], *, own_bytes: int, lent_bytes: int, born_bytes: int) -> int:
    """Return what a job holds as the kernel divides it; of the zygote's pages, those that it has written to.

    own: what the child has surely made itself. lent: what others bear of the zygote's pages; this tree bears a part of
    them only, and a program that it has started none. born: what the child and its helpers had made before any job.
    """
    most = child.borne_by_others(own_bytes) + sum(one.borne_by_others() for one in below)
    total = sum(one.pss_bytes - one.lazy_free_bytes for one in (child, *below))
    return max(0, total - min(lent_bytes, most) - born_bytes)


@dataclass(frozen=True, slots=True)
class Reprieve:
    """A job that seemed over its limit and was not: not read exactly again for a while, unless it grows by its room.

    confirmed_bytes: what it held. excused_bytes: by how much the quick meter was too strict.
    """

    until_s: float
    excused_bytes: int
    confirmed_bytes: int


def reprieve(*, charge_bytes: int, confirmed: int, now_s: float, took_s: float = 0.0) -> Reprieve:
    """Excuse a job. took_s: how long it stood still for the reading: a large one is read the less often."""
    return Reprieve(now_s + max(REPRIEVE_S, took_s * REST_FACTOR), charge_bytes - confirmed, confirmed)


def still_excused(excuse: Reprieve | None, charge_bytes: int, now_s: float) -> Reprieve | None:
    """Return what is left of an excuse: once the charge has fallen, less of it can be counted twice."""
    if excuse is None or now_s >= excuse.until_s:
        return None
    left = min(excuse.excused_bytes, max(0, charge_bytes - excuse.confirmed_bytes))
    return replace(excuse, excused_bytes=left)


def headroom_bytes(charge_bytes: int, limit_bytes: int, excuse: Reprieve | None) -> int:
    """Return how far a job is from its limit; 0 or less asks for the exact (and dear) reading."""
    return limit_bytes - charge_bytes + (excuse.excused_bytes if excuse else 0)


# ---- the container


def mark_bytes(limit_bytes: int) -> int:
    """Return the use at which heavyq acts, before the kernel does. A small container fills in fewer looks."""
    return limit_bytes * (8 if limit_bytes < _SMALL_CONTAINER else 9) // 10


@dataclass(frozen=True, slots=True)
class Holder:
    """A child as the container's guard sees it. run_s: how long its job has run; None: it has none."""

    child: int
    charge_bytes: int
    run_s: float | None
    request_bytes: int | None


def cheapest_loss(holders: Sequence[Holder]) -> int | None:
    """Return the child to stop when the container is nearly full; None if no child holds what is worth it.

    One without a job goes first. Then those that hold more than they asked for, then all; among those that hold at
    least half of what the largest does, the one that has run the shortest: the least work is lost.
    """
    idle = [h for h in holders if h.run_s is None and h.charge_bytes >= IDLE_WORTH_BYTES]
    if idle:
        return max(idle, key=lambda h: h.charge_bytes).child
    busy = [h for h in holders if h.run_s is not None]
    over = [h for h in busy if h.request_bytes is not None and h.charge_bytes > h.request_bytes]
    candidates = over or busy
    most = max((h.charge_bytes for h in candidates), default=0)
    if most < IDLE_WORTH_BYTES:
        return None
    return min((h for h in candidates if h.charge_bytes * 2 >= most), key=lambda h: h.run_s or 0.0).child


# ---- what fits


def auto_budget_bytes(container_limit_bytes: int, worker_bytes: int) -> int:
    """Return what all jobs together may hold. worker_bytes: what the supervisor and the zygote hold."""
    return max(0, mark_bytes(container_limit_bytes) - worker_bytes)


@dataclass(frozen=True, slots=True)
class Reserved:
    """One held job: what its queue asked for, and what its child holds now."""

    request_bytes: int
    charge_bytes: int


def fits(request_bytes: int, budget_bytes: int, held: Sequence[Reserved]) -> bool:
    """Tell whether one more job of this need may be leased."""
    return request_bytes + sum(max(h.request_bytes, h.charge_bytes) for h in held) <= budget_bytes


PATIENCE_S = 30.0


def goes_first(blocked_since_s: Sequence[float | None], now_s: float) -> int | None:
    """Return the index of the queue that has had no room for so long that others must leave it some; None if none.

    Without this, small jobs that keep coming would keep a large one out for ever. blocked_since_s: of each queue, since
    when its next job would not fit; None: it would, or there is none.
    """
    since = [(at_s, index) for index, at_s in enumerate(blocked_since_s) if at_s is not None]
    longest = min(since, default=None)
    return longest[1] if longest is not None and now_s - longest[0] >= PATIENCE_S else None


def children_that_fit(budget_bytes: int, need_bytes: int | None) -> int:
    """Return how many children the budget takes, at least one. need_bytes: of one job; None: not declared."""
    return max(1, budget_bytes // max(need_bytes or 0, _CHILD_BYTES))


# ---- limits that follow from others


def group_limit_bytes(limit_bytes: int, birth_bytes: int) -> int:
    """Return the kernel's limit for a job's own group: above ours, so that the watch, which can say more, is first.

    birth_bytes: what the child was born with. If it writes over that, the copies are charged to its group, by nobody's
    fault.
    """
    return limit_bytes + limit_bytes // 10 + GROUP_SLACK_BYTES + birth_bytes


def implied_recycle_bytes(memory_limit: int) -> int:
    """Return from which growth on a child is replaced after its job, where the queue does not say.

    A limit counts what earlier jobs of the child have left, so a child that has kept an eighth of it is replaced.
    """
    return min(memory_limit // 2, max(RETAINED_MIN_BYTES, memory_limit // 8))


def learnt_need_bytes(before: int, peak_bytes: int, budget_bytes: int, *, full: bool) -> int:
    """Return what a queue's jobs are taken to need, after one of them.

    Only a container that was full teaches (full: the job died of that): then jobs of its size are not run side by side
    beyond what there is room for. With every job that goes well the fear is halved, down to what that job held.
    """
    if full:
        return min(max(before, peak_bytes), budget_bytes)
    return max(before // 2, min(before, peak_bytes))


# ---- leaks


@dataclass(slots=True)
class Leak:
    """What the jobs of one name have left in their children. Kept per name by the worker's control."""

    runs: int = 0
    grown_bytes: int = 0
    recycled: int = 0

    def note(self, grown_bytes: int) -> None:
        """Count a run and what its child holds more, or less, than before it."""
        self.runs += 1
        self.grown_bytes += grown_bytes

    @property
    def per_run_bytes(self) -> int:
        return max(0, self.grown_bytes) // self.runs if self.runs else 0


def in_words(size: int) -> str:
    """Return a size for people: `1.02 GiB`, `40 MiB`."""
    if size >= GIB:
        return f"{size / GIB:.2f} GiB"
    return f"{size / MIB:.0f} MiB"
