"""What an operator does to jobs and queues, by both faces, on a real server.

No worker runs here: the test itself leases and settles, by the same operations.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

import heavyq
from heavyq import (
    BadValue,
    HasAnotherParent,
    JobError,
    JobFailed,
    Model,
    NoSuchJob,
    NoSuchParent,
    PayloadError,
    PayloadTooLarge,
    Queue,
    Rate,
    WrongState,
)
from heavyq.bullmq import ops
from heavyq.bullmq.options import Keep as WireKeep
from heavyq.core.outcome import Failure
from tests.support.eventually import eventually
from tests.support.faces import FACES, Face
from tests.support.fresh import forget_declarations
from tests.support.ops import Rig

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from heavyq.bullmq.keys import QueueKey
    from heavyq.store.client import Client
    from tests.support.valkey import Valkey

ALL_KEPT = WireKeep(count=-1)


class Video(Model):
    video_id: str


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Face]:
    forget_declarations(monkeypatch)
    face = Face(request.param)
    yield face
    face.close()
    heavyq.close()


@pytest.fixture
def queue(face: Face, valkey: Valkey, q: QueueKey) -> Any:
    """The queue's face under test; everything that it answers goes through `face`."""
    return face.of(Queue(q.name, payload=Video, prefix=q.prefix, connection=valkey.url))


@pytest.fixture
def rig(client: Client, raw: redis.Redis, q: QueueKey) -> Rig:
    rig = Rig(client, raw, q)
    rig.now = now_ms()
    return rig


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def complete(rig: Rig, value: Any = None) -> str:
    lease = rig.lease(now_ms=now_ms())
    raw = json.dumps(value).encode()
    assert rig.settle("complete", lease, returnvalue=raw, keep=ALL_KEPT, now_ms=now_ms()) == "settled"
    return lease.job_id


def fail(rig: Rig, reason: str = "exception") -> str:
    lease = rig.lease(now_ms=now_ms())
    failure = Failure(reason, "why")  # type: ignore[arg-type]
    options = {"failed_reason": "why", "failure": failure.to_json(lease.started), "keep": ALL_KEPT}
    assert rig.settle("fail", lease, now_ms=now_ms(), **options) == "settled"
    return lease.job_id


def v(name: str) -> Video:
    return Video(video_id=name)


# ---- one job ----


def test_a_job_that_waits_is_cancelled_at_once(face: Face, queue: Any) -> None:
    job = face(queue.add(v("1")))
    assert face(job.cancel("no longer needed")) is True
    with pytest.raises(JobFailed, match=r"\(cancelled\): cancelled: no longer needed") as caught:
        face(job.result(timeout=5))
    assert caught.value.reason == "cancelled"
    with pytest.raises(WrongState, match=f"cannot cancel job {job.id}: it has ended already"):
        face(job.cancel())
    with pytest.raises(NoSuchJob, match="has no job nobody"):
        face(queue.handle("nobody").cancel())


def test_a_cancelled_job_that_is_not_kept_is_not(face: Face, queue: Any) -> None:
    job = face(queue.add(v("1"), remove_on_fail=True, delay="1h"))
    assert face(job.cancel()) is True
    assert face(job.state()) == "unknown"


def test_the_worker_of_a_job_that_runs_is_asked(face: Face, queue: Any, rig: Rig) -> None:
    job = face(queue.add(v("1")))
    lease = rig.lease(now_ms=now_ms())
    assert face(job.cancel("stop it")) is False
    assert face(job.state()) == "active"
    assert rig.run(ops.renew(rig.q, [lease], lock_ms=30_000)).cancelled == {lease.token: "stop it"}


def test_a_job_that_ended_runs_again(face: Face, queue: Any, rig: Rig) -> None:
    job = face(queue.add(v("1"), attempts=1))
    with pytest.raises(WrongState, match=f"cannot retry job {job.id}: it is waiting"):
        face(job.retry())
    for end, kept in ((fail, "1"), (complete, None)):
        end(rig)
        face(job.retry(reset_attempts=end is complete))
        assert face(job.state()) == "waiting"
        assert rig.field(job.id, "atm") in (kept, "0", None)
    with pytest.raises(NoSuchJob):
        face(queue.handle("nobody").retry())


