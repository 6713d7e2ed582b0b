"""What a newer BullMQ, or anybody, has put into a job and heavyq does not know: it is still there after each step."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.options import KEEP_ALL, pack_options
from tests.support.ops import Rig

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from heavyq.bullmq.keys import QueueKey
    from heavyq.store.client import Client

# A member that BullMQ does not have, one that only a dashboard may have, and one that is no text to Lua's cjson.
NEWER = {"zap": {"deep": [1, 2.5, [], {}, None]}, "tm": "00-trace", "big": 2**60, "backoff": {"type": "x", "más": "☃"}}
FIELDS = {"newField": b"\xff\x00raw", "zz": b'{"a":[]}', "tm": b"trace"}


def run_it(rig: Rig, _: str) -> ops.Settled:
    return rig.settle("complete", rig.lease())


# by verb: what brings the job into the state that the step needs, and the step
STEPS: dict[str, list[Callable[[Rig, str], object]]] = {
    "lease, renew": [lambda rig, _: rig.run(ops.renew(rig.q, [rig.lease()], lock_ms=9000))],
    "progress, log, checkpoint": [
        lambda rig, _: [
            rig.run(op)
            for lease in [rig.lease()]
            for op in (ops.progress(lease, b"1"), ops.log(lease, ["row"], keep=5), ops.checkpoint(lease, b"{}"))
        ]
    ],
    "complete": [run_it],
    "fail": [lambda rig, _: rig.settle("fail", rig.lease())],
    "retry": [lambda rig, _: rig.settle("retry", rig.lease())],
    "delay": [lambda rig, _: rig.settle("delay", rig.lease())],
    "hand_back": [lambda rig, _: rig.settle("hand_back", rig.lease(), strikes=1, limit_ms=10)],
    "wait_children": [lambda rig, _: rig.settle("wait_children", rig.lease())],
    "stalled": [
        lambda rig, _: [rig.lease(), rig.sweep()],
        lambda rig, job_id: [rig.expire_lock(job_id), rig.sweep()],
    ],
    "reprocess": [
        lambda rig, _: rig.settle("fail", rig.lease()),
        lambda rig, job_id: rig.run(ops.reprocess(rig.q, job_id, state="failed", reset_attempts=True)),
    ],
    "retry_jobs": [run_it, lambda rig, _: rig.run(ops.retry_jobs(rig.q, state="completed", count=9))],
    "delayed, change_delay, promote": [
        lambda rig, _: rig.settle("delay", rig.lease()),
        lambda rig, job_id: rig.run(ops.change_delay(rig.q, job_id, delay_ms=5000, now_ms=rig.now)),
        lambda rig, job_id: rig.run(ops.promote(rig.q, job_id)),
    ],
    "promote_jobs": [lambda rig, _: rig.settle("delay", rig.lease()), lambda rig, _: rig.run(ops.promote_jobs(rig.q))],
    "change_priority": [lambda rig, job_id: rig.run(ops.change_priority(rig.q, job_id, priority=3))],
    "update_data": [lambda rig, job_id: rig.run(ops.update_data(rig.q, job_id, b'{"n":2}'))],
    "logs": [
        lambda rig, job_id: rig.run(ops.add_log(rig.q, job_id, "row", keep=1)),
        lambda rig, job_id: rig.run(ops.clear_logs(rig.q, job_id, keep=None)),
    ],
    "pause, resume": [lambda rig, _: rig.run(ops.pause(rig.q)), lambda rig, _: rig.run(ops.resume(rig.q))],
    "cancel a running one": [
        lambda rig, job_id: [
            rig.lease(),
            rig.run(ops.cancel(rig.q, job_id, reason="", now_ms=rig.now, keep=KEEP_ALL)),
        ]
    ],
    "cancel a waiting one": [
        lambda rig, job_id: rig.run(ops.cancel(rig.q, job_id, reason="", now_ms=rig.now, keep=KEEP_ALL))
    ],
}


@pytest.mark.parametrize("case", STEPS)
def test_what_heavyq_does_not_know_is_still_there_after(
    case: str, client: Client, raw: redis.Redis, q: QueueKey
) -> None:
    # conformance: C-027
    rig = Rig(client, raw, q)
    opts: dict[str, Any] = {**json.loads(pack_options(attempts=3, keep_logs=9)), **NEWER}
    stored = json.dumps(opts, ensure_ascii=False).encode()
    job_id = rig.add(opts=stored)
    raw.hset(q.key(job_id), mapping=FIELDS)
    for step in STEPS[case]:
        assert step(rig, job_id) != "lost"
        found = raw.hgetall(q.key(job_id))
        assert found[b"opts"] == stored, f"{case}: the options were written anew"
        assert {name: found.get(name.encode()) for name in FIELDS} == FIELDS


# Verbs that make jobs, read, remove, or work on the queue alone.
OTHERS = frozenset(
    {
        *("add", "close_flow", "schedule", "next_iteration", "scheduler", "schedulers", "unschedule", "emit"),
        *("children", "counts", "find", "logs", "meta", "metrics", "page", "priority_counts", "rate_limit_ttl"),
        *("clean", "drain", "obliterate", "remove", "remove_pending_children", "detach"),
        *("open_queue", "wake", "rate_limit", "end_rate_limit", "set_concurrency", "set_rate_limit"),
    }
)


def test_every_verb_that_keeps_a_job_stands_in_the_table() -> None:
    told = " ".join(STEPS) + "".join(inspect.getsource(step) for steps in STEPS.values() for step in steps)
    keeping = {verb for verb in ops.__all__ if verb.islower()} - OTHERS
    assert sorted(verb for verb in keeping if verb not in told) == []
