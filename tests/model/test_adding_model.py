"""Deduplication and flows on a real Valkey, in any order: what must hold after every step, and at the end.

No reference model: after each step the keyspace itself must make sense (a job is in one place, a deduplication id
has one living job, a parent that waits has somebody to wait for), and when everything has run, no parent is left
waiting but for a child that has failed and says nothing of that, or that is another's.
"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heavyq.bullmq import ops
from heavyq.bullmq.dedup import Dedup
from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.lease import LeasedJob
from heavyq.bullmq.options import pack_options
from heavyq.bullmq.parent import Parent
from heavyq.errors import HasAnotherParent, NoSuchParent
from tests.support.ops import Rig

if TYPE_CHECKING:
    import redis

    from heavyq.store.client import Client

PLACES = ("wait", "active", "delayed", "prioritized", "completed", "failed", "waiting-children")
OVER = ("completed", "failed")
DEDUP_IDS = ("x",)
TTL_MS = 10_000_000  # never over in a test

children = st.sampled_from(["a", "b"])
roots = st.sampled_from(["P", "Q"])
flags = st.sampled_from(["fail", "continue", "ignore", "remove", None])
placing = st.fixed_dictionaries({}, optional={"delay_ms": st.sampled_from([5, 50]), "priority": st.just(3)})
rules = st.builds(
    Dedup,
    st.sampled_from(DEDUP_IDS),
    st.sampled_from([None, None, TTL_MS]),
    extend=st.booleans(),
    replace=st.booleans(),
    keep_last_if_active=st.booleans(),
    reschedule=st.booleans(),
)
steps = st.one_of(
    st.tuples(st.just("add"), st.none() | children, placing, st.none() | rules),
    st.tuples(st.just("add"), st.none(), placing, rules),
    st.tuples(st.just("join"), st.none() | children, roots, flags, placing),
    st.tuples(
        st.just("flow"), roots, placing, st.lists(st.tuples(st.none() | children, flags), min_size=1, max_size=3)
    ),
    st.tuples(st.just("start"), st.sampled_from(["par", "chi"])),
    st.tuples(st.just("end"), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("end"), st.integers(0, 5), st.booleans()),
    st.tuples(st.just("later"), st.sampled_from([5, 60])),
)
_numbers = itertools.count()


class World:
    """Two queues; parents live in `par`, what is deduplicated and what has a parent in `chi`."""

    def __init__(self, client: Client, raw: redis.Redis, prefix: str) -> None:
        name = f"{prefix}:{next(_numbers)}"
        self.par, self.chi = (Rig(client, raw, QueueKey(name, queue)) for queue in ("par", "chi"))
        self.running: list[tuple[Rig, LeasedJob]] = []
        self.in_vain: set[str] = set()  # parents that name a child which is another's
        self.kept: dict[str, tuple[str, str]] = {}  # deduplication id -> id and data of the last add that is kept
        self.serial = itertools.count(1)

    # -- steps

    def add(self, job_id: str | None, options: dict[str, Any], dedup: Dedup | None) -> None:
        data = json.dumps({"n": next(self.serial)})
        holder = self.chi.text(f"de:{dedup.id}") if dedup else None
        is_running = holder in self.chi.list("active")
        opts = pack_options(dedup=dedup, **options)
        added = self._add(self.chi, data=data.encode(), opts=opts, job_id=job_id, dedup=dedup, **options)
        if dedup and added.deduplicated:
            assert added.id == holder
            if dedup.keep_last_if_active and is_running:
                self.kept[dedup.id] = (job_id or str(self.chi.text("id")), data)
        elif dedup and not added.existed:
            assert self.chi.text(f"de:{dedup.id}") == added.id
            self.kept.pop(dedup.id, None)

    def join(self, job_id: str | None, root: str, on_failure: Any, options: dict[str, Any]) -> None:
        parent = Parent(self.par.q, root, on_failure)
        try:
            added = self._add(self.chi, job_id=job_id, parent=parent, **options)
        except NoSuchParent:
            assert not self.par.exists(root)
        except HasAnotherParent:
            assert job_id
            assert self.chi.field(job_id, "parentKey") not in (None, parent.key)
        else:
            assert self.chi.field(added.id, "parentKey") == parent.key

    def flow(self, root: str, options: dict[str, Any], below: list[tuple[str | None, Any]]) -> None:
        is_new = not self._add(self.par, job_id=root, waits_for_children=True, **options).existed
        for job_id, on_failure in below:
            added = self._add(self.chi, job_id=job_id, parent=Parent(self.par.q, root, on_failure), in_flow=True)
            if self.chi.field(added.id, "parentKey") != self.par.key(root):
                self.in_vain.add(root)
        self.par.run(ops.close_flow(Parent(self.par.q, root), now_ms=self.par.now))
        if is_new and root not in self.in_vain:
            waits = root in self.par.zset("waiting-children")
            assert waits == self.par.exists(f"{root}:dependencies")

    def _add(self, rig: Rig, **options: Any) -> ops.Added:
        how = {"name": "job", "data": b"{}", "opts": b"{}", "timestamp_ms": rig.now, **options}
        return rig.run(ops.add(rig.q, **how))

    def start(self, queue: str) -> bool:
        rig = self.par if queue == "par" else self.chi
        reply = rig.try_lease()
        if isinstance(reply, LeasedJob):
            self.running.append((rig, reply))
        return isinstance(reply, LeasedJob)

    def end(self, n: int, is_well: bool) -> None:
        if not self.running:
            return
        rig, job = self.running.pop(n % len(self.running))
        lease, dedup_id = job.lease, rig.field(job.lease.job_id, "deid")
        kept = self.kept.pop(dedup_id, None) if dedup_id else None
        was_taken = kept is not None and rig.exists(kept[0])
        is_doomed = rig.field(lease.job_id, "defa") is not None
        if not is_well or is_doomed or rig.settle("complete", lease) != "settled":
            assert rig.settle("fail", lease) == "settled"
        if kept and not was_taken:
            assert rig.field(kept[0], "data") == kept[1]
            assert rig.text(f"de:{dedup_id}") == kept[0]

    def later(self, ms: int) -> None:
        self.par.now = self.chi.now = self.par.now + ms

    # -- what must hold

    def check(self) -> None:
        for rig in (self.par, self.chi):
            dump = rig.dump()
            jobs = {suffix: value for suffix, value in dump.items() if isinstance(value, dict) and "timestamp" in value}
            places = {job_id: [place for place in PLACES if job_id in dump.get(place, ())] for job_id in jobs}
            assert all(len(found) == 1 for found in places.values()), places
            self._check_deduplication(rig, dump, jobs, {job_id: found[0] for job_id, found in places.items()})
        waiting = self.par.zset("waiting-children").keys() - self.in_vain
        assert {root for root in waiting if not self.par.exists(f"{root}:dependencies")} == set()

    def _check_deduplication(self, rig: Rig, dump: dict[str, Any], jobs: dict[str, Any], place: dict[str, str]) -> None:
        for dedup_id in DEDUP_IDS:
            living = {job_id for job_id in jobs if jobs[job_id].get("deid") == dedup_id and place[job_id] not in OVER}
            assert len(living) <= 1
            holder = dump.get(f"de:{dedup_id}")
            if holder is None or rig.raw.pttl(rig.key(f"de:{dedup_id}")) == -1:
                assert living == ({holder} if holder else set())
            if f"dn:{dedup_id}" in dump:
                assert living == {holder}
                assert dump[f"dn:{dedup_id}"].items() >= {"jid": self.kept[dedup_id][0]}.items()

    def run_dry(self) -> None:
        """Run all that is left; then nothing waits but for those that nobody will ever release."""
        for _ in range(200):
            self.later(100)
            if not (self.start("chi") or self.start("par") or self.running):
                break
            self.end(0, is_well=True)
        for rig in (self.par, self.chi):
            assert not any(rig.exists(place) for place in ("wait", "active", "delayed", "prioritized"))
        failed = {self.chi.key(job_id) for job_id in self.chi.zset("failed")}
        for root in self.par.zset("waiting-children"):
            pending = self.par.dump().get(f"{root}:dependencies", set())
            assert pending <= failed
            assert pending or root in self.in_vain


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(steps, min_size=25, max_size=30))
def test_no_order_of_adds_and_ends_leaves_anybody_behind(
    client: Client, raw: redis.Redis, prefix: str, history: list[Any]
) -> None:
    world = World(client, raw, prefix)
    for verb, *arguments in history:
        getattr(world, verb)(*arguments)
        world.check()
    world.run_dry()
    world.check()