def test_a_delayed_job_is_moved_and_promoted(face: Face, queue: Any, rig: Rig) -> None:
    job = face(queue.add(v("1"), delay="1h"))
    face(job.change_delay("2h"))
    assert abs(rig.zset("delayed")[job.id] / 4096 - (now_ms() + 7_200_000)) < 5_000
    face(job.promote())
    assert face(job.state()) == "waiting"
    for change in (job.promote, lambda: job.change_delay(5)):
        with pytest.raises(WrongState, match="it is wait"):
            face(change())
    with pytest.raises(BadValue, match="change_delay"):
        face(job.change_delay("soon"))
    with pytest.raises(NoSuchJob):
        face(queue.handle("nobody").promote())


def test_a_job_s_priority_is_changed(face: Face, queue: Any, rig: Rig) -> None:
    first, second = face(queue.add_bulk([v("1"), v("2")], priority=5))
    face(second.change_priority(1))
    assert list(rig.zset("prioritized")) == [second.id, first.id]
    face(first.change_priority(0))
    assert face(first.refresh()).priority == 0
    assert face(queue.priority_counts(0, 1, 5)) == {0: 1, 1: 1, 5: 0}
    for wrong in (-1, 1.5, True, 2**21):
        with pytest.raises(BadValue, match="priority"):
            face(first.change_priority(wrong))


def test_a_job_s_payload_is_written_anew(face: Face, queue: Any, rig: Rig) -> None:
    job = face(queue.add(v("1")))
    face(job.update_data(v("9")))
    assert rig.field(job.id, "data") == '{"videoId":"9"}'
    assert job.data == v("9")
    face(queue.handle(job.id).update_data({"video_id": "8"}))
    assert face(job.refresh()).data == v("8")
    with pytest.raises(PayloadError, match="video_id"):
        face(job.update_data({"video": 1}))
    with pytest.raises(PayloadTooLarge, match="max_payload"):
        face(job.update_data(v("x" * 2**20)))
    for nobody in (queue.handle("nobody"), job):
        face(nobody.remove())
        with pytest.raises(NoSuchJob):
            face(nobody.update_data(v("9")))


def test_a_job_is_removed_unless_it_runs(face: Face, queue: Any, rig: Rig) -> None:
    job = face(queue.add(v("1")))
    rig.lease(now_ms=now_ms())
    with pytest.raises(WrongState, match=f"cannot remove job {job.id}: it, or a child of it, is in work") as caught:
        face(job.remove())
    assert caught.value.state == "locked"
    rig.expire_lock(job.id)
    face(job.remove())
    assert face(queue.get_job(job.id)) is None
    face(job.remove())  # no error: it is as it should be


def test_rows_are_added_to_any_job_s_log_and_dropped(face: Face, queue: Any) -> None:
    job = face(queue.add(v("1")))
    assert [face(job.log(row)) for row in "abc"] == [1, 2, 3]
    assert face(job.log("d", keep=2)) == 2
    assert face(job.logs()) == ["c", "d"]
    face(job.clear_logs(keep=1))
    assert face(job.logs()) == ["d"]
    face(job.clear_logs())
    assert face(job.logs()) == []
    with pytest.raises(NoSuchJob):
        face(queue.handle("nobody").log("x"))


def test_a_job_that_was_not_read_yet(face: Face, queue: Any) -> None:
    job_id = face(queue.add(v("1"))).id
    job = queue.handle(job_id)
    if isinstance(job, heavyq.AsyncJobHandle):
        with pytest.raises(JobError, match=r"await refresh\(\) first"):
            _ = job.data
        face(job.refresh())
    assert (job.data, job.name, job.parent, job.opts.attempts) == (v("1"), "process", None, 3)
    assert (job.attempts_started, job.stalled_count, job.stacktrace, job.priority) == (0, 0, (), 0)
    assert job.key == str(job.queue_key) + f":{job_id}"


