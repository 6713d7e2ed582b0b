"""The oracle on random walks through flows: trees grow, run, fail, run again and are removed, on both sides alike."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from heavyq.errors import JobError
from tests.interop.operators import Operator

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.interop.trees import Trees
    from tests.interop.twins import Held

STEPS = 30
QUEUES = ("par", "chi")
FLAGS = ("failParentOnFailure", "continueParentOnFailure", "ignoreDependencyOnFailure", "removeDependencyOnFailure")


class Walk:
    """One walk. No parent has a priority or a delay: BullMQ forgets both where a removal releases it."""

    def __init__(self, trees: Trees, seed: str) -> None:
        self.trees = trees
        self.dice = random.Random(seed)
        self.held: list[tuple[str, Held]] = []
        self.grown = 0
        self.acts: list[Callable[[], None]] = [
            *[self.grow] * 3,
            *[self.fetch] * 6,
            *[self.settle] * 6,
            *[self.remove] * 3,
            *(self.remove_pending, self.reprocess, self.reprocess, self.clean, self.drain),
        ]

    def step(self) -> None:
        self.dice.choice(self.acts)()

    def grow(self) -> None:
        if self.grown < 40:
            self.trees.add_flow(self._tree(depth=0))

    def _tree(self, depth: int) -> dict[str, Any]:
        self.grown += 1
        opts: dict[str, Any] = {"jobId": f"j{self.grown}"}
        if depth and self.dice.random() < 0.6:
            opts[self.dice.choice(FLAGS)] = True
        tree = {"name": "n", "queueName": self.dice.choice(QUEUES), "data": {}, "opts": opts}
        count = self.dice.randint(1, 3) if depth == 0 else self.dice.choice([0, 0, 1, 2]) if depth == 1 else 0
        if count:
            tree["children"] = [self._tree(depth + 1) for _ in range(count)]
        return tree

    def fetch(self) -> None:
        queue = self.dice.choice(QUEUES)
        if held := self.trees[queue].try_fetch():
            self.held.append((queue, held))

    def settle(self) -> None:
        if not self.held:
            return
        queue, held = self.held.pop(self.dice.randrange(len(self.held)))
        pair = self.trees[queue]
        job = pair.ours.key(held.id)
        choice = self.dice.random()
        if choice < 0.1:
            pair.expire_lock(held)
        elif choice < 0.5 or pair.ours.raw.exists(f"{job}:dependencies", f"{job}:unsuccessful"):
            pair.fail(held, "boom")  # who still has children cannot be completed
        else:
            pair.complete(held, held.id)

    def remove(self) -> None:
        queue, job_id = self._job("completed", "failed", "waiting-children")
        if self._operator(queue).remove(job_id, children=self.dice.random() < 0.7):
            self._forget_the_gone()

    def remove_pending(self) -> None:
        queue, job_id = self._job("waiting-children")
        if job_id != "none":
            self._operator(queue).remove_pending(job_id)

    def reprocess(self) -> None:
        state = self.dice.choice(["completed", "failed"])
        queue, job_id = self._job(state)
        self._try(self._operator(queue).reprocess, job_id, state)

    def clean(self) -> None:
        state = self.dice.choice(["completed", "failed", "waiting", "active"])
        self._operator(self.dice.choice(QUEUES)).clean(state, limit=self.dice.randint(0, 2))
        self._forget_the_gone()

    def drain(self) -> None:
        if self.dice.random() < 0.3:
            self._operator(self.dice.choice(QUEUES)).drain()

    def _operator(self, queue: str) -> Operator:
        return Operator(self.trees[queue])

    def _forget_the_gone(self) -> None:
        self.held = [(queue, held) for queue, held in self.held if self.trees[queue].ours.exists(held.id)]

    def _job(self, *sets: str) -> tuple[str, str]:
        """A job of one of these sets, or that waits; or none."""
        found = []
        for queue in QUEUES:
            ours = self.trees[queue].ours
            found += [(queue, job_id) for name in sets for job_id in ours.zset(name)]
            found += [(queue, job_id) for job_id in ours.list("wait")]
        return self.dice.choice(found) if found else ("par", "none")

    def _try(self, act: Callable[..., None], *arguments: Any) -> None:
        try:
            act(*arguments)
        except JobError:
            return  # on both sides, as `act` has seen


@pytest.mark.parametrize("seed", range(10))
def test_random_walks_through_flows(trees: Trees, seed: int) -> None:
    # conformance: C-143 C-144 C-145
    walk = Walk(trees, f"{trees.node.version}-{seed}")
    for _ in range(STEPS):
        walk.step()
