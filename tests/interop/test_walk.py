"""The oracle at random: long mixed sequences of steps leave the same keyspace as BullMQ's after each of them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.interop.twins import Held, Twins

STEPS = 120


class Walk:
    """One sequence. Everything that is chosen comes from the seed.

    held: jobs that both sides hold. left: jobs whose holder went away without a word.
    """

    def __init__(self, twins: Twins, seed: int) -> None:
        self.twins = twins
        self.rand = random.Random(seed)
        self.held: list[Held] = []
        self.left: list[Held] = []
        self.paused = False

    def run(self) -> None:
        # While one of the two is paused, where BullMQ 5 and 6 keep jobs depends on this.
        self.twins.meta(version=f"bullmq:{self.twins.bull.node.version}")
        moves: list[tuple[int, Callable[[], object]]] = [
            (8, self.add),
            (8, self.fetch),
            (4, self.complete),
            (4, self.fail),
            (1, self.delay),
            (1, self.hand_back),
            (1, self.progress),
            (1, self.extend),
            (2, self.leave),
            (3, self.twins.sweep),
            (2, self.twins.pop_markers),
            (1, self.pause_or_resume),
            (3, self.wait),
        ]
        weights = [weight for weight, _ in moves]
        for _ in range(STEPS):
            self.rand.choices([move for _, move in moves], weights)[0]()
            self.twins.later(self.rand.choice((0, 1, 7)))

    def add(self) -> None:
        pick = self.rand.choice
        options: dict[str, Any] = {
            "attempts": pick((None, 1, 2, 4)),
            "backoff": pick((None, 0, 50, {"type": "exponential", "delay": 20})),
            "delay": pick((None, None, 10, 100)),
            "priority": pick((None, None, 1, 3)),
            "lifo": pick((None, None, True)),
            "jobId": pick((None, None, None, "one", "two")),
            "removeOnComplete": pick((None, True, 2)),
            "removeOnFail": pick((None, True, 1, {"age": 1, "count": 3, "limit": 1000})),
            "stackTraceLimit": pick((None, 1)),
        }
        given = {name: value for name, value in options.items() if value is not None}
        step = pick((self.twins.add, self.twins.add_by_node))
        if self.rand.random() < 0.15:  # heavyq's producers do not deduplicate
            given["deduplication"] = {"id": pick("de"), "keepLastIfActive": pick((True, False))}
            step = self.twins.add_by_node
        step({"n": self.rand.randrange(100)}, **given)

    def fetch(self) -> None:
        if held := self.twins.try_fetch():
            self.held.append(held)

    def complete(self) -> None:
        if held := self._one():
            self.twins.complete(held, self.rand.choice((None, 1, "text", {"a": [1]})))

    def fail(self) -> None:
        if held := self._one():
            self.twins.fail(held, f"boom {self.rand.randrange(10)}", unrecoverable=self.rand.random() < 0.1)

    def delay(self) -> None:
        if held := self._one():
            self.twins.delay(held, self.rand.choice((0, 30, 200)))

    def hand_back(self) -> None:
        held = self._one()
        if held is None:
            return
        if held.job.fields[b"priority"] == b"0":
            self.twins.hand_back(held)
        else:  # BullMQ sets no marker here (D15): it would differ from then on
            self.held.append(held)

    def progress(self) -> None:
        if self.held:
            self.twins.progress(self.rand.choice(self.held), self.rand.randrange(100))

    def extend(self) -> None:
        if self.held:
            self.twins.extend(self.rand.choice(self.held), 20_000)

    def leave(self) -> None:
        if held := self._one():
            self.twins.expire_lock(held)

    def pause_or_resume(self) -> None:
        self.paused = not self.paused
        self.twins.both("pause" if self.paused else "resume")

    def wait(self) -> None:
        self.twins.later(self.rand.choice((15, 120, 2_000)))

    def _one(self) -> Held | None:
        return self.held.pop(self.rand.randrange(len(self.held))) if self.held else None


@pytest.mark.parametrize("seed", range(6))
def test_random_walk(twins: Twins, seed: int) -> None:
    Walk(twins, seed).run()