# ---- families ----


def test_a_child_is_added_to_a_parent_by_its_handle(face: Face, queue: Any, rig: Rig) -> None:
    parent = face(queue.add("parent", v("p")))
    lease = rig.lease(now_ms=now_ms())
    children = [face(queue.add("child", v(str(n)), parent=parent)) for n in range(3)]
    assert children[0].parent == parent.key
    assert face(queue.get_job(children[0].id)).parent == parent.key
    assert rig.run(ops.wait_children(lease, now_ms=now_ms(), usage=None)) == "settled"
    assert face(parent.state()) == "waiting-children"
    assert sorted(face(parent.pending_children())) == [child.key for child in children]
    complete(rig, {"n": 1})
    assert face(parent.children_values()) == {children[0].key: {"n": 1}}
    assert face(children[1].detach()) is True
    assert face(children[1].refresh()).parent is None
    face(parent.remove_pending_children())
    assert face(parent.pending_children()) == []
    assert face(parent.state()) == "waiting"
    assert face(parent.failed_children_values()) == {}


def test_the_results_of_one_queue_s_children_are_typed(face: Face, queue: Any, rig: Rig, valkey: Valkey) -> None:
    typed = Queue("typed", result=Video, prefix=rig.q.prefix, connection=valkey.url)
    parent = face(queue.add("parent", v("p"), delay="1h"))
    face(queue.add("child", v("1"), parent=parent))
    face(face.of(typed).add({}, parent=parent))
    complete(rig, 5)
    child = Rig(rig.client, rig.raw, typed.key())
    complete(child, {"videoId": "made"})
    assert face(parent.children_values(typed)) == {typed.key().key("1"): v("made")}
    assert list(face(parent.children_values()).values()) == [5, {"videoId": "made"}]
    rig.raw.hset(rig.key(f"{parent.id}:processed"), typed.key().key("9"), b'{"video":1}')
    with pytest.raises(JobError, match=r"the result of the child .*typed:9"):
        face(parent.children_values(typed))


def test_a_failed_child_s_reason_is_seen_by_its_parent(face: Face, queue: Any, rig: Rig) -> None:
    parent = face(queue.add("parent", v("p"), delay="1h"))
    child = face(queue.add(v("1"), parent=parent, ignore_dependency_on_failure=True))
    fail(rig)
    assert face(parent.failed_children_values()) == {child.key: "why"}


def test_a_parent_that_is_not_there_refuses_the_child(face: Face, queue: Any, rig: Rig) -> None:
    with pytest.raises(NoSuchParent, match="was named as parent: nothing was added"):
        face(queue.add(v("1"), parent=queue.handle("nobody")))
    parent = face(queue.add(v("p")))
    with pytest.raises(BadValue, match="dedup"):
        face(queue.add(v("1"), parent=parent, deduplication="one"))
    assert face(queue.counts())["waiting"] == 1


def test_a_job_has_one_parent(face: Face, queue: Any, rig: Rig) -> None:
    one, other = face(queue.add_bulk([v("1"), v("2")]))
    child = face(queue.add(v("c"), parent=one, job_id="child"))
    assert (child.added, face(queue.add(v("c"), parent=one, job_id="child")).added) == (True, False)
    with pytest.raises(HasAnotherParent, match="child"):
        face(queue.add(v("c"), parent=other, job_id="child"))
    assert face(child.refresh()).parent == one.key


def test_an_add_that_is_deduplicated_says_so(face: Face, queue: Any) -> None:
    first = face(queue.add(v("1"), deduplication="one"))
    again = face(queue.add(v("2"), deduplication=heavyq.Dedup("one", ttl="1m")))
    assert (first.added, again.added, again.id) == (True, False, first.id)
    assert face(again.refresh()).data == v("1")


def test_limits_of_one_add_are_carried_by_the_job(face: Face, queue: Any, rig: Rig) -> None:
    job = face(queue.add(v("1"), timeout="2h", progress_timeout=90, memory_limit="1Gi", telemetry="tm"))
    opts = json.loads(rig.field(job.id, "opts") or "")
    assert opts["hq"] == {"timeout": 7_200_000, "progressTimeout": 90_000, "memoryLimit": 2**30}
    assert opts["tm"] == "tm"
    assert (job.opts.timeout_ms, job.opts.memory_limit_bytes) == (7_200_000, 2**30)


