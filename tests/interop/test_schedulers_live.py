"""Job schedulers in real time: made by one side, run by the other or by both, through outages, limits and ends."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.eventually import always, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from heavyq import Queue
    from tests.interop.node import NodeQueue
    from tests.support.ops import Rig
    from tests.support.worker import Worker

    StartWorker = Callable[..., Worker]
    JobQueue = Queue[Any, Any]


def start(bull: NodeQueue, live_worker: StartWorker) -> Worker:
    """Start a heavyq worker and wait until it serves, so that no iteration is late from the start."""
    worker = live_worker()
    eventually(lambda: bull("workers"), 15, "heavyq's worker is there")
    return worker


def moments(ids: list[str], sid: str = "tick") -> list[int]:
    """The moments that iterations carry in their ids, `repeat:<scheduler>:<ms>`, in order."""
    start = f"repeat:{sid}:"
    assert all(job_id.startswith(start) for job_id in ids), ids
    return sorted(int(job_id.removeprefix(start)) for job_id in ids)


def completed(bull: NodeQueue, at_least: int, within_s: float = 15) -> list[str]:
    eventually(lambda: len(bull("ids", state="completed")) >= at_least, within_s, f"{at_least} iterations have run")
    return list(bull("ids", state="completed"))


def steps(found: list[int]) -> set[int]:
    return {later - earlier for earlier, later in itertools.pairwise(found)}


def pending(bull: NodeQueue) -> list[str]:
    return [*bull("ids", state="delayed"), *bull("ids", state="waiting")]


def test_a_scheduler_of_node_s_goes_on_with_heavyq_alone(bull: NodeQueue, live_worker: StartWorker, ours: Rig) -> None:
    # conformance: C-146 C-155
    template = {"name": "tick", "data": {"returns": "tock"}, "opts": {"attempts": 3, "priority": 2, "keepLogs": 5}}
    start(bull, live_worker)
    bull("schedule", id="tick", repeat={"every": 1000}, template=template)
    ran = completed(bull, 4)
    found = moments(ran)
    assert steps(found) == {1000}
    for job_id, moment in zip(sorted(ran), found, strict=True):
        job = bull.find(job_id)
        assert (job["name"], job["returnvalue"], job["repeatJobKey"]) == ("tick", "tock", "tick")
        assert job["opts"].items() >= {"attempts": 3, "priority": 2, "keepLogs": 5}.items()
        assert 0 <= job["processedOn"] - moment < 900
    shown = bull("scheduler", id="tick")
    assert shown["iterationCount"] in (len(found) + 1, len(found) + 2)  # those that ran, and the pending one
    assert len(pending(bull)) == 1
    assert ours.list("active") == []


def test_a_scheduler_of_heavyq_s_is_run_by_both_kinds(bull: NodeQueue, hq: JobQueue, live_worker: StartWorker) -> None:
    # conformance: C-146 C-148
    start(bull, live_worker)
    hq.upsert_scheduler("tick", every=0.5, data={"ms": 5}, name="tock", remove_on_complete=False, attempts=2)
    shown = bull("scheduler", id="tick")
    assert (shown["key"], shown["name"], int(shown["every"])) == ("tick", "tock", 500)
    assert shown["template"]["data"] == {"ms": 5}
    bull("startLive")
    ran = completed(bull, 7)
    assert {step % 500 for step in steps(moments(ran))} == {0}
    assert {bull.find(job_id)["attemptsStarted"] for job_id in ran} == {1}
    assert {bull.find(job_id)["name"] for job_id in ran} == {"tock"}


def test_a_cron_scheduler_runs_each_second(bull: NodeQueue, live_worker: StartWorker) -> None:
    # conformance: C-146 C-147
    start(bull, live_worker)
    bull("schedule", id="tick", repeat={"pattern": "* * * * * *", "tz": "Europe/Paris"}, template={"name": "tick"})
    found = moments(completed(bull, 4))
    assert steps(found) == {1000}
    assert {moment % 1000 for moment in found} == {0}
    shown = bull("scheduler", id="tick")
    assert (shown["pattern"], shown["tz"]) == ("* * * * * *", "Europe/Paris")


@pytest.mark.parametrize("after", ["heavyq", "node"])
def test_an_outage_of_ten_periods(bull: NodeQueue, live_worker: StartWorker, after: str) -> None:
    """One run is late, and the next is where it would have been."""
    # conformance: C-150
    worker = start(bull, live_worker)
    bull("schedule", id="tick", repeat={"every": 400}, template={"name": "tick"})
    completed(bull, 2)
    worker.stop()
    before = moments(bull("ids", state="completed"))
    planned = moments(pending(bull))
    assert len(planned) == 1
    eventually(lambda: time.time() * 1000 > planned[0] + 4000, 10, "ten periods are over")
    assert moments(pending(bull)) == planned  # nobody was there to plan another
    began_ms = time.time() * 1000
    if after == "heavyq":
        live_worker()
    else:
        bull("startLive")
    found = moments(completed(bull, len(before) + 3))
    late = [moment for moment in found if planned[0] <= moment < began_ms - 400]
    assert late == planned
    following = [moment for moment in found if moment > planned[0]]
    assert {(moment - planned[0]) % 400 for moment in following} == {0}


@pytest.mark.parametrize("by", ["heavyq", "node"])
@pytest.mark.parametrize("of", ["heavyq", "node"])
def test_a_limit_of_runs(bull: NodeQueue, hq: JobQueue, live_worker: StartWorker, of: str, by: str) -> None:
    # conformance: C-151
    if of == "heavyq":
        hq.upsert_scheduler("tick", every=0.3, limit=3, data={}, remove_on_complete=False)
    else:
        bull("schedule", id="tick", repeat={"every": 300, "limit": 3}, template={"name": "tick"})
    if by == "heavyq":
        live_worker()
    else:
        bull("startLive")
    assert {step % 300 for step in steps(moments(completed(bull, 3)))} == {0}
    always(lambda: pending(bull) == [], 1.0, "nothing is planned")
    assert len(bull("ids", state="completed")) == 3


def test_an_end_that_has_come(bull: NodeQueue, hq: JobQueue, live_worker: StartWorker) -> None:
    # conformance: C-152
    start(bull, live_worker)
    end = datetime.now(UTC) + timedelta(seconds=2)
    hq.upsert_scheduler("tick", every=0.4, end=end, data={}, remove_on_complete=False)
    completed(bull, 2)
    eventually(lambda: datetime.now(UTC) > end + timedelta(seconds=0.5) and not pending(bull), 10, "it is over")
    found = moments(bull("ids", state="completed"))
    always(lambda: pending(bull) == [], 1.0, "nothing is planned")
    assert moments(bull("ids", state="completed")) == found
    assert found[-1] <= end.timestamp() * 1000 + 400


@pytest.mark.parametrize("by", ["heavyq", "node"])
def test_a_scheduler_removed_while_its_job_runs(
    bull: NodeQueue, hq: JobQueue, live_worker: StartWorker, by: str
) -> None:
    """The next job, planned when this one began, goes with the scheduler; the running one is completed."""
    # conformance: C-153
    bull("schedule", id="tick", repeat={"every": 5000}, template={"name": "tick", "data": {"ms": 1200}})
    live_worker()
    eventually(lambda: bull("ids", state="active"), 15, "its first job runs")
    (running,) = bull("ids", state="active")
    eventually(lambda: len(pending(bull)) == 1, 5, "the next is planned")
    if by == "node":
        assert bull("removeScheduler", id="tick")
    else:
        assert hq.remove_scheduler("tick")
    assert pending(bull) == []
    eventually(lambda: bull.state(running) == "completed", 15, "completed")
    always(lambda: pending(bull) == [], 1.0, "nothing new")
    assert bull("schedulers") == []


def test_a_retried_iteration_plans_no_second_one(bull: NodeQueue, live_worker: StartWorker) -> None:
    # conformance: C-157
    template = {"name": "tick", "data": {"once": "boom"}, "opts": {"attempts": 2, "backoff": 200}}
    bull("schedule", id="tick", repeat={"every": 60_000}, template=template)
    live_worker()
    (first,) = completed(bull, 1)
    assert bull.find(first)["attemptsStarted"] == 2
    assert len(pending(bull)) == 1
    assert bull("scheduler", id="tick")["iterationCount"] == 2
