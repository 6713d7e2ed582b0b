"""Twins whose jobs have parents in other queues: all the queues of both sides are compared after every step.

Owns the queues of one test, by name, and the prefixes of the two sides, which job keys and reasons carry and which
may therefore differ.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from heavyq.bullmq import ops
from heavyq.bullmq.keys import QueueKey
from tests.interop.twins import Twins, differences, plain
from tests.support.ops import USAGE, Rig

if TYPE_CHECKING:
    import redis

    from heavyq.store.client import Client
    from tests.interop.node import Node
    from tests.interop.twins import Held


class Family:
    """The queues of one test: `family["home"]` is the pair of that name."""

    def __init__(self, node: Node, client: Client, raw: redis.Redis, prefix: str) -> None:
        self.node, self.client, self.raw = node, client, raw
        self.ours, self.theirs = f"{prefix}o", f"{prefix}n"
        self.members: dict[str, Relatives] = {}

    def __getitem__(self, name: str) -> Relatives:
        if name not in self.members:
            mine, theirs = QueueKey(self.ours, name), QueueKey(self.theirs, name)
            rigs = Rig(self.client, self.raw, mine), Rig(self.client, self.raw, theirs)
            self.members[name] = Relatives(self, *rigs, self.node.at(theirs))
        return self.members[name]

    def close(self) -> list[str]:
        """Close what Node has open, and delete every key; return the errors that BullMQ has met."""
        errors = [error for pair in self.members.values() for error in pair.bull("errors")]
        for pair in self.members.values():
            pair.bull("close")
        for prefix in (self.ours, self.theirs):
            for key in self.raw.scan_iter(f"{prefix}:*", count=1000):
                self.raw.delete(key)
        return errors


class Relatives(Twins):
    """One queue of a family, on both sides."""

    def __init__(self, family: Family, ours: Rig, theirs: Rig, bull: Any) -> None:
        self.family = family
        super().__init__(ours, theirs, bull)
        others = [pair for pair in family.members.values() if pair is not self]
        if others:
            self.steps, self._tokens = others[0].steps, others[0]._tokens  # one story for all
            self.ours.now = self.theirs.now = others[0].ours.now

    def later(self, ms: int) -> None:
        super().later(ms)
        for pair in self.family.members.values():
            pair.ours.now = pair.theirs.now = self.ours.now

    def add_flow(self, *children: dict[str, Any], **opts: Any) -> None:
        """Let Node add a tree to both sides. A child: {"queue": name, "opts": {...}, "children": [...]}."""
        flow = {"name": "parent", "queueName": self.ours.q.name, "data": {}, "opts": opts}
        self.both("addFlow", flow={**flow, "children": [_node(child) for child in children]})

    def add_child(self, of: str, parent_id: str, **opts: Any) -> None:
        """Let Node add a child of a job in the queue `of` to both sides."""
        parent = self.family[of]
        for q, home in ((self.theirs.q, parent.theirs.q), (self.ours.q, parent.ours.q)):
            place = self.bull.node.at(q)
            place("add", name="child", data={}, opts={**opts, "parent": {"id": parent_id, "queue": str(home)}})
        self.bull.node.at(self.ours.q)("close")
        self.compare("add child")

    def wait_children(self, held: Held) -> None:
        assert self.bull("waitChildren", id=held.id, token=held.token) is True
        assert self.ours.run(ops.wait_children(held.job.lease, now_ms=self.ours.now, usage=USAGE)) == "settled"
        self.compare(f"wait for children {held.id}")

    def detach(self, job_id: str) -> None:
        theirs = self.bull("detach", id=job_id)
        self.compare(f"detach {job_id}", self.ours.run(ops.detach(self.ours.q, job_id, now_ms=self.ours.now)), theirs)

    def compare(self, step: str, ours: Any = None, theirs: Any = None, *, but: str = "") -> None:
        self.steps.append(f"{self.ours.q.name}: {step}")
        found = [f"reply: ours {ours!r}, BullMQ's {theirs!r}"] if ours != theirs else []
        for name, pair in self.family.members.items():
            mine = _masked(_parsed(plain(pair.ours.dump())), self.family.ours)
            node = _masked(_parsed(plain(pair.theirs.dump())), self.family.theirs)
            found += [f"{name} {line}" for line in differences(mine, node) if not but or not line.startswith(but)]
            found += pair.ttl_differences()
        told = "\n  ".join(found)
        assert not found, f"BullMQ {self.bull.node.version}, after {' / '.join(self.steps)}:\n  {told}"


def _node(child: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "child",
        "queueName": child["queue"],
        "data": child.get("data", {}),
        "opts": child.get("opts", {}),
        "children": [_node(each) for each in child.get("children", [])],
    }


def _parsed(dump: dict[str, Any]) -> dict[str, Any]:
    """Return a dump with what parents were told of their children's values parsed."""
    return {
        suffix: {key: json.loads(text) for key, text in value.items()} if suffix.endswith(":processed") else value
        for suffix, value in dump.items()
    }


def _masked(value: Any, prefix: str) -> Any:
    """Return a dump without its side's prefix."""
    match value:
        case str():
            return value.replace(prefix, "PREFIX")
        case dict():
            return {_masked(name, prefix): _masked(each, prefix) for name, each in value.items()}
        case list() | tuple() | set():
            return type(value)(_masked(each, prefix) for each in value)
        case _:
            return value
