"""Pausing and resuming: as BullMQ does it where one alone acts, and never a job lost where both do.

The two generations keep the jobs of a paused queue in different lists, and each loses jobs that it finds in the
other's. heavyq keeps to the one in use.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.lease import LeasedJob
from tests.interop.operators import Operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.interop.node import NodeQueue
    from tests.interop.trees import Trees
    from tests.interop.twins import Twins
    from tests.support.ops import Rig


@pytest.fixture
def operator(twins: Twins) -> Operator:
    twins.meta(version=f"bullmq:{twins.bull.node.version}")
    return Operator(twins)


@pytest.fixture
def mixed(bull: NodeQueue, ours: Rig) -> Mixed:
    ours.meta(version=f"bullmq:{bull.node.version}")
    return Mixed(bull, ours)


class Mixed:
    """One queue on which Node and heavyq act in turn. Jobs carry the number of their add."""

    def __init__(self, bull: NodeQueue, ours: Rig) -> None:
        self.bull, self.ours = bull, ours
        self.added: list[str] = []

    def pause(self, by: str) -> None:
        self.bull("pause") if by == "node" else self.ours.run(ops.pause(self.ours.q))

    def resume(self, by: str) -> None:
        self.bull("resume") if by == "node" else self.ours.run(ops.resume(self.ours.q))

    def add(self, by: str) -> None:
        self.added.append(self.bull.add({}) if by == "node" else self.ours.add())

    def take_all(self) -> list[str]:
        """Take every job, by both in turn, in the order in which they come."""
        taken: list[str] = []
        while True:
            if len(taken) % 2:
                held = self.bull("fetch", token="0")
                job_id = held and held["id"]
            else:
                reply = self.ours.try_lease()
                job_id = reply.lease.job_id if isinstance(reply, LeasedJob) else None
            if job_id is None:
                return taken
            taken.append(job_id)


def test_pause_and_resume(twins: Twins, operator: Operator) -> None:
    # conformance: C-096 C-097
    operator.pause()
    operator.resume()
    for _ in range(3):
        twins.add()
    twins.add(priority=1)
    operator.pause()
    assert twins.try_fetch() is None
    operator.pause()
    operator.resume()
    operator.resume()
    assert twins.pop_markers() == [(b"0", 0.0)]
    assert [twins.fetch().id for _ in range(4)] == ["1", "2", "3", "4"]


def test_jobs_added_while_paused(twins: Twins, operator: Operator) -> None:
    # conformance: C-097
    twins.add()
    operator.pause()
    twins.add()
    twins.add(lifo=True)
    twins.add(priority=1)
    twins.add(delay=500)
    operator.resume()
    twins.pop_markers()
    assert [twins.fetch().id for _ in range(4)] == ["3", "1", "2", "4"]


def test_resuming_a_queue_with_only_delayed_or_only_prioritized_jobs(twins: Twins, operator: Operator) -> None:
    twins.add(delay=500)
    operator.pause()
    operator.resume()
    assert twins.pop_markers() == [(b"1", float(twins.ours.now + 500))]
    twins.add(priority=4)
    operator.pause()
    operator.resume()
    assert twins.pop_markers() == [(b"0", 0.0)]


def test_pause_with_jobs_in_work_that_come_back(twins: Twins, operator: Operator) -> None:
    # conformance: C-103
    for _ in range(4):
        twins.add(attempts=5)
    held = [twins.fetch() for _ in range(3)]
    operator.pause()
    twins.fail(held[0])
    twins.hand_back(held[1])
    twins.expire_lock(held[2])
    twins.sweep()
    twins.sweep()
    operator.resume()
    assert [twins.fetch().id for _ in range(4)] == ["3", "2", "4", "1"]


def test_delayed_jobs_that_come_due_while_paused_run_after_resume(twins: Twins, operator: Operator) -> None:
    # conformance: C-104
    twins.add(delay=100)
    twins.add(delay=50, priority=1)
    operator.pause()
    twins.later(200)
    assert twins.try_fetch() is None
    operator.resume()
    assert [twins.fetch().id for _ in range(2)] == ["1", "2"]


def test_parents_that_are_released_while_paused_run_after_resume(trees: Trees) -> None:
    # conformance: C-103
    par, chi = trees["par"], trees["chi"]
    par.meta(version=f"bullmq:{trees.node.version}")
    operator = Operator(par)
    waiting = par.add()
    for parent, child in (("P", "A"), ("Q", "B")):
        below = {"name": child, "queueName": "chi", "opts": {"jobId": child}}
        trees.add_flow({"name": parent, "queueName": "par", "opts": {"jobId": parent}, "children": [below]})
    operator.pause()
    chi.complete(chi.fetch())
    Operator(chi).remove("B")
    assert par.try_fetch() is None
    operator.resume()
    assert [par.fetch().id for _ in range(3)] == ["Q", "P", waiting]


def test_a_full_queue_is_resumed(twins: Twins, operator: Operator) -> None:
    twins.meta(concurrency=1)
    for _ in range(2):
        twins.add()
    twins.fetch()
    operator.pause()
    operator.resume()
    assert twins.pop_markers()


# -- both on one queue


@pytest.mark.parametrize("paused_by", ["node", "heavyq"])
@pytest.mark.parametrize("resumed_by", ["node", "heavyq"])
def test_whoever_pauses_and_resumes_no_job_is_lost(mixed: Mixed, paused_by: str, resumed_by: str) -> None:
    # conformance: C-098 C-099 C-100 C-102
    for by in ("node", "heavyq", "node"):
        mixed.add(by)
    mixed.pause(paused_by)
    for by in ("heavyq", "node", "heavyq"):
        mixed.add(by)
    mixed.pause("node" if paused_by == "heavyq" else "heavyq")
    mixed.add("node")
    mixed.resume(resumed_by)
    mixed.add("heavyq")
    assert mixed.bull("isPaused") is False
    assert mixed.take_all() == mixed.added


@pytest.mark.parametrize("by", ["node", "heavyq"])
def test_both_see_that_the_queue_is_paused(mixed: Mixed, by: str) -> None:
    # conformance: C-095 C-096
    mixed.pause(by)
    assert mixed.bull("isPaused") is True
    assert mixed.ours.run(ops.meta(mixed.ours.q)).paused
    mixed.add("node")
    mixed.add("heavyq")
    assert mixed.take_all() == []
    mixed.resume("node" if by == "heavyq" else "heavyq")
    assert mixed.take_all() == mixed.added


@pytest.mark.parametrize("seed", range(40))
def test_random_mixes_lose_no_job_and_keep_the_order(mixed: Mixed, seed: int) -> None:
    # conformance: C-102
    choose = random.Random(f"{mixed.bull.node.generation}{seed}")
    acts: list[Callable[[str], Any]] = [mixed.pause, mixed.resume, mixed.add, mixed.add]
    told: list[str] = []
    for _ in range(20):
        act, by = choose.choice(acts), choose.choice(["node", "heavyq"])
        act(by)
        told.append(f"{act.__name__} by {by}")
        assert not (mixed.ours.exists("wait") and mixed.ours.exists("paused")), told
        counted = mixed.ours.run(ops.counts(mixed.ours.q))
        assert counted.waiting == len(mixed.added), told
    mixed.resume(choose.choice(["node", "heavyq"]))
    assert mixed.take_all() == mixed.added, told


def test_what_both_generations_left_is_one_list_after_resume(mixed: Mixed) -> None:
    # conformance: C-101
    ours = mixed.ours
    for _ in range(5):
        mixed.add("heavyq")
    ours.run(ops.pause(ours.q))
    ours.raw.delete(ours.key("wait"), ours.key("paused"))
    ours.raw.rpush(ours.key("paused"), "3", "2", "1")
    ours.raw.rpush(ours.key("wait"), "5", "4")
    ours.run(ops.resume(ours.q))
    assert ours.list("wait") == ["5", "4", "3", "2", "1"]
    assert mixed.take_all() == mixed.added
