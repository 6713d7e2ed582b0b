"""What an add checks, what it would write, and what it says when there is no answer. Without a server."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from heavyq import HEAVY, AddUnknown, Keep, Model, PayloadError, PayloadTooLarge, Queue, exponential, fixed
from heavyq.bullmq.ops.add import Added
from heavyq.errors import BadValue, RedisReplyError, RedisUnavailable, UnknownOption
from heavyq.queue import connection
from tests.support.fresh import forget_declarations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heavyq.bullmq.op import Op


class Video(Model):
    video_id: str


class Redis:
    """Answers adds, and remembers what was asked."""

    def __init__(self) -> None:
        self.ops: list[Op[Any]] = []
        self.trips = 0
        self.answers: list[Any] = []
        self.failure: Exception | None = None

    def run_many(self, ops: Sequence[Op[Any]]) -> list[Any]:
        self.trips += 1
        self.ops += ops
        if self.failure is not None:
            raise self.failure
        return self.answers or [Added(str(n), existed=False) for n, _ in enumerate(ops, 1)]

    @property
    def sent(self) -> dict[str, Any]:
        """The last add, by argument."""
        names = ("name", "data", "opts", "timestamp", "delay", "priority", "lifo", "job_id")
        fields: dict[str, Any] = dict(zip(names, self.ops[-1].args, strict=False))
        return fields | {"data": json.loads(fields["data"]), "opts": json.loads(fields["opts"])}


@pytest.fixture(autouse=True)
def redis(monkeypatch: pytest.MonkeyPatch) -> Redis:
    forget_declarations(monkeypatch)
    stand_in = Redis()
    monkeypatch.setattr(connection, "client", lambda _url: stand_in)
    return stand_in


def test_a_payload_alone_is_a_job_named_process(redis: Redis) -> None:
    job = Queue("v", payload=Video).add(Video(video_id="v1"))
    assert redis.ops[-1].keys == ("bull:v:meta",)
    assert (redis.sent["name"], redis.sent["data"]) == ("process", {"videoId": "v1"})
    assert (job.id, job.added, job.name, job.data, job.progress) == ("1", True, "process", Video(video_id="v1"), 0)
    assert (job.usage, job.failure, job.attempts_made, job.finished_on) == (None, None, 0, None)
    assert abs((job.timestamp - datetime.now(UTC)).total_seconds()) < 5
    assert redis.trips == 1  # attributes ask nothing


def test_options_of_the_add_win_over_the_queue_s_and_those_over_the_profile_s(redis: Redis) -> None:
    heavy = {"attempts": 2, "backoff": {"type": "fixed", "delay": 60_000}, "removeOnComplete": 100}
    Queue("plain", profile=HEAVY).add({})
    assert redis.sent["opts"].items() >= heavy.items()
    videos = Queue("v", profile=HEAVY, attempts=5, priority=3)
    videos.add({})
    assert redis.sent["opts"].items() >= {**heavy, "attempts": 5, "priority": 3}.items()
    assert redis.sent["priority"] == 3
    videos.add({}, attempts=7, backoff=exponential("2s", jitter=0.5), priority=0, remove_on_complete=Keep(age="1d"))
    assert redis.sent["opts"]["attempts"] == 7
    assert redis.sent["opts"]["backoff"] == {"type": "exponential", "delay": 2000, "jitter": 0.5}
    assert redis.sent["opts"]["removeOnComplete"] == {"age": 86400, "limit": 1000}
    assert redis.sent["priority"] == 0


def test_the_standard_options_are_those_of_the_contract(redis: Redis) -> None:
    Queue("v").add({})
    assert redis.sent["opts"] == {
        "attempts": 3,
        "backoff": {"type": "exponential", "delay": 1000},
        "removeOnComplete": True,
        "removeOnFail": False,
    }


def test_every_option_of_an_add_reaches_the_wire(redis: Redis) -> None:
    at = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
    Queue("v").add(
        "named", {}, delay="5m", lifo=True, job_id="one", timestamp=at, keep_logs=5, stack_trace_limit=2,
        size_limit=100, remove_on_fail=10, backoff=fixed("3s"),
    )  # fmt: skip
    at_ms = int(at.timestamp() * 1000)
    expected = {"name": "named", "timestamp": at_ms, "delay": 300_000, "lifo": 1, "job_id": "one"}
    assert redis.sent.items() >= expected.items()
    assert redis.sent["opts"] == {
        "attempts": 3,
        "backoff": {"type": "fixed", "delay": 3000},
        "delay": 300_000,
        "jobId": "one",
        "kl": 5,
        "lifo": True,
        "removeOnComplete": True,
        "removeOnFail": 10,
        "sizeLimit": 100,
        "stackTraceLimit": 2,
        "timestamp": at_ms,
    }


def test_a_computed_delay_may_be_long(redis: Redis) -> None:
    Queue("v").add({}, delay=86_400.5)
    assert redis.sent["delay"] == 86_400_500


# ---- refused before anything is sent ----


@pytest.mark.parametrize("job_id", ["", "0", "12", "-3", "a:b", "0:x", "wait", "meta", "id", "stalled-check", 5, None])
def test_ids_that_bullmq_or_the_queue_could_not_hold_are_refused(redis: Redis, job_id: Any) -> None:
    with pytest.raises(BadValue, match="job_id"):
        Queue("v").add({}, job_id=job_id)
    assert redis.trips == 0


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"dellay": 5}, UnknownOption, 'did you mean "delay"'),
        ({"removeOnComplete": 5}, UnknownOption, "remove_on_complete"),
        ({"concurrency": 5}, UnknownOption, "concurrency"),
        ({"priority": 2_097_152}, BadValue, "priority"),
        ({"priority": -1}, BadValue, "priority"),
        ({"priority": 1.5}, BadValue, "priority"),
        ({"delay": -1}, BadValue, "delay"),
        ({"attempts": "two"}, BadValue, "attempts"),
        ({"backoff": 5}, BadValue, "fixed"),
        ({"timestamp": datetime(2025, 1, 2)}, BadValue, "aware"),  # noqa: DTZ001 - the mistake
        ({"timeout": "-1s"}, BadValue, "timeout"),
        ({"deduplication": ""}, BadValue, "deduplication"),
        ({"parent": "bull:v:1"}, BadValue, "is no job"),
        ({"parent": SimpleNamespace(id="1")}, BadValue, "is no job"),
        ({"fail_parent_on_failure": True, "ignore_dependency_on_failure": True}, BadValue, "only one of them"),
    ],
)
def test_options_that_make_no_sense_are_refused(redis: Redis, options: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        Queue("v").add({}, **options)
    assert redis.trips == 0


def test_a_payload_that_does_not_fit_is_refused_and_the_field_named(redis: Redis) -> None:
    videos = Queue("v", payload=Video)
    with pytest.raises(PayloadError, match=r"payload of queue 'v' does not fit Video: video_id"):
        videos.add({"video": "v1"})  # type: ignore[call-overload]
    with pytest.raises(PayloadError, match=r"^add_bulk to queue 'v', job 1: the payload .*video_id"):
        videos.add_bulk([("process", Video(video_id="v1")), ("process", {"video": 1})])  # type: ignore[list-item]
    with pytest.raises(PayloadError, match="dict"):
        Queue("untyped").add("welcome")  # type: ignore[call-overload]
    assert redis.trips == 0


def test_a_payload_over_its_limit_is_refused_in_bytes_not_letters(redis: Redis) -> None:
    with pytest.raises(PayloadTooLarge, match=r"1048578 bytes as JSON, and max_payload is 1Mi"):
        Queue("v", payload=str).add("x" * 1024 * 1024)
    small = Queue("small", payload=str, max_payload=10)
    small.add("éééé")
    with pytest.raises(PayloadTooLarge, match="max_payload is 10"):
        small.add("ééééé")
    with pytest.raises(PayloadTooLarge, match="size_limit is 5"):
        small.add("éééé", size_limit=5)
    assert redis.trips == 1


def test_a_call_that_is_no_add_is_a_type_error() -> None:
    calls: list[Any] = [(), ("a", {}, {})]
    for what in calls:
        with pytest.raises(TypeError, match="a payload, or a name and a payload"):
            Queue("v").add(*what)
    with pytest.raises(TypeError, match=r"options go by name: add\(name, payload, delay=...\)"):
        Queue("v").add("a", {}, {"delay": 5})  # type: ignore[call-overload]
    with pytest.raises(BadValue, match="name is text"):
        Queue("v").add(5, {})  # type: ignore[call-overload]


# ---- bulk ----


def test_a_bulk_is_one_round_trip_in_order(redis: Redis) -> None:
    jobs = Queue("v").add_bulk([("a", {"n": 1}), ("b", {"n": 2}, {"delay": 5, "attempts": 9}), {"n": 3}], attempts=4)
    assert redis.trips == 1
    assert [op.args[0] for op in redis.ops] == ["a", "b", "process"]
    assert [json.loads(op.args[2])["attempts"] for op in redis.ops] == [4, 9, 4]  # type: ignore[arg-type]
    assert [job.data["n"] for job in jobs] == [1, 2, 3]
    assert Queue("v").add_bulk([]) == []
    assert redis.trips == 1


def test_a_bulk_with_one_bad_job_sends_nothing(redis: Redis) -> None:
    with pytest.raises(UnknownOption, match="job 1"):
        Queue("v").add_bulk([("a", {}), ("b", {}, {"dellay": 1})])  # type: ignore[typeddict-unknown-key]
    with pytest.raises(BadValue, match="job_id"):
        Queue("v").add_bulk([("a", {}), ("b", {})], job_id="one")
    assert redis.trips == 0


def test_a_bulk_that_was_partly_refused_says_how_much_was_added(redis: Redis) -> None:
    redis.answers = [Added("1", existed=False), RedisReplyError("WRONGTYPE"), Added("2", existed=False)]
    with pytest.raises(RedisReplyError) as caught:
        Queue("v").add_bulk([("a", {}), ("b", {}), ("c", {})])
    assert caught.value.__notes__ == ["add_bulk to queue 'v': 2 of 3 jobs were added"]


def test_jobs_of_a_name_with_types_of_its_own_are_checked_by_them(redis: Redis) -> None:
    videos = Queue("v", payload=Video)
    counts = videos.named("count", payload=int)
    assert counts.add(5, priority=1).data == 5
    assert (redis.sent["name"], redis.sent["data"], redis.sent["priority"]) == ("count", 5, 1)
    assert [job.data for job in counts.add_bulk([1, 2])] == [1, 2]
    with pytest.raises(PayloadError, match="job 'count' of queue 'v'"):
        videos.add("count", Video(video_id="x"))


# ---- no answer ----


def test_an_add_without_an_answer_is_unknown(redis: Redis) -> None:
    redis.failure = RedisUnavailable("Timeout reading from socket")
    with pytest.raises(AddUnknown, match=r"the job may be in queue 'v' or not .*; pass a job_id") as caught:
        Queue("v").add({})
    assert isinstance(caught.value, RedisUnavailable)
    with pytest.raises(AddUnknown, match="repeat the add"):
        Queue("v").add({}, job_id="one")
    with pytest.raises(AddUnknown, match="any of the 2 jobs"):
        Queue("v").add_bulk([("a", {}), ("b", {})])
    assert redis.trips == 3  # nothing is sent twice


def test_an_add_that_was_never_sent_is_not_unknown(redis: Redis) -> None:
    redis.failure = RedisUnavailable("Error connecting")
    redis.failure.nothing_happened = True
    with pytest.raises(RedisUnavailable) as caught:
        Queue("v").add({})
    assert not isinstance(caught.value, AddUnknown)


def test_an_add_that_the_server_refused_is_not_unknown(redis: Redis) -> None:
    redis.answers = [RedisUnavailable("OOM command not allowed")]
    with pytest.raises(RedisUnavailable) as caught:
        Queue("v").add({})
    assert not isinstance(caught.value, AddUnknown)


def test_threads_may_add_to_one_queue(redis: Redis) -> None:
    videos = Queue("v", payload=Video)
    threads = [threading.Thread(target=lambda: [videos.add(Video(video_id="x")) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(redis.ops) == 200