# ---- the queue ----


def test_a_queue_is_paused_and_resumed(face: Face, queue: Any, rig: Rig) -> None:
    assert face(queue.is_paused()) is False
    face(queue.add(v("1")))
    face(queue.pause())
    assert face(queue.is_paused()) is True
    assert face(queue.settings()).paused is True
    assert face(queue.counts())["waiting"] == 1
    face(queue.resume())
    assert face(queue.is_paused()) is False
    assert rig.lease(now_ms=now_ms()).job_id == "1"


@pytest.mark.parametrize("face", ["sync"], indirect=True)  # large, and one talk for both
def test_a_queue_is_drained_in_parts(face: Face, queue: Any) -> None:
    face(queue.add_bulk([v(str(n)) for n in range(1500)]))
    face(queue.add(v("later"), delay="1h"))
    assert face(queue.drain()) == 1500
    assert face(queue.counts())["delayed"] == 1
    assert face(queue.drain(delayed=True)) == 1
    assert face(queue.drain()) == 0


def test_jobs_that_ended_are_cleaned_by_age_and_number(face: Face, queue: Any, rig: Rig) -> None:
    jobs = face(queue.add_bulk([v(str(n)) for n in range(5)]))
    for _ in jobs:
        fail(rig)
    assert face(queue.clean("failed", older_than="1h")) == []
    assert face(queue.clean("failed", limit=2)) == [jobs[0].id, jobs[1].id]
    assert sorted(face(queue.clean("failed"))) == [job.id for job in jobs[2:]]
    assert face(queue.clean("failed", limit=0)) == []
    with pytest.raises(BadValue, match='did you mean "failed"'):
        face(queue.clean("fialed"))
    with pytest.raises(BadValue, match="limit is a whole number, 0 or more, or None; not -1"):
        face(queue.clean("failed", limit=-1))


@pytest.mark.parametrize("face", ["sync"], indirect=True)  # large, and one talk for both
def test_many_jobs_are_cleaned_in_batches(face: Face, queue: Any) -> None:
    face(queue.add_bulk([v(str(n)) for n in range(2500)], delay="1h"))
    assert len(face(queue.clean("delayed", limit=1200))) == 1200
    assert len(set(face(queue.clean("delayed")))) == 1300


@pytest.mark.parametrize("face", ["sync"], indirect=True)  # large, and one talk for both
def test_a_queue_is_obliterated(face: Face, queue: Any, rig: Rig) -> None:
    face(queue.add_bulk([v(str(n)) for n in range(1200)]))
    lease = rig.lease(now_ms=now_ms())
    with pytest.raises(WrongState, match="in work"):
        face(queue.obliterate())
    assert face(queue.is_paused()) is False  # as it was
    assert rig.exists(lease.job_id)
    face(queue.obliterate(force=True))
    assert rig.dump() == {}


def test_failed_jobs_are_retried_by_reason_and_time(face: Face, queue: Any, rig: Rig) -> None:
    jobs = face(queue.add_bulk([v(str(n)) for n in range(6)], attempts=1))
    reasons = ["timeout", "exception", "timeout", "oom_killed", "timeout", "exception"]
    for reason in reasons:
        fail(rig, reason)
    long_ago = now_ms() - 7_200_000
    rig.raw.hset(rig.key(jobs[0].id), "finishedOn", long_ago)
    rig.raw.zadd(rig.key("failed"), {jobs[0].id: long_ago})

    def waiting() -> set[str]:
        return {job.id for job in face(queue.jobs("waiting"))}

    face(queue.retry_jobs("failed", reason="timeout", since="1h"))
    assert waiting() == {jobs[2].id, jobs[4].id}
    face(queue.retry_jobs(since=datetime.now(UTC) - timedelta(hours=1), limit=1))
    assert waiting() == {jobs[2].id, jobs[4].id, jobs[5].id}  # the latest first
    face(queue.retry_jobs(reason="oom_killed"))
    assert waiting() == {jobs[2].id, jobs[4].id, jobs[5].id, jobs[3].id}
    face(queue.retry_jobs())
    assert waiting() == {job.id for job in jobs}
    for wrong in ({"reason": "bad luck"}, {"since": datetime(2026, 1, 1)}, {"since": "x"}, {"limit": "all"}):  # noqa: DTZ001
        with pytest.raises(BadValue, match="retry_jobs"):
            face(queue.retry_jobs(**wrong))


