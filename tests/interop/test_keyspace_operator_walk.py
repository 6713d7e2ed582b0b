"""The oracle on random walks: producers, workers and an operator act in turn, and the two keyspaces stay the same."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from heavyq.errors import JobError
from tests.interop.operators import Operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.interop.twins import Held, Twins

STEPS = 45
STATES = ("wait", "paused", "active", "delayed", "prioritized", "completed", "failed")


class Walk:
    """One walk. What BullMQ does worse on purpose is not walked into: see the methods."""

    def __init__(self, twins: Twins, seed: str) -> None:
        self.twins, self.operator = twins, Operator(twins)
        self.generation = twins.bull.node.generation
        self.dice = random.Random(seed)
        self.held: list[Held] = []
        self.acts: list[Callable[[], None]] = [
            *[self.add] * 5,
            *[self.fetch] * 4,
            *[self.settle] * 4,
            *(self.promote, self.change_delay, self.change_priority, self.update_data, self.reprocess, self.remove),
            *(self.retry_jobs, self.pause, self.resume, self.resume, self.clean, self.let_time_pass),
            *((self.drain,) if self.dice.random() < 0.3 else ()),
        ]

    def step(self) -> None:
        self.dice.choice(self.acts)()

    def add(self) -> None:
        opts: dict[str, Any] = self.dice.choice(
            [{}, {}, {"priority": self.dice.randint(1, 4)}, {"delay": self.dice.randint(1, 300)}, {"lifo": True}]
        )
        self.twins.add({"n": self.dice.randint(0, 9)}, attempts=self.dice.choice([0, 2]), **opts)

    def fetch(self) -> None:
        held = self.twins.try_fetch()
        if held:
            self.held.append(held)

    def settle(self) -> None:
        if not self.held or self._is_moved_aside:  # BullMQ 5 calls a queue drained whose jobs it moved aside
            return
        held = self.held.pop(self.dice.randrange(len(self.held)))
        match self.dice.randint(0, 3):
            case 0:
                self.twins.fail(held, unrecoverable=self.dice.random() < 0.7)
            case 1:
                self.twins.delay(held, self.dice.randint(0, 200))
            case 2:
                self.twins.expire_lock(held)  # its worker died: it may be removed or cleaned from now on
            case _:
                self.twins.complete(held, held.id)

    def promote(self) -> None:
        self._try(self.operator.promote, self._job("delayed"))

    def change_delay(self) -> None:
        self._try(self.operator.change_delay, self._job("delayed"), self.dice.randint(0, 300))

    def change_priority(self) -> None:
        # Not before its equals with a priority: BullMQ sets no marker then.
        priority = self.dice.randint(0, 4)
        lifo = priority == 0 and self.dice.random() < 0.5
        self._try(
            self.operator.change_priority, self._job("wait", "paused", "prioritized", "active"), priority, lifo=lifo
        )

    def update_data(self) -> None:
        self._try(self.operator.update_data, self._job(*STATES), self.dice.randint(0, 99))

    def reprocess(self) -> None:
        state = self.dice.choice(["completed", "failed"])
        job_id = self._job(state)
        if self.generation == "5" and self.twins.ours.field(job_id, "priority") not in (None, "0"):
            return  # BullMQ 5 forgets it
        self._try(self.operator.reprocess, job_id, state, reset=self.dice.random() < 0.5)

    def retry_jobs(self) -> None:
        state = self.dice.choice(["completed", "failed"])
        if any(self.twins.ours.field(job_id, "priority") != "0" for job_id in self.twins.ours.zset(state)):
            return  # BullMQ forgets it
        self.operator.retry_jobs(state, until_ms=self.twins.ours.now - self.dice.randint(0, 100))

    def remove(self) -> None:
        job_id = self._job(*STATES)
        if self.operator.remove(job_id, children=self.dice.random() < 0.5):
            self.held = [held for held in self.held if held.id != job_id]

    def pause(self) -> None:
        self.operator.pause()

    def resume(self) -> None:
        if self.generation == "6" or self._is_moved_aside:  # BullMQ 5 sets another marker where it moves nothing back
            self.operator.resume()

    def drain(self) -> None:
        self.operator.drain(delayed=self.dice.random() < 0.5)

    def clean(self) -> None:
        state = self.dice.choice(["completed", "failed", "waiting", "delayed", "prioritized", "active"])
        named = "paused" if state == "waiting" and self._is_moved_aside else ""
        self.operator.clean(state, grace_ms=self.dice.randint(20, 200), limit=self.dice.randint(0, 3), named=named)

    def let_time_pass(self) -> None:
        self.twins.later(self.dice.choice([1, 20, 150]))

    @property
    def _is_moved_aside(self) -> bool:
        return self.twins.ours.exists("paused")

    def _job(self, *states: str) -> str:
        """A job of one of the states; now and then one of another, or of none."""
        if self.dice.random() < 0.1:
            return self.dice.choice(["none", "1", "2"])
        ours = self.twins.ours
        ids = [
            job_id
            for state in states
            for job_id in (ours.list(state) if state in ("wait", "paused", "active") else ours.zset(state))
        ]
        return self.dice.choice(ids) if ids else "none"

    def _try(self, act: Callable[..., None], *arguments: Any, **options: Any) -> None:
        try:
            act(*arguments, **options)
        except JobError:
            return  # on both sides, as `act` has seen


@pytest.mark.parametrize("seed", range(15))
def test_random_walks(twins: Twins, seed: int) -> None:
    # conformance: C-160 C-162 C-168
    twins.meta(version=f"bullmq:{twins.bull.node.version}")
    walk = Walk(twins, f"{twins.bull.node.generation}-{seed}")
    for _ in range(STEPS):
        walk.step()
