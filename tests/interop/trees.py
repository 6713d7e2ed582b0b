"""Families whose jobs heavyq's producers add: options and trees in BullMQ's own form, taken by both sides.

Owns how that form becomes heavyq's operations, and what may differ beside what `Twins` and `Family` let differ:
BullMQ 5 emits an event `debounced` before each `deduplicated`, and heavyq does not, as BullMQ 6.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from heavyq.bullmq import ops
from heavyq.bullmq.dedup import Dedup
from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.options import pack_options
from heavyq.bullmq.parent import Parent
from heavyq.errors import HasAnotherParent, NoSuchParent
from tests.interop.families import Family, Relatives
from tests.interop.node import NodeError
from tests.interop.twins import differences, plain
from tests.support.ops import Rig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import redis

    from heavyq.bullmq.parent import OnFailure
    from heavyq.store.client import Client
    from tests.interop.node import Node

_FLAGS: dict[str, OnFailure] = {
    "failParentOnFailure": "fail",
    "continueParentOnFailure": "continue",
    "ignoreDependencyOnFailure": "ignore",
    "removeDependencyOnFailure": "remove",
}
# What BullMQ says of a parent, and heavyq's error for it.
_REFUSALS = {"Missing key for parent job": NoSuchParent, "cannot be replaced": HasAnotherParent}


class Pair(Relatives):
    """One queue, on both sides."""

    def __init__(self, trees: Trees, name: str) -> None:
        self.trees = trees
        mine, theirs = (QueueKey(prefix, name) for prefix in (trees.ours, trees.theirs))
        rigs = Rig(trees.client, trees.raw, mine), Rig(trees.client, trees.raw, theirs)
        super().__init__(trees, *rigs, trees.node.at(theirs))

    def add(self, data: Any = None, *, name: str = "job", **opts: Any) -> str:
        """Add a job with BullMQ's own option names; `parent` is {"id", "queue": the name alone}.

        Raises NoSuchParent and HasAnotherParent where both sides refuse for that.
        """
        data = {} if data is None else data
        theirs: Any
        ours: Any
        try:
            theirs = self.bull.add(data, name=name, **self.trees.for_node(opts))
        except NodeError as error:
            theirs = next((kind for text, kind in _REFUSALS.items() if text in str(error)), None)
            if theirs is None:
                raise
        try:
            ours = self.ours.run(self.trees.add_op(self.ours, name, data, opts)).id
        except (NoSuchParent, HasAnotherParent) as error:
            self.compare(f"add {opts}", type(error), theirs)
            raise
        self.compare(f"add {opts}", ours, theirs)
        return str(ours)

    def compare(self, step: str, ours: Any = None, theirs: Any = None, *, but: str = "") -> None:
        self.trees.compare(f"{self.ours.q.name}: {step}", ours, theirs, but=but)


class Trees(Family):
    """Some queues, each twice: `trees["par"]` is one of them; every step compares all."""

    def __init__(self, node: Node, client: Client, raw: redis.Redis, prefix: str, names: Sequence[str]) -> None:
        super().__init__(node, client, raw, prefix)
        self.generation = node.generation
        self.steps: list[str] = []
        self.pairs: dict[str, Pair] = {}
        for name in names:
            self.pairs[name] = self.members[name] = Pair(self, name)

    def __getitem__(self, name: str) -> Pair:
        return self.pairs[name]

    def later(self, ms: int) -> None:
        next(iter(self.pairs.values())).later(ms)

    # -- heavyq's form of what a Node producer says

    def for_node(self, opts: Mapping[str, Any]) -> dict[str, Any]:
        parent = opts.get("parent")
        return {**opts, "parent": {**parent, "queue": f"{self.theirs}:{parent['queue']}"}} if parent else {**opts}

    def add_op(self, at: Rig, name: str, data: Any, opts: Mapping[str, Any], **further: Any) -> Any:
        flag = next((word for api, word in _FLAGS.items() if opts.get(api)), None)
        above = opts.get("parent")
        parent = above and Parent(QueueKey(at.q.prefix, above["queue"]), above["id"], flag)
        dedup = Dedup.read(opts.get("deduplication"))
        telemetry = opts.get("telemetry", {})
        placing = {
            "delay_ms": opts.get("delay", 0),
            "priority": opts.get("priority", 0),
            "lifo": opts.get("lifo", False),
            "job_id": opts.get("jobId"),
        }
        packed = pack_options(
            attempts=opts.get("attempts", 0),
            timestamp_ms=opts.get("timestamp"),
            dedup=dedup,
            parent=parent,
            on_failure=flag,
            telemetry=telemetry.get("metadata"),
            omit_context=telemetry.get("omitContext", False),
            keep_logs=opts.get("keepLogs"),
            size_limit=opts.get("sizeLimit"),
            **placing,
        )
        timestamp_ms = opts.get("timestamp", at.now)
        options = {"timestamp_ms": timestamp_ms, "parent": parent, "dedup": dedup, **placing, **further}
        return ops.add(at.q, name=name, data=json.dumps(data).encode(), opts=packed, **options)

    # -- flows

    def add_flow(self, *trees: Mapping[str, Any]) -> None:
        """Add trees in BullMQ's form, as both sides do it. Every node says its `jobId`."""
        bull = next(iter(self.pairs.values())).bull
        bull("addTrees", flows=[self.tree_for_node(tree) for tree in trees])
        for tree in trees:
            self.add_tree_to_ours(tree)
        self.compare(f"add {len(trees)} trees")

    def tree_for_node(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        children = [self.tree_for_node(child) for child in tree.get("children", ())]
        opts = self.for_node(tree.get("opts", {}))
        return {**tree, "prefix": self.theirs, "opts": opts, **({"children": children} if children else {})}

    def add_tree_to_ours(self, root: Mapping[str, Any]) -> None:
        """Breadth first; then each parent is closed."""
        level: list[tuple[Mapping[str, Any], dict[str, Any] | None]] = [(root, None)]
        parents: list[Parent] = []
        while level:
            following: list[tuple[Mapping[str, Any], dict[str, Any] | None]] = []
            for tree, above in level:
                at = self[tree["queueName"]].ours
                children = tree.get("children", ())
                opts = {**tree.get("opts", {}), **({"parent": above} if above else {})}
                how = {"waits_for_children": bool(children), "in_flow": above is not None}
                at.run(self.add_op(at, tree["name"], tree.get("data", {}), opts, **how))
                if children:
                    parents.append(Parent(at.q, opts["jobId"]))
                following += [(child, {"id": opts["jobId"], "queue": tree["queueName"]}) for child in children]
            level = following
        for parent in parents:
            at = self[parent.queue.name].ours
            at.run(ops.close_flow(parent, now_ms=at.now))

    # -- comparing

    def compare(self, step: str, ours: Any = None, theirs: Any = None, *, but: str = "") -> None:
        self.steps.append(step)
        found = [f"reply: ours {ours!r}, BullMQ's {theirs!r}"] if ours != theirs else []
        for name, pair in self.pairs.items():
            mine = plain(_with_values(pair.ours.dump()))
            node = plain(_with_values(self._renamed(pair.theirs.dump())))
            lines = [line for line in differences(mine, node) if not but or not line.startswith(f"{but}:")]
            found += [f"{name}: {line}" for line in [*lines, *pair.ttl_differences()]]
        told = "\n  ".join(found)
        assert not found, f"BullMQ {self.node.version}, after {' / '.join(self.steps)}:\n  {told}"

    def _renamed(self, dump: Any) -> Any:
        """Return BullMQ's side with heavyq's prefix, and without the events that only BullMQ 5 emits."""
        if isinstance(dump, dict):
            return {self._renamed(key): self._renamed(value) for key, value in dump.items()}
        if isinstance(dump, list):
            return [self._renamed(each) for each in dump if not _is_debounced(each)]
        if isinstance(dump, set):
            return {self._renamed(each) for each in dump}
        return dump.replace(f"{self.theirs}:", f"{self.ours}:") if isinstance(dump, str) else dump


def _with_values(dump: dict[str, Any]) -> dict[str, Any]:
    """Return a queue with the results that parents hold as a list of child and value: the JSON may be spaced."""
    return {
        suffix: sorted((child, json.loads(text)) for child, text in value.items())
        if suffix.endswith(":processed")
        else value
        for suffix, value in dump.items()
    }


def _is_debounced(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.get("event") == "debounced"
