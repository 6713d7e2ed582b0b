"""A key of the queue has a wrong type: whatever verb meets it, every job still lies somewhere."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.options import Keep
from heavyq.bullmq.parent import Parent
from heavyq.errors import HeavyqError
from tests.support.ops import SETTLES, Rig

if TYPE_CHECKING:
    from collections.abc import Callable

LISTS = ("wait", "paused", "active")
SETS = ("delayed", "prioritized", "completed", "failed", "waiting-children")
OTHERS = ("pc", "events", "marker", "meta", "limiter", "hq:counter", "stalled", "metrics:completed")
JOBS = 3


def _waiting(rig: Rig, **options: int) -> None:
    for _ in range(JOBS):
        rig.add(**options)


def _due(rig: Rig) -> None:
    _waiting(rig, delay_ms=5)
    rig.now += 10


def _failed(rig: Rig) -> None:
    _waiting(rig)
    for _ in range(JOBS):
        rig.settle("fail", rig.lease())


def _stalled(rig: Rig) -> None:
    _waiting(rig)
    for _ in range(JOBS):
        rig.expire_lock(rig.lease().job_id)
    rig.sweep()


def _child(rig: Rig) -> None:
    rig.add(job_id="up", waits_for_children=True)
    rig.add(job_id="down", parent=Parent(rig.q, "up", on_failure="ignore"))


def _prioritized(rig: Rig) -> None:
    _waiting(rig, priority=2)


def _delayed(rig: Rig) -> None:
    _waiting(rig, delay_ms=1000)


def _lease(rig: Rig) -> None:
    rig.try_lease()


def _cancel(rig: Rig, job_id: str = "1") -> None:
    rig.run(ops.cancel(rig.q, job_id, reason="", now_ms=rig.now, keep=Keep()))


def _reprioritize(priority: int) -> Callable[[Rig], None]:
    return lambda rig: rig.run(ops.change_priority(rig.q, "1", priority=priority))


VERBS: dict[str, tuple[Callable[[Rig], None], Callable[[Rig], object]]] = {
    "lease": (_waiting, _lease),
    "lease due": (_due, _lease),
    "lease prioritized": (_prioritized, _lease),
    "promote": (_delayed, lambda rig: rig.run(ops.promote(rig.q, "1"))),
    "promote_jobs": (_delayed, lambda rig: rig.run(ops.promote_jobs(rig.q, count=9))),
    "reprocess": (_failed, lambda rig: rig.run(ops.reprocess(rig.q, "1", state="failed"))),
    "retry_jobs": (_failed, lambda rig: rig.run(ops.retry_jobs(rig.q, state="failed", count=9))),
    "cancel waiting": (_waiting, _cancel),
    "cancel delayed": (_delayed, _cancel),
    "prioritize": (_waiting, _reprioritize(3)),
    "unprioritize": (_prioritized, _reprioritize(0)),
    "sweep": (_stalled, Rig.sweep),
    "cancel a child": (_child, lambda rig: _cancel(rig, "down")),
}


def _places(rig: Rig) -> set[bytes]:
    """The ids that lie in a structure which is whole."""
    ids: set[bytes] = set()
    for name in LISTS:
        if rig.raw.type(rig.key(name)) == b"list":
            ids.update(rig.raw.lrange(rig.key(name), 0, -1))
    for name in SETS:
        if rig.raw.type(rig.key(name)) == b"zset":
            ids.update(rig.raw.zrange(rig.key(name), 0, -1))
    return ids


def _check(rig: Rig, broken: str, act: Callable[[], object]) -> None:
    """Break a key that the jobs do not lie in, act, and look for them."""
    key = rig.key(broken)
    if broken in LISTS + SETS and rig.raw.exists(key):
        return  # to break it would itself lose the jobs
    before = _places(rig)
    assert before
    rig.raw.delete(key)
    if broken in ("pc", "limiter", "hq:counter"):
        rig.raw.hset(key, "a", "b")
    else:
        rig.raw.set(key, "x")
    with contextlib.suppress(HeavyqError):
        act()
    assert _places(rig) >= before
    for job_id in before:
        assert rig.raw.exists(rig.key(job_id.decode()))


@pytest.fixture
def rig(client, raw, q) -> Rig:
    return Rig(client, raw, q)


@pytest.mark.parametrize("broken", [*LISTS, *SETS, *OTHERS])
@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_loses_a_job_to_a_key_of_a_wrong_type(rig, verb, broken):
    prepare, act = VERBS[verb]
    prepare(rig)
    _check(rig, broken, lambda: act(rig))


@pytest.mark.parametrize("broken", [*LISTS, *SETS, *OTHERS])
@pytest.mark.parametrize("verb", SETTLES)
def test_no_settle_loses_a_job_to_a_key_of_a_wrong_type(rig, verb, broken):
    rig.add()
    lease = rig.lease()
    _check(rig, broken, lambda: rig.settle(verb, lease))
