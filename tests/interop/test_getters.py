"""Both kinds look at one queue and see the same: counts, states, pages, logs, traces, and every event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.job_hash import JobRecord, append_trace
from heavyq.bullmq.ops.counts import counts
from heavyq.bullmq.ops.find import find
from heavyq.bullmq.ops.logs import logs
from heavyq.bullmq.ops.page import STATES, page
from tests.interop.twins import packed
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from heavyq.bullmq.lease import Lease
    from tests.interop.node import NodeQueue
    from tests.support.ops import Rig


def fill(ours: Rig) -> None:
    """Let heavyq put two jobs or more into each state that it knows."""
    by_outcome: dict[str, list[Lease]] = {"complete": [], "fail": [], "active": []}
    for leases in by_outcome.values():
        for _ in range(3):
            ours.add()
            ours.now += 1
            leases.append(ours.lease())
    for outcome in ("complete", "fail"):
        for lease in by_outcome[outcome]:
            ours.now += 1
            assert ours.settle(outcome, lease) == "settled"
    for number in range(4):
        ours.add(f"waits {number}")
        ours.add(f"priority {number % 2 + 1}", priority=number % 2 + 1)
        ours.add(f"delayed {number}", delay_ms=60_000 * (4 - number))
    ours.add("next", lifo=True)


def test_counts_states_and_pages_agree(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-158 C-159 C-169
    fill(ours)
    bull("addFlow", flow={"name": "p", "queueName": ours.q.name, "children": [{"name": "c", "queueName": ours.q.name}]})
    _agree(bull, ours)


def test_counts_states_and_pages_agree_while_paused(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-158 C-159 C-169
    ours.meta(version=f"bullmq:{bull.node.version}")
    fill(ours)
    bull("pause")
    ours.add("added while paused")
    assert ours.run(counts(ours.q)).paused
    assert bull("isPaused")
    _agree(bull, ours)


def _agree(bull: NodeQueue, ours: Rig) -> None:
    in_node = bull("counts")
    in_node["waiting"] += in_node.pop("paused", 0)  # BullMQ 5 counts what it moves aside while paused by itself
    assert ours.run(counts(ours.q)).by_state() == in_node
    assert all(in_node[state] > 0 for state in STATES if state != "waiting-children")
    for state in STATES:
        named = "paused" if state == "waiting" and ours.exists("paused") else state
        for oldest_first in (True, False):
            theirs = bull("ids", state=named, asc=oldest_first)
            jobs = _page(ours, state, newest_first=not oldest_first)
            assert [job.id for job in jobs] == theirs, (state, oldest_first)
            part = bull("ids", state=named, start=1, end=2, asc=oldest_first)
            jobs = _page(ours, state, newest_first=not oldest_first, offset=1, limit=2)
            assert [job.id for job in jobs] == part, (state, oldest_first)
        for job in _page(ours, state):
            found = ours.run(find(ours.q, job.id))
            assert found is not None
            assert found.state == bull.state(job.id) == state


def _page(ours: Rig, state: str, **options: Any) -> tuple[JobRecord, ...]:
    return ours.run(page(ours.q, state, **{"offset": 0, "limit": 100, "newest_first": False, **options}))


def test_node_reads_every_field_of_heavyqs_jobs(bull: NodeQueue, ours: Rig) -> None:
    # conformance: C-061
    options = {
        "attempts": 4,
        "backoff": {"type": "exponential", "delay": 1000, "jitter": 0.5},
        "keepLogs": 3,
        "stackTraceLimit": 2,
        "removeOnComplete": {"age": 60, "count": 10, "limit": 1000},
        "removeOnFail": False,
        "priority": 3,
    }
    job_id = ours.add("né", data='{"x":["é",1.5,null]}'.encode(), opts=packed(options), priority=3)
    added = bull.find(job_id)
    assert (added["name"], added["data"], added["priority"]) == ("né", {"x": ["é", 1.5, None]}, 3)
    assert {name: added["opts"][name] for name in options} == options
    assert added["timestamp"] == ours.now
    assert (added["attemptsMade"], added["attemptsStarted"], added["stalledCounter"]) == (0, 0, 0)

    traces = None
    for run in range(3):
        lease = ours.lease(worker_name="w1")
        assert ours.run(ops.progress(lease, b'{"run":%d}' % run))
        assert ours.run(ops.log(lease, [f"row {run}", f"é {run}"], keep=3))
        traces = append_trace(traces, f'ValueError: run {run} "é"\n  File "x.py", line 1', 2)
        ours.settle("retry", lease, failed_reason=f'run {run} "é"', stacktrace=traces)
    failed = bull.find(job_id)
    assert failed["failedReason"] == 'run 2 "é"'
    assert [trace.splitlines()[0] for trace in failed["stacktrace"]] == [f'ValueError: run {n} "é"' for n in (1, 2)]
    assert failed["progress"] == {"run": 2}
    assert (failed["attemptsMade"], failed["attemptsStarted"], failed["processedBy"]) == (3, 3, "w1")
    assert bull("logs", id=job_id) == {"logs": ["é 1", "row 2", "é 2"], "count": 3}
    assert ours.run(logs(ours.q, job_id)).rows == ("é 1", "row 2", "é 2")

    ours.now += 5
    ours.settle("complete", ours.lease(), returnvalue=b'{"r":[true,null]}')
    done = bull.find(job_id)
    assert (done["state"], done["returnvalue"], done["attemptsMade"]) == ("completed", {"r": [True, None]}, 4)
    assert (done["processedOn"], done["finishedOn"]) == (ours.now, ours.now)


def test_heavyq_reads_every_field_of_nodes_jobs(bull: NodeQueue, ours: Rig) -> None:
    job_id = bull.add({"a": ["é"]}, name="né", attempts=2, backoff=10, priority=2, keepLogs=5, removeOnFail=3)
    bull("fetch", token="t1")
    bull("progress", id=job_id, value={"half": 0.5})
    bull("log", id=job_id, row="row é")
    bull("fail", id=job_id, token="t1", message='first "é"')
    eventually(lambda: bull("fetch", token="t2") is not None, 5, "the retry is due")
    bull("fail", id=job_id, token="t2", message="second")
    job = ours.run(find(ours.q, job_id))
    theirs = bull.find(job_id)
    assert job is not None
    assert (job.name, job.data, job.state, job.priority) == ("né", '{"a":["é"]}'.encode(), "failed", 2)
    assert (job.attempts_made, job.attempts_started, job.stalled_count) == (2, 2, 0)
    assert (job.timestamp_ms, job.processed_on_ms, job.finished_on_ms) == (
        theirs["timestamp"],
        theirs["processedOn"],
        theirs["finishedOn"],
    )
    assert (job.failed_reason, job.progress, job.worker_name) == ("second", b'{"half":0.5}', "wk")
    assert list(job.stacktrace) == theirs["stacktrace"]
    assert (job.opts.attempts, job.opts.keep_logs) == (2, 5)
    assert job.opts.backoff is not None
    assert (job.opts.backoff.type, job.opts.backoff.delay_ms) == ("fixed", 10)
    assert job.opts.remove_on_fail is not None
    assert job.opts.remove_on_fail.count == 3
    assert ours.run(logs(ours.q, job_id)).rows == ("row é",)


@pytest.mark.parametrize(
    "value", [b"null", b"0", b"1.5", b'"text \\"q\\" \\u00e9"', b"[]", b"{}", b'{"a":{"b":[]}}', b"true", b'""']
)
def test_events_that_heavyq_writes_never_stop_nodes_reader(bull: NodeQueue, ours: Rig, value: bytes) -> None:
    """Of every verb: a value that BullMQ cannot decode would end its reader for good."""
    bull("startEvents")
    ours.add('n\n"é', delay_ms=1)
    ours.add(priority=3, opts=b'{"attempts":2}')
    ours.add(job_id="twice")
    ours.add(job_id="twice")
    ours.now += 10
    for verb in ("hand_back", "retry", "delay", "fail", "complete"):
        ours.now += 2000
        lease = ours.lease()
        assert ours.run(ops.progress(lease, value))
        outcome = {"returnvalue": value} if verb == "complete" else {}
        reason = {} if verb in ("complete", "hand_back") else {"failed_reason": 'line\n"é" \x00 \\'}
        assert ours.settle(verb, lease, **outcome, **reason) == "settled"
    stalled = ours.lease()
    ours.expire_lock(stalled.job_id)
    ours.sweep()
    ours.sweep()
    last = bull.add(name="last")
    eventually(lambda: "added" in [e["event"] for e in bull.events_of(last)], 10, "the reader is alive")
    seen = {name for name, _ in bull("events")}
    assert seen >= {
        *("added", "waiting", "active", "delayed", "duplicated", "progress", "completed", "failed", "stalled"),
    }
    assert bull("errors") == []
