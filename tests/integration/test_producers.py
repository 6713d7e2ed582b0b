"""Producers on a real server: what an add leaves behind, looking at jobs, results, and Redis going away.

No worker runs here: the test itself leases and settles, by the same operations.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

import heavyq
from heavyq import (
    HEAVY,
    AddUnknown,
    JobError,
    JobFailed,
    Keep,
    Model,
    NoSuchJob,
    PayloadError,
    Queue,
    RedisRefused,
    RedisUnavailable,
    ResultGone,
)
from heavyq.bullmq import ops
from heavyq.bullmq.options import Keep as WireKeep
from heavyq.core.outcome import Failure, Usage
from heavyq.queue import outcomes
from tests.support.eventually import eventually
from tests.support.faces import FACES, Face
from tests.support.fresh import forget_declarations
from tests.support.ops import Rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from heavyq.bullmq.keys import QueueKey
    from heavyq.bullmq.lease import Lease
    from heavyq.store.client import Client
    from tests.support.valkey import Valkey

NONE_KEPT, ALL_KEPT = WireKeep(count=0), WireKeep(count=-1)


class Video(Model):
    video_id: str


class Transcoded(Model):
    path: str
    loss: float = 0.0


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    forget_declarations(monkeypatch)
    yield
    heavyq.close()


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    face = Face(request.param)
    yield face
    face.close()


@pytest.fixture
def both(valkey: Valkey, q: QueueKey) -> Queue[Video, Transcoded]:
    return Queue(q.name, payload=Video, result=Transcoded, prefix=q.prefix, connection=valkey.url)


@pytest.fixture
def videos(face: Face, both: Queue[Video, Transcoded]) -> Any:
    """The queue by the face under test; all that it answers goes through `face`."""
    return face.of(both)


@pytest.fixture
def rig(client: Client, raw: redis.Redis, q: QueueKey) -> Rig:
    return Rig(client, raw, q)


def complete(rig: Rig, returnvalue: Any, keep: WireKeep = NONE_KEPT) -> str:
    lease = rig.lease(now_ms=_now_ms())
    usage = Usage(peak_rss_bytes=5, cpu_s=0.5, wall_s=1.0).to_json(lease.started)
    raw = json.dumps(returnvalue).encode()
    assert rig.settle("complete", lease, returnvalue=raw, keep=keep, usage=usage) == "settled"
    return lease.job_id


def fail(rig: Rig, failure: Failure, keep: WireKeep = ALL_KEPT) -> Lease:
    lease = rig.lease(now_ms=_now_ms())
    raw = failure.to_json(lease.started)
    assert rig.settle("fail", lease, failed_reason=failure.detail, failure=raw, keep=keep) == "settled"
    return lease


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def soon(action: Callable[[], Any], after_s: float = 0.1) -> threading.Thread:
    timer = threading.Timer(after_s, action)
    timer.start()
    return timer


# ---- adding ----


def test_an_add_leaves_what_a_bullmq_producer_would(face: Face, rig: Rig, videos: Any) -> None:
    job = face(videos.add("transcode", Video(video_id="é/1"), attempts=2, remove_on_complete=5))
    stored = rig.hash(job.id)
    assert job.id == "1"
    assert set(stored) == {"name", "data", "opts", "timestamp", "delay", "priority"}
    assert (stored["name"], json.loads(stored["data"])) == ("transcode", {"videoId": "é/1"})
    assert json.loads(stored["opts"]).items() >= {"attempts": 2, "removeOnComplete": 5}.items()
    assert abs(int(stored["timestamp"]) - _now_ms()) < 5_000
    assert rig.list("wait") == ["1"]
    assert rig.zset("marker") == {"0": 0}
    assert rig.hash("meta") == {"opts.maxLenEvents": "10000"}
    assert [event["event"] for event in rig.events()] == ["added", "waiting"]


def test_the_forms_of_add_and_where_each_job_goes(face: Face, rig: Rig, videos: Any) -> None:
    video = Video(video_id="v1")
    ids = {
        "plain": face(videos.add(video)).id,
        "named": face(videos.add("a", video)).id,
        "lifo": face(videos.add(video, lifo=True)).id,
        "delayed": face(videos.add(video, delay="5m")).id,
        "prioritized": face(videos.add(video, priority=2)).id,
        "own": face(videos.add(video, job_id="own")).id,
    }
    assert ids["own"] == "own"
    assert rig.list("wait") == ["own", ids["named"], ids["plain"], ids["lifo"]]
    assert list(rig.zset("prioritized")) == [ids["prioritized"]]
    (due,) = rig.zset("delayed").values()
    assert abs(due / 4096 - (_now_ms() + 300_000)) < 5_000
    states = {name: face(videos.handle(job_id).state()) for name, job_id in ids.items()}
    assert states == {
        "plain": "waiting",
        "named": "waiting",
        "lifo": "waiting",
        "delayed": "delayed",
        "prioritized": "prioritized",
        "own": "waiting",
    }
    assert {state: n for state, n in face(videos.counts()).items() if n} == {
        "waiting": 4,
        "delayed": 1,
        "prioritized": 1,
    }


def test_an_add_of_an_id_that_exists_adds_nothing_and_says_so(face: Face, videos: Any) -> None:
    first = face(videos.add(Video(video_id="first"), job_id="one"))
    again = face(videos.add(Video(video_id="again"), job_id="one"))
    assert (first.added, again.added, again.id) == (True, False, "one")
    assert face(again.refresh()).data == Video(video_id="first")  # what is in the queue, not what was refused
    assert face(videos.counts())["waiting"] == 1


@pytest.mark.parametrize("face", ["sync"], indirect=True)  # large, and one talk for both
def test_a_bulk_keeps_its_order(face: Face, rig: Rig, videos: Any) -> None:
    jobs = face(videos.add_bulk([("process", Video(video_id=str(n))) for n in range(2000)]))
    assert [job.id for job in jobs] == [str(n) for n in range(1, 2001)]
    assert rig.list("wait") == [job.id for job in reversed(jobs)]


def test_an_explicit_timestamp_is_the_base_of_the_delay(face: Face, rig: Rig, videos: Any) -> None:
    at = datetime(2030, 1, 2, tzinfo=UTC)
    job = face(videos.add(Video(video_id="v"), timestamp=at, delay=10))
    assert job.timestamp == at
    assert rig.zset("delayed")[job.id] // 4096 == at.timestamp() * 1000 + 10_000


@pytest.mark.parametrize(
    "payload",
    [{}, {"a": None, "b": 'q"uote', "c": [1.5, {"d": "é \u2028 😀"}]}, {"big": 2**53}, {"x": "y" * 100_000}],
)
def test_any_object_survives_the_way_there(valkey: Valkey, prefix: str, payload: Any) -> None:
    queue = Queue("any", prefix=prefix, connection=valkey.url)
    job = queue.get_job(queue.add(payload).id)
    assert job is not None
    assert job.data == payload


def test_nan_is_null_in_redis(rig: Rig, valkey: Valkey, q: QueueKey) -> None:
    Queue(q.name, prefix=q.prefix, connection=valkey.url).add({"loss": math.nan})
    assert rig.hash("1")["data"] == '{"loss":null}'


def test_nothing_is_left_behind_by_an_add_that_was_refused(face: Face, rig: Rig, videos: Any) -> None:
    with pytest.raises(PayloadError):
        face(videos.add({"video": 1}))  # type: ignore[call-overload]
    assert list(rig.raw.scan_iter(f"{rig.q}:*")) == []


def test_threads_share_a_queue(both: Queue[Video, Transcoded]) -> None:
    def add() -> None:
        for _ in range(50):
            both.add(Video(video_id="v"))

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert both.counts()["waiting"] == 400


def test_a_forked_process_adds_on_a_connection_of_its_own(rig: Rig, both: Queue[Video, Transcoded]) -> None:
    both.add(Video(video_id="parent"))
    pids = []
    for n in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                for m in range(20):
                    both.add(Video(video_id=f"{n}-{m}"))
                os._exit(0)
            finally:
                os._exit(1)
        pids.append(pid)
    for _ in range(20):
        both.add(Video(video_id="parent"))
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0, 0]
    assert both.counts()["waiting"] == 101
    assert sorted(map(int, rig.list("wait"))) == list(range(1, 102))


def test_a_closed_queue_may_be_used_again(both: Queue[Video, Transcoded]) -> None:
    both.add(Video(video_id="v"))
    heavyq.close()
    both.add(Video(video_id="v"))
    assert both.counts()["waiting"] == 2


# ---- looking ----


def test_get_job_and_handle(face: Face, videos: Any) -> None:
    assert face(videos.get_job("1")) is None
    missing = videos.handle("1")
    assert face(missing.state()) == "unknown"
    with pytest.raises(NoSuchJob, match="has no job 1"):
        face(missing.refresh())
    with pytest.raises(JobError):  # nothing was read; by the sync face NoSuchJob
        _ = missing.data
    assert face(missing.logs()) == []
    face(videos.add("named", Video(video_id="v")))
    found = face(videos.get_job("1"))
    assert found is not None
    assert (found.id, found.name, found.data, found.added) == ("1", "named", Video(video_id="v"), False)
    assert face(missing.refresh()).data == Video(video_id="v")  # the same id


def test_attributes_are_as_last_read(face: Face, rig: Rig, videos: Any) -> None:
    job = face(videos.add(Video(video_id="v")))
    lease = rig.lease(now_ms=_now_ms())
    rig.run(ops.progress(lease, b'{"frame":5}'))
    rig.run(ops.log(lease, ["one", "two", "three"], keep=None))
    assert job.progress == 0
    assert job.processed_on is None
    assert face(job.refresh()).progress == {"frame": 5}
    assert job.processed_on is not None
    assert face(job.logs()) == ["one", "two", "three"]
    assert face(job.logs(1, 1)) == ["two"]
    assert face(job.logs(-1)) == ["three"]
    assert face(job.state()) == "active"


def test_a_payload_of_another_producer_that_does_not_fit_is_named_when_it_is_read(
    face: Face, rig: Rig, videos: Any
) -> None:
    rig.add(data=b'{"video": 1}')
    (job,) = face(videos.jobs())
    with pytest.raises(PayloadError, match="video_id"):
        _ = job.data


def test_jobs_are_listed_by_state_in_order_with_pages(face: Face, rig: Rig, videos: Any) -> None:
    face(videos.add_bulk([("n", Video(video_id=str(n))) for n in range(5)]))
    face(videos.add_bulk([Video(video_id=str(n)) for n in range(5, 8)], priority=1))
    face(videos.add_bulk([Video(video_id=str(n)) for n in range(8, 10)], delay="1h"))
    assert [complete(rig, {"path": "x"}, ALL_KEPT) for _ in range(2)] == ["1", "2"]

    def ids(*states: Any, **page: int) -> list[str]:
        return [job.id for job in face(videos.jobs(*states, **page))]

    assert ids("waiting") == ["3", "4", "5"]
    assert set(ids("completed")) == {"1", "2"}
    assert ids("prioritized", "delayed") == ["6", "7", "8", "9", "10"]
    assert ids("delayed", "waiting") == ["9", "10", "3", "4", "5"]
    assert ids("waiting", "prioritized", offset=2, limit=2) == ["5", "6"]
    assert ids("waiting", "prioritized", offset=4, limit=9) == ["7", "8"]
    assert ids("waiting", limit=0) == ids("waiting", offset=9) == ids("failed") == []
    assert sorted(map(int, ids())) == list(range(1, 11))
    with pytest.raises(ValueError, match='"waiting"'):
        ids("waitng")
    with pytest.raises(ValueError, match="limit is a whole number, 0 or more; not -1"):
        ids("waiting", limit=-1)


@pytest.mark.parametrize("face", ["sync"], indirect=True)  # large, and one talk for both
def test_long_lists_come_whole(face: Face, videos: Any) -> None:
    face(videos.add_bulk([Video(video_id=str(n)) for n in range(2500)]))
    assert [int(job.id) for job in face(videos.jobs("waiting", limit=10_000))] == list(range(1, 2501))
    assert [int(job.id) for job in face(videos.jobs("waiting", offset=900, limit=1500))] == list(range(901, 2401))


# ---- results ----


def test_a_result_comes_in_its_type(face: Face, rig: Rig, videos: Any) -> None:
    job = face(videos.add(Video(video_id="v")))
    with pytest.raises(TimeoutError, match="it is waiting"):
        face(job.result(timeout=0.05))
    complete(rig, {"path": "/out"}, ALL_KEPT)
    assert face(job.result(timeout="5s")) == Transcoded(path="/out")
    assert job.usage == Usage(peak_rss_bytes=5, cpu_s=0.5, wall_s=1.0)
    assert job.finished_on is not None
    assert (job.failure, job.failed_reason, job.attempts_made) == (None, None, 1)


@pytest.mark.parametrize("keep", [NONE_KEPT, ALL_KEPT])
def test_a_result_that_comes_later_is_waited_for(face: Face, rig: Rig, videos: Any, keep: WireKeep) -> None:
    job = face(videos.add(Video(video_id="v")))
    thread = soon(lambda: complete(rig, {"path": "/out"}, keep))
    started_s = time.monotonic()
    assert face(job.result(timeout=10)) == Transcoded(path="/out")
    assert 0.05 < time.monotonic() - started_s < 3
    thread.join()


def test_results_of_jobs_that_were_removed_on_completion_are_found(face: Face, rig: Rig, videos: Any) -> None:
    jobs = face(videos.add_bulk([Video(video_id=str(n)) for n in range(300)]))
    for n in range(300):
        complete(rig, {"path": str(n)})
    assert face(videos.get_job(jobs[0].id)) is None
    assert [face(job.result(timeout=5)).path for job in jobs] == [str(n) for n in range(300)]
    assert jobs[7].data == Video(video_id="7")
    assert face(videos.handle(jobs[9].id).result(timeout=5)) == Transcoded(path="9")


def test_a_result_is_gone_only_when_its_event_is(face: Face, rig: Rig, videos: Any) -> None:
    job = face(videos.add(Video(video_id="v")))
    complete(rig, {"path": "x"})
    assert face(job.result(timeout=5)).path == "x"
    rig.raw.xtrim(rig.key("events"), maxlen=0)
    with pytest.raises(ResultGone, match=f"job {job.id} is not in queue q"):
        face(job.result(timeout=5))
    with pytest.raises(ResultGone):
        face(videos.handle("never").result(timeout=5))


def test_a_failure_has_its_reason(face: Face, rig: Rig, videos: Any) -> None:
    job = face(videos.add(Video(video_id="v")))
    failure = Failure("signal", "killed by signal 9", signal=9, last_logs=("a", "b"), last_progress=0.5)
    fail(rig, failure)
    with pytest.raises(JobFailed, match="killed by signal 9") as caught:
        face(job.result(timeout=5))
    assert (caught.value.reason, caught.value.job_id) == ("signal", job.id)
    assert job.failure == failure
    assert job.failed_reason == "killed by signal 9"


def test_a_failure_of_a_job_that_was_removed_still_has_its_message(face: Face, rig: Rig, videos: Any) -> None:
    job = face(videos.add(Video(video_id="v"), remove_on_fail=True))
    thread = soon(lambda: fail(rig, Failure("timeout", "too slow"), NONE_KEPT))  # type: ignore[arg-type]
    with pytest.raises(JobFailed, match="too slow"):
        face(job.result(timeout=5))
    thread.join()


def test_a_result_that_does_not_fit_is_an_error_that_names_the_field(face: Face, rig: Rig, videos: Any) -> None:
    job = face(videos.add(Video(video_id="v")))
    complete(rig, {"paht": "x"}, ALL_KEPT)
    with pytest.raises(JobError, match=r"completed, but the result .* does not fit Transcoded: path"):
        face(job.result(timeout=5))


def test_a_nan_in_a_result_is_nan_again(face: Face, rig: Rig, videos: Any) -> None:
    job = face(videos.add(Video(video_id="v")))
    complete(rig, {"path": "x", "loss": None}, ALL_KEPT)
    assert math.isnan(face(job.result(timeout=5)).loss)


def test_a_result_that_nobody_typed_is_plain_json(rig: Rig, valkey: Valkey, q: QueueKey) -> None:
    job = Queue(q.name, prefix=q.prefix, connection=valkey.url).add({})
    complete(rig, [1, {"a": None}])
    assert job.result(timeout=5) == [1, {"a": None}]


def test_a_queue_that_is_emptied_ends_the_wait(
    face: Face, rig: Rig, videos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "LOOK_AGAIN_S", 0.3)
    job = face(videos.add(Video(video_id="v")))
    thread = soon(lambda: rig.raw.delete(rig.key(job.id), rig.key("wait")))  # as BullMQ's drain does: no event
    with pytest.raises(ResultGone):
        face(job.result(timeout=30))
    thread.join()


def test_many_threads_wait_for_results_at_once(rig: Rig, both: Queue[Video, Transcoded]) -> None:
    jobs = both.add_bulk([Video(video_id=str(n)) for n in range(20)])
    found: dict[str, str] = {}

    def wait(job: Any) -> None:
        found[job.id] = job.result(timeout=20).path

    threads = [threading.Thread(target=wait, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for job in jobs:
        complete(rig, {"path": job.id})
    for thread in threads:
        thread.join()
    assert found == {job.id: job.id for job in jobs}


# ---- Redis away ----


def test_a_server_that_does_not_answer_makes_an_add_unknown(own_valkey: Callable[..., Valkey]) -> None:
    server = own_valkey()
    heavyq.connect(server.url, timeout="300ms")
    queue = Queue("v")
    queue.add({})
    server.pause()
    try:
        with pytest.raises(AddUnknown, match=r"may be in queue 'v'"):
            queue.add({})
        with pytest.raises(RedisUnavailable) as caught:  # no connection is had any more, so nothing is sent
            queue.add_bulk([{}, {}])
        assert not isinstance(caught.value, AddUnknown)
    finally:
        server.resume()
    # The first was sent, and the server carried it out: unknown was the right word for it.
    eventually(lambda: queue.counts()["waiting"] == 2, 5, "what was sent has happened")


def test_a_server_that_is_not_there_is_unavailable_and_nothing_was_added(own_valkey: Callable[..., Valkey]) -> None:
    server = own_valkey(aof=True)
    heavyq.connect(server.url)
    queue = Queue("v")
    queue.add({})

    def while_down() -> None:
        with pytest.raises(RedisUnavailable) as caught:
            queue.add({})
        assert not isinstance(caught.value, AddUnknown)

    server.restart(while_down=while_down)
    queue.add({})
    assert queue.counts()["waiting"] == 2


def test_a_wrong_password_is_refused(own_valkey: Callable[..., Valkey]) -> None:
    server = own_valkey(password="right")
    with pytest.raises(RedisRefused, match="password"):
        Queue("v", connection=server.url.replace("right", "wrong")).add({})


def test_a_restart_of_redis_in_the_middle_of_a_wait_is_sat_out(own_valkey: Callable[..., Valkey]) -> None:
    from heavyq.bullmq.keys import QueueKey
    from heavyq.store.client import Client

    server = own_valkey(aof=True)
    heavyq.connect(server.url)
    job = Queue("v").add({})
    client = Client(server.url)

    def restart_and_complete() -> None:
        server.restart()
        with server.redis() as raw:
            complete(Rig(client, raw, QueueKey("bull", "v")), 42)

    thread = soon(restart_and_complete)
    assert job.result(timeout=30) == 42
    thread.join()
    client.close()


def test_a_profile_s_own_retention_is_written(rig: Rig, valkey: Valkey, q: QueueKey) -> None:
    queue = Queue(q.name, prefix=q.prefix, connection=valkey.url, profile=HEAVY, remove_on_fail=Keep(count=3, age="1d"))
    opts = json.loads(rig.hash(queue.add({}).id)["opts"])
    assert opts["removeOnComplete"] == 100
    assert opts["removeOnFail"] == {"count": 3, "age": 86400, "limit": 1000}