@pytest.mark.parametrize("face", ["sync"], indirect=True)  # large, and one talk for both
def test_many_jobs_are_retried_and_promoted_in_parts(face: Face, queue: Any, rig: Rig) -> None:
    face(queue.add_bulk([v(str(n)) for n in range(2200)], delay="1h"))
    face(queue.promote_jobs(limit=1100))
    assert face(queue.counts())["delayed"] == 1100
    face(queue.promote_jobs())
    assert face(queue.counts())["waiting"] == 2200
    move = rig.raw.pipeline(transaction=False)
    for n, job_id in enumerate(rig.raw.lrange(rig.key("wait"), 0, -1)):
        move.zadd(rig.key("failed"), {job_id: n + 1})
        move.hset(rig.key(job_id.decode()), mapping={"finishedOn": n + 1, "failedReason": "x"})
    move.delete(rig.key("wait"))
    move.execute()
    face(queue.retry_jobs(limit=1050))
    assert face(queue.counts())["failed"] == 1150
    face(queue.retry_jobs(reason="exception"))
    assert face(queue.counts()) == {**dict.fromkeys(ops.STATES, 0), "waiting": 2200}


def test_limits_for_all_workers_are_set_and_taken_away(face: Face, queue: Any, rig: Rig) -> None:
    face(queue.set_global_concurrency(4))
    face(queue.set_global_rate_limit(Rate(10, per="1s")))
    settings = face(queue.settings())
    assert (settings.concurrency, settings.rate) == (4, Rate(10, per=1.0))
    assert rig.hash("meta").items() >= {"concurrency": "4", "max": "10", "duration": "1000"}.items()
    assert face(queue.rate_limit_ttl()) == 0
    face(queue.rate_limit("30s"))
    assert 25 < face(queue.rate_limit_ttl()) <= 30
    face(queue.end_rate_limit())
    assert face(queue.rate_limit_ttl()) == 0
    face(queue.set_global_concurrency(None))
    face(queue.set_global_rate_limit(None))
    settings = face(queue.settings())
    assert (settings.concurrency, settings.rate) == (None, None)
    for wrong in (lambda: queue.set_global_rate_limit((10, 1)), lambda: queue.set_global_concurrency(0)):
        with pytest.raises(BadValue):
            face(wrong())


def test_workers_are_those_connections_that_are_named_so(face: Face, queue: Any, rig: Rig, valkey: Valkey) -> None:
    from heavyq.bullmq.keys import worker_client_name
    from heavyq.store.client import Client

    assert face(queue.workers()) == []
    worker = Client(valkey.url, name=worker_client_name(rig.q, "box-1"))
    try:
        worker.show()
        (seen,) = face(queue.workers())
        assert seen.name == "box-1"
    finally:
        worker.close()
    eventually(lambda: face(queue.workers()) == [], 5, "it is gone")


def test_metrics_are_counted(face: Face, queue: Any, rig: Rig) -> None:
    assert face(queue.metrics("completed")).count == 0
    face(queue.add(v("1")))
    lease = rig.lease(now_ms=now_ms())
    options = {"keep": ALL_KEPT, "now_ms": now_ms(), "metrics_points": 10}
    assert rig.settle("complete", lease, **options) == "settled"
    found = face(queue.metrics("completed"))
    assert (found.count, found.prev_count) == (1, 0)
    assert found.prev_at is None or found.prev_at.tzinfo is UTC
    assert face(queue.metrics("failed")).count == 0
    with pytest.raises(BadValue, match="metrics"):
        face(queue.metrics("active"))


