"""The oracle, for the metrics that a worker keeps of the jobs it finishes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.interop.twins import Twins

MINUTE_MS = 60_000


def count_minutes(twins: Twins, points: int) -> None:
    twins.bull("countMinutes", points=points)
    twins.metrics_points = points


def finish_one(twins: Twins, which: str) -> None:
    twins.add(removeOnComplete=1, removeOnFail=1)
    held = twins.fetch()
    twins.complete(held) if which == "completed" else twins.fail(held)


@pytest.mark.parametrize("which", ["completed", "failed"])
@pytest.mark.parametrize("points", [1, 3, 10])
def test_finished_jobs_are_counted_by_the_minute(twins: Twins, which: str, points: int) -> None:
    # conformance: C-059
    count_minutes(twins, points)
    for minutes, jobs in [(0, 2), (1, 1), (1, 3), (2, 2), (5, 1), (0, 1), (1, 1), (60, 2), (1, 1)]:
        twins.later(minutes * MINUTE_MS)
        for _ in range(jobs):
            finish_one(twins, which)
    # What Node reads of ours
    place = twins.bull.node.at(twins.ours.q)
    found = place("metricsOf", which=which)
    place("close")
    assert found["meta"]["count"] == 14
    assert len(found["data"]) == found["count"] == min(points, 10)
    other = {"completed": "failed", "failed": "completed"}[which]
    assert not twins.ours.exists(f"metrics:{other}")


def test_minutes_begin_with_the_clocks(twins: Twins) -> None:
    count_minutes(twins, 5)
    twins.later(MINUTE_MS - twins.ours.now % MINUTE_MS - 1)  # the last ms of a minute
    finish_one(twins, "completed")
    twins.later(1)
    finish_one(twins, "completed")
    twins.later(MINUTE_MS - 1)
    finish_one(twins, "completed")
    twins.later(1)
    finish_one(twins, "completed")
    assert twins.ours.list("metrics:completed:data") == ["2", "1"]


def test_a_clock_that_goes_back_counts_on(twins: Twins) -> None:
    count_minutes(twins, 5)
    finish_one(twins, "failed")
    twins.later(-3 * MINUTE_MS)
    finish_one(twins, "failed")
    twins.later(10 * MINUTE_MS)
    finish_one(twins, "failed")


def test_retries_and_returns_are_not_counted(twins: Twins) -> None:
    count_minutes(twins, 5)
    twins.add(attempts=3, backoff=100)
    twins.add(attempts=2)
    twins.fail(twins.fetch())
    twins.fail(twins.fetch())
    twins.hand_back(twins.fetch())
    assert not twins.ours.exists("metrics:failed")


def test_a_job_that_is_deleted_at_its_end_is_counted(twins: Twins) -> None:
    count_minutes(twins, 5)
    twins.add(removeOnComplete=True)
    twins.complete(twins.fetch())
    assert twins.ours.hash("metrics:completed")["count"] == "1"
