"""The oracle, for rate limits and the global concurrency, as they are seen by a worker that takes jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.lease import LeaseRefused

if TYPE_CHECKING:
    from tests.interop.twins import Twins

WINDOW_MS = 60_000


def limit_worker(twins: Twins, max_jobs: int, ms: int = WINDOW_MS) -> None:
    twins.bull("limitWorker", max=max_jobs, ms=ms)
    twins.limiter = (max_jobs, ms)


def end_window(twins: Twins) -> None:
    """What the server does when the window is over."""
    for side in (twins.ours, twins.theirs):
        side.raw.delete(side.key("limiter"))
    twins.later(WINDOW_MS)


def test_a_workers_limit_counts_starts(twins: Twins) -> None:
    # conformance: C-108
    limit_worker(twins, 2)
    for _ in range(4):
        twins.add(attempts=2)
    twins.add(priority=1)
    held = twins.fetch()
    assert twins.ours.text("limiter") == "1"
    assert 0 < twins.ours.raw.pttl(twins.ours.key("limiter")) <= WINDOW_MS
    twins.fail(held)
    twins.fetch()
    assert twins.try_fetch() is None
    twins.hand_back(twins_held := _refetch(twins))
    assert twins_held.id == "3"


def _refetch(twins: Twins):
    end_window(twins)
    return twins.fetch()


def test_the_queues_limit_goes_before_the_workers(twins: Twins) -> None:
    # conformance: C-107
    twins.both("setRateLimit", max=1, ms=5_000)
    limit_worker(twins, 3)  # its window is used all the same
    for _ in range(3):
        twins.add()
    twins.fetch()
    assert twins.ours.raw.pttl(twins.ours.key("limiter")) > 50_000
    assert twins.try_fetch() is None
    end_window(twins)
    assert twins.fetch().id == "2"


@pytest.mark.parametrize("limit", ["worker", "queue"])
def test_a_limit_by_hand_stops_who_heeds_limits(twins: Twins, limit: str) -> None:
    # conformance: C-110
    if limit == "worker":
        limit_worker(twins, 100)
    else:
        twins.both("setRateLimit", max=100, ms=WINDOW_MS)
    twins.add()
    twins.both("rateLimit", ms=WINDOW_MS)
    assert twins.try_fetch() is None
    end_window(twins)
    assert twins.fetch().id == "1"


def test_a_limit_by_hand_without_another_stops_nobody(twins: Twins) -> None:
    twins.add()
    twins.both("rateLimit", ms=WINDOW_MS)
    assert twins.fetch().id == "1"


@pytest.mark.parametrize("priority", [0, 5])
def test_a_job_that_meets_a_limit_goes_back_to_the_head(twins: Twins, priority: int) -> None:
    # conformance: C-077 C-111
    limit_worker(twins, 10)
    for _ in range(2):
        twins.add(attempts=2, priority=priority) if priority else twins.add(attempts=2)
    held = twins.fetch()
    twins.later(5)
    twins.bull("rateLimit", ms=WINDOW_MS)
    twins.bull("handBack", id=held.id, token=held.token)
    op = ops.hand_back(held.job.lease, now_ms=twins.ours.now, usage=None, limit_ms=WINDOW_MS)
    assert twins.ours.run(op) == "settled"
    if priority:  # BullMQ sets no marker here (D15), which the fetch has left in both
        assert twins.ours.zset("prioritized")["1"] == priority * 2**32
    twins.check("limited")
    reply = twins.ours.try_lease(limiter=(10, WINDOW_MS))
    assert isinstance(reply, LeaseRefused)
    assert 0 < reply.wait_ms <= WINDOW_MS
    assert twins.try_fetch() is None
    end_window(twins)
    again = twins.fetch()
    assert again.id == "1"
    assert again.job.fields[b"ats"] == b"2"
    assert b"atm" not in again.job.fields


def test_a_job_that_fails_without_running_is_not_counted(twins: Twins) -> None:
    # conformance: C-109
    limit_worker(twins, 5)
    twins.add()
    held = twins.fetch()
    twins.expire_lock(held)
    twins.sweep(max_stalled_count=0)
    twins.sweep(max_stalled_count=0)
    if twins.bull.node.generation == "5":
        with pytest.raises(AssertionError, match="limiter: is '1', BullMQ's '2'"):
            twins.try_fetch()
        return
    assert twins.try_fetch() is None
    assert list(twins.ours.zset("failed")) == ["1"]
    assert twins.ours.text("limiter") == "1"


def test_due_jobs_are_promoted_while_the_worker_is_limited(twins: Twins) -> None:
    limit_worker(twins, 1)
    twins.add()
    twins.fetch()
    twins.add(delay=10)
    twins.later(10)
    twins.pop_markers()
    assert twins.try_fetch() is None
    assert twins.ours.list("wait") == ["2"]


def test_the_global_concurrency_counts_every_active_job(twins: Twins) -> None:
    # conformance: C-105
    twins.both("setConcurrency", limit=2)
    for _ in range(3):
        twins.add(attempts=2)
    twins.fetch()
    held = twins.fetch()
    assert twins.try_fetch() is None
    twins.delay(held, 10)
    assert twins.fetch().id == "3"
    twins.later(10)
    assert twins.try_fetch() is None