def test_an_event_of_one_s_own_is_in_the_stream(face: Face, queue: Any, rig: Rig) -> None:
    event_id = face(queue.emit("rendered", {"video": "é"}))
    assert rig.events()[-1] == {"event": "rendered", "video": "é"}
    assert rig.raw.xrevrange(rig.key("events"), count=1)[0][0].decode() == event_id
    with pytest.raises(BadValue, match="completed"):
        face(queue.emit("completed", {}))


# ---- schedulers ----


def test_a_scheduler_is_made_read_changed_and_removed(face: Face, queue: Any, rig: Rig) -> None:
    start = datetime.now(UTC) + timedelta(days=2)
    job = face(queue.upsert_scheduler("nightly", cron="0 3 * * *", tz="Europe/Paris", data=v("all"), start=start))
    assert face(job.state()) == "delayed"
    assert face(job.refresh()).data == v("all")
    found = face(queue.get_scheduler("nightly"))
    assert (found.id, found.cron, found.tz, found.every, found.data) == (
        "nightly",
        "0 3 * * *",
        "Europe/Paris",
        None,
        v("all"),
    )
    assert found.next_run > start
    assert found.job_id == job.id
    face(queue.upsert_scheduler("nightly", every="10m", data=v("some"), attempts=7))
    found = face(queue.get_scheduler("nightly"))
    assert (found.every, found.cron, found.data) == (600.0, None, v("some"))
    face(queue.upsert_scheduler("tick", every=5, data=v("x"), limit=3, name="ticking"))
    assert {each.id: (each.name, each.limit) for each in face(queue.schedulers())} == {
        "nightly": ("nightly", None),
        "tick": ("ticking", 3),
    }
    assert face(queue.remove_scheduler("nightly")) is True
    assert face(queue.remove_scheduler("nightly")) is False
    assert face(queue.get_scheduler("nightly")) is None
    assert [each.id for each in face(queue.schedulers(offset=0, limit=5))] == ["tick"]


def test_a_queue_s_defaults_that_no_scheduler_takes_do_not_hold_for_it(face: Face, valkey: Valkey, q: QueueKey) -> None:
    options: dict[str, Any] = {"delay": "5m", "deduplication": "one"}
    queue = face.of(Queue(q.name, prefix=q.prefix, connection=valkey.url, **options))
    job = face(face(queue.upsert_scheduler("s", every="1h")).refresh())
    assert (job.opts.delay_ms, job.opts.dedup) != (300_000, "one")
    assert job.opts.dedup is None
    with pytest.raises(PayloadTooLarge, match="size_limit"):
        face(queue.upsert_scheduler("s", every="1h", data={"x": "y" * 100}, size_limit=10))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, "one of the two"),
        ({"every": 5, "cron": "* * * * *"}, "one of the two"),
        ({"every": 5, "tz": "UTC"}, "time zone is for cron"),
        ({"every": 5, "start": datetime(2026, 1, 1)}, "time zone"),  # noqa: DTZ001 - the mistake
        ({"every": "often"}, "every"),
        ({"every": 5, "job_id": "x"}, "job_id is not for a scheduler"),
        ({"every": 5, "delay": 5}, "delay is not for a scheduler"),
        ({"every": 5, "data": None}, r"its jobs need data=.*video_id"),
        ({"every": 5, "data": {"video": 1}}, "video_id"),
        ({"cron": "no cron"}, "no cron"),
        ({"cron": "* * * * *", "tz": "Nowhere/At"}, "Nowhere"),
        ({"every": 0}, "every|period|0"),
        ({"every": 5, "limit": 0}, "limit"),
    ],
)
def test_a_scheduler_that_makes_no_sense_is_refused(
    face: Face, queue: Any, rig: Rig, options: dict[str, Any], error: str
) -> None:
    with pytest.raises((BadValue, PayloadError), match=error):
        face(queue.upsert_scheduler("s", **{"data": v("x"), **options}))
    assert rig.dump() == {}
