"""The oracle at random, for trees of jobs over two queues: the same keyspace as BullMQ's after every step."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.interop.families import Family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from heavyq.store.client import Client
    from tests.interop.families import Relatives
    from tests.interop.node import Node
    from tests.interop.twins import Held

STEPS = 80
QUEUES = ("home", "kids")
FLAGS = ("failParentOnFailure", "continueParentOnFailure", "ignoreDependencyOnFailure", "removeDependencyOnFailure")


@pytest.fixture
def family(node: Node, client: Client, raw: redis.Redis, prefix: str) -> Iterator[Family]:
    members = Family(node, client, raw, prefix)
    try:
        yield members
    finally:
        node.call("clock", now=None)
        errors = members.close()
    assert errors == []


class Walk:
    """One sequence. Everything that is chosen comes from the seed.

    A parent that is released by a deletion keeps its priority and delay with heavyq only (D10): so a walk has either
    such parents, or failed jobs that are deleted.
    """

    def __init__(self, family: Family, seed: int) -> None:
        self.rand = random.Random(seed)
        self.deletes = seed % 2 == 1
        self.pairs = [family[name] for name in QUEUES]
        self.held: list[tuple[Relatives, Held]] = []
        self.numbers = itertools.count(1)
        self.paused: set[str] = set()

    def run(self) -> None:
        for pair in self.pairs:
            pair.meta(version=f"bullmq:{pair.bull.node.version}")
        moves: list[tuple[int, Callable[[], object]]] = [
            (4, self.add_tree),
            (2, self.add_child),
            (10, self.fetch),
            (6, self.complete),
            (6, self.fail),
            (3, self.wait_children),
            (2, self.retry),
            (1, self.leave),
            (2, lambda: self.rand.choice(self.pairs).sweep()),
            (1, self.pause_or_resume),
            (2, lambda: self.rand.choice(self.pairs).pop_markers()),
            (2, lambda: self.pairs[0].later(200)),
        ]
        weights = [weight for weight, _ in moves]
        for _ in range(STEPS):
            self.rand.choices([move for _, move in moves], weights)[0]()
            self.pairs[0].later(self.rand.choice((0, 1, 7)))

    def options(self, *, is_parent: bool, is_child: bool) -> dict[str, Any]:
        pick = self.rand.choice
        flag = pick((None, *FLAGS)) if is_child else None
        places = not is_parent or not self.deletes
        options = {
            "jobId": f"j{next(self.numbers)}",
            "attempts": pick((None, None, 2)),
            "priority": pick((None, None, 3)) if places else None,
            "delay": pick((None, None, 100)) if places else None,
            "lifo": pick((None, None, True)),
            "removeOnComplete": pick((None, True, 2)),
            "removeOnFail": pick((None, True, 1)) if self.deletes else None,
            **({flag: True} if flag else {}),
        }
        return {name: value for name, value in options.items() if value is not None}

    def tree(self, depth: int = 0) -> dict[str, Any]:
        count = self.rand.choice((1, 1, 2, 3) if depth == 0 else (0, 0, 2) if depth == 1 else (0,))
        return {
            "queue": self.rand.choice(QUEUES),
            "opts": self.options(is_parent=count > 0, is_child=depth > 0),
            "children": [self.tree(depth + 1) for _ in range(count)],
        }

    def add_tree(self) -> None:
        tree = self.tree()
        pair = next(pair for pair in self.pairs if pair.ours.q.name == tree["queue"])
        pair.add_flow(*tree["children"], **tree["opts"])

    def add_child(self) -> None:
        """Of a job in work; one that may come to be a parent has no place of its own in walks that delete."""
        if self.held:
            parent, held = self.rand.choice(self.held)
            opts = self.options(is_parent=True, is_child=True)
            if held.job.fields[b"priority"] == b"0" or not self.deletes:
                self.rand.choice(self.pairs).add_child(parent.ours.q.name, held.id, **opts)

    def fetch(self) -> None:
        pair = self.rand.choice(self.pairs)
        if held := pair.try_fetch():
            self.held.append((pair, held))

    def complete(self) -> None:
        if one := self._one():
            pair, held = one
            if self._has(pair, held, "dependencies") or self._has(pair, held, "unsuccessful"):
                pair.fail(held, "children", unrecoverable=True)
            else:
                pair.complete(held, self.rand.choice((None, 1, "text", {"a": [1]})))

    def fail(self) -> None:
        if one := self._one():
            pair, held = one
            pair.fail(held, f"boom {self.rand.randrange(10)}", unrecoverable=self.rand.random() < 0.3)

    def wait_children(self) -> None:
        for pair, held in self.held:
            if self._has(pair, held, "dependencies") and not self._has(pair, held, "unsuccessful"):
                self.held.remove((pair, held))
                pair.wait_children(held)
                return

    def retry(self) -> None:
        pair = self.rand.choice(self.pairs)
        for state in self.rand.sample(("failed", "completed"), 2):
            if ended := list(pair.ours.zset(state)):
                pair.both("retryFrom", id=self.rand.choice(ended), state=state)
                return

    def leave(self) -> None:
        if one := self._one():
            one[0].expire_lock(one[1])

    def pause_or_resume(self) -> None:
        """Not with BullMQ 5, whose finishes tell `drained` while jobs lie in `paused`."""
        if self.pairs[0].bull.node.generation == "5":
            return
        pair = self.rand.choice(self.pairs)
        name = pair.ours.q.name
        pair.both("resume" if name in self.paused else "pause")
        self.paused ^= {name}

    def _has(self, pair: Relatives, held: Held, book: str) -> bool:
        return pair.ours.exists(f"{held.id}:{book}")

    def _one(self) -> tuple[Relatives, Held] | None:
        return self.held.pop(self.rand.randrange(len(self.held))) if self.held else None


@pytest.mark.parametrize("seed", range(6))
def test_random_walk_of_families(family: Family, seed: int) -> None:
    Walk(family, seed).run()
