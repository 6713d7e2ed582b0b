"""Declaring queues: names, options, one queue from several places, its prefix, its connection, its processors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import heavyq
from heavyq import HEAVY, LIGHT, STANDARD, Keep, Model, Queue, exponential, fixed
from heavyq.bullmq.keys import QueueKey
from heavyq.errors import BadValue, ConfigError, NotBuiltYet, UnknownOption
from heavyq.queue import connection, registry
from tests.support.fresh import forget_declarations

if TYPE_CHECKING:
    from collections.abc import Callable


class Video(Model):
    video_id: str


class Thumb(Model):
    at_s: float


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_declarations(monkeypatch)


# ---- names and options ----


@pytest.mark.parametrize("name", ["", "a:b", ":", 5, None, b"q"])
def test_a_name_that_bullmq_refuses_is_refused(name: Any) -> None:
    # conformance: C-003
    with pytest.raises(BadValue, match="queue's name"):
        Queue(name)
    assert registry.queues() == []


@pytest.mark.parametrize("name", ["process-video", "é", "a b", "{tag}"])
def test_other_names_are_taken(name: str) -> None:
    assert Queue(name).name == name


def test_an_unknown_option_is_a_type_error_that_names_the_nearest() -> None:
    with pytest.raises(TypeError, match=r"Queue\('v'\) has no option 'concurency' \(did you mean \"concurrency\"\?\)"):
        Queue("v", concurency=2)  # type: ignore[call-arg]
    with pytest.raises(UnknownOption, match="remove_on_complete"):
        Queue("v", removeOnComplete=True)  # type: ignore[call-arg]
    assert registry.queues() == []


def test_options_are_checked_where_they_are_declared() -> None:
    with pytest.raises(ValueError, match="lock_duration: 30000 looks like milliseconds"):
        Queue("v", lock_duration=30_000)
    with pytest.raises(NotBuiltYet, match="timeout_grace"):
        Queue("v", timeout_grace="2h")  # type: ignore[call-arg]
    with pytest.raises(BadValue, match="memory_request 2Gi is above memory_limit 1Gi"):
        Queue("v", memory_request="2Gi", memory_limit="1Gi")
    with pytest.raises(BadValue, match="job_id belongs to one add"):
        Queue("v", job_id="one")  # type: ignore[call-arg]
    with pytest.raises(BadValue, match="no Profile"):
        Queue("v", profile="heavy")  # type: ignore[arg-type]
    with pytest.raises(BadValue, match=r"payload of Queue.*Barrier"):
        Queue("v", payload=threading.Barrier)
    with pytest.raises(ConfigError, match="Redis URL"):
        Queue("v", connection=object())  # type: ignore[arg-type]
    with pytest.raises(BadValue, match="prefix"):
        Queue("v", prefix="")


def test_code_options_are_what_the_code_says_in_seconds_and_bytes() -> None:
    videos = Queue("v", profile=HEAVY, lock_duration="5m", recycle_rss="1Gi", attempts=4, backoff=fixed("2s"))
    assert videos.code_options == {"lock_duration": 300.0, "recycle_rss": 1024**3}
    assert videos.profile is HEAVY


def test_the_profile_is_the_queue_s_then_that_of_connect_then_standard() -> None:
    assert Queue("a").profile is STANDARD
    heavyq.connect("redis://localhost", profile=LIGHT)
    assert Queue("a").profile is LIGHT
    assert Queue("b", profile=HEAVY).profile is HEAVY


# ---- one queue, declared in several places ----


def test_two_queues_of_one_name_are_one_queue() -> None:
    first = Queue("v", profile=HEAVY, attempts=2)
    second = Queue("v", lock_duration="1m", attempts=2)
    assert second is first
    assert first.code_options == {"lock_duration": 60.0}
    assert registry.queues() == [first]


def test_one_name_under_two_prefixes_is_two_queues() -> None:
    assert Queue("v", prefix="a") is not Queue("v", prefix="b")
    assert len(registry.queues()) == 2


def test_the_default_prefix_may_be_written_out() -> None:
    assert Queue("v") is Queue("v", prefix="bull")
    assert Queue("w", prefix="bull") is Queue("w")


def test_options_that_contradict_each_other_show_both_places() -> None:
    Queue("v", attempts=2, backoff=exponential("1s"))
    with pytest.raises(ValueError, match=r"attempts differs: 2 at .*, 5 at ") as caught:
        Queue("v", attempts=5)
    lines = Path(__file__).read_text().splitlines()
    shown = re.findall(r"test_queue\.py:(\d+)", str(caught.value))
    assert ["attempts=2" in lines[int(shown[0]) - 1], "attempts=5" in lines[int(shown[1]) - 1]] == [True, True]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"payload": Video}, {"payload": Thumb}),
        ({"result": int}, {"result": str}),
        ({"profile": HEAVY}, {"profile": LIGHT}),
        ({"connection": "redis://a"}, {"connection": "redis://b"}),
        ({"remove_on_complete": 5}, {"remove_on_complete": Keep(count=6)}),
        ({"backoff": fixed(1)}, {"backoff": fixed(2)}),
        ({"concurrency": 1}, {"concurrency": 2}),
    ],
)
def test_every_kind_of_contradiction_is_found_and_changes_nothing(one: Any, other: Any) -> None:
    queue = Queue("v", **one)
    before = dict(queue.code_options)
    with pytest.raises(ValueError, match="declared twice"):
        Queue("v", **other, nice=3)
    assert dict(queue.code_options) == before


def test_the_same_in_other_words_is_no_contradiction() -> None:
    Queue("v", lock_duration="5m", payload=Video)
    assert Queue("v", lock_duration=300, payload=Video).code_options == {"lock_duration": 300.0}


def test_a_module_that_is_run_again_replaces_what_it_said() -> None:
    text = "from heavyq import Queue, Model\nclass Video(Model):\n    video_id: str\n"
    text += "videos = Queue('v', payload=Video, attempts=2)\n"
    text += "@videos.processor\ndef run(job): return 1\n"
    for attempts in (2, 3):
        exec(compile(text.replace("attempts=2", f"attempts={attempts}"), "shop.py", "exec"), {"__name__": "shop"})
    (queue,) = registry.queues()
    assert queue._link.declaration.options.job == {"attempts": 3}
    assert len(queue.processors) == 1


def test_types_that_are_declared_later_hold_for_what_was_declared_before() -> None:
    untyped = Queue("v")

    @untyped.processor
    def run(job: Any) -> None: ...

    Queue("v", payload=Video)
    found = untyped.processor_of("any")
    assert found is not None
    assert found.payload_codec.decode(b'{"videoId": "v1"}') == Video(video_id="v1")


def test_threads_that_declare_one_queue_get_one() -> None:
    found: list[Queue] = []
    gate = threading.Barrier(8)

    def declare() -> None:
        gate.wait()
        found.append(Queue("v", attempts=2))

    threads = [threading.Thread(target=declare) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (queue,) = registry.queues()
    assert {each._link for each in found} == {queue._link}


# ---- prefix and connection ----


def test_the_prefix_is_the_queue_s_then_connect_s_then_the_worker_s_then_the_environment_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue, own = Queue("v"), Queue("w", prefix="own")
    assert queue.key() == QueueKey("bull", "v")
    monkeypatch.setenv("HEAVYQ_PREFIX", "env")
    assert queue.key() == QueueKey("env", "v")
    connection.set_worker_default(None, "worker")
    assert queue.key() == QueueKey("worker", "v")
    assert queue.key("asked") == QueueKey("asked", "v")
    heavyq.connect("redis://localhost", prefix="code")
    assert queue.key("asked") == QueueKey("code", "v")
    assert own.key("asked") == QueueKey("own", "w")


def test_a_queue_is_found_by_its_qualified_name() -> None:
    queue, own = Queue("v"), Queue("v", prefix="own")
    assert registry.queue_of("own", "v") is own
    assert registry.queue_of("bull", "v") is queue
    assert registry.queue_of("the-worker-s", "v") is queue
    with pytest.raises(ConfigError, match="no queue 'x'"):
        registry.queue_of("bull", "x")


def test_the_connection_is_resolved_in_the_order_of_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def make(url: str, timeout_s: float) -> object:
        made.append(url)
        return object()

    monkeypatch.setattr("heavyq.store.client.Client", make)
    monkeypatch.setattr(connection, "_clients", {})
    monkeypatch.setattr("heavyq.store.embedded.ensure", lambda: "unix:///embedded")
    monkeypatch.setattr("heavyq.store.embedded.notice", lambda: "embedded")
    queue, own = Queue("v"), Queue("w", connection="redis://own")

    def used_by(each: Queue) -> str:
        connection._clients.clear()
        each._link.client()
        return made[-1]

    assert used_by(queue) == "unix:///embedded"
    monkeypatch.setenv("REDIS_URL", "redis://redis-url")
    assert used_by(queue) == "redis://redis-url"
    monkeypatch.setenv("HEAVYQ_REDIS", "redis://heavyq-redis")
    assert used_by(queue) == "redis://heavyq-redis"
    connection.set_worker_default("redis://worker", "bull")
    assert used_by(queue) == "redis://worker"
    assert queue.connection_url is None
    heavyq.connect("redis://connect")
    assert used_by(queue) == queue.connection_url == "redis://connect"
    assert used_by(own) == own.connection_url == "redis://own"


def test_without_any_redis_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEAVYQ_EMBEDDED", "0")
    with pytest.raises(ConfigError, match="HEAVYQ_REDIS"):
        Queue("v").add({})


def test_connect_checks_what_it_is_given() -> None:
    for wrong in ("localhost:6379", "", object()):
        with pytest.raises(BadValue, match="redis://"):
            heavyq.connect(wrong)  # type: ignore[arg-type]
    with pytest.raises(BadValue, match="timeout"):
        heavyq.connect("redis://localhost", timeout=0)
    with pytest.raises(BadValue, match="prefix"):
        heavyq.connect("redis://localhost", prefix="")
    with pytest.raises(BadValue, match="Profile"):
        heavyq.connect("redis://localhost", profile="light")  # type: ignore[arg-type]
    assert connection.default_url() is None


# ---- processors ----


def test_the_decorated_function_stays_a_plain_function() -> None:
    videos = Queue("v")

    def run(job: Any) -> str:
        return "ran"

    assert videos.processor(run) is run
    assert videos.processor("a", "b")(run) is run
    assert set(videos.processors) == {None, "a", "b"}
    assert run(None) == "ran"


def test_names_choose_the_function() -> None:
    videos = Queue("v")

    @videos.processor("a", "b")
    def named(job: Any) -> None: ...

    assert videos.processor_of("a") is not None
    assert videos.processor_of("c") is None

    @videos.processor()
    def every(job: Any) -> None: ...

    def function(name: str) -> Callable[..., Any] | None:
        found = videos.processor_of(name)
        return None if found is None else found.function

    assert function("a") is named
    assert function("c") is every


def test_two_functions_for_one_name_show_both() -> None:
    videos = Queue("v")

    @videos.processor("a")
    def one(job: Any) -> None: ...

    with pytest.raises(BadValue, match=r"two processors for jobs named 'a': .*one.* and .*two"):

        @videos.processor("a")
        def two(job: Any) -> None: ...


@pytest.mark.parametrize("what", [5, None, b"a", ""])
def test_what_is_no_function_and_no_name_is_refused(what: Any) -> None:
    with pytest.raises(BadValue, match="processor takes a function, or names"):
        Queue("v").processor(what)


def test_a_job_name_has_types_of_its_own() -> None:
    videos = Queue("v", payload=Video)
    thumbs = videos.named("thumbnail", payload=Thumb, result=int)

    @thumbs.processor
    def thumb(job: Any) -> int:
        return 1

    @videos.processor
    def transcode(job: Any) -> None: ...

    one, other = videos.processor_of("thumbnail"), videos.processor_of("process")
    assert one is not None
    assert other is not None
    assert one.payload_codec.decode(b'{"atS": 1}') == Thumb(at_s=1)
    assert other.payload_codec.decode(b'{"videoId": "a"}') == Video(video_id="a")
    with pytest.raises(ValueError, match="result of job 'thumbnail' of queue 'v'"):
        one.result_codec.encode("x")
    with pytest.raises(ValueError, match="declared twice"):
        videos.named("thumbnail", payload=Video)
    with pytest.raises(BadValue, match="name"):
        videos.named("")


# ---- what is told when something has happened ----


def test_functions_are_called_on_the_events_that_they_name() -> None:
    videos = Queue("v")

    @videos.on("failed", "stalled", "failed")
    def tell(event: Any) -> None: ...

    @videos.on("failed")
    async def mend(event: Any) -> None: ...

    assert dict(videos.hooks) == {"failed": [tell, mend], "stalled": [tell]}
    assert Queue("v").hooks == videos.hooks


def test_a_module_that_is_run_again_replaces_its_hooks_and_its_strategy() -> None:
    videos = Queue("v")
    module = (
        "@videos.on('failed')\ndef tell(event): ...\n@videos.backoff_strategy\ndef wait(made, kind, error, job): ...\n"
    )
    for _ in range(2):
        names: dict[str, Any] = {"videos": videos}
        exec(compile(module, "app.py", "exec"), names)
    assert videos.hooks["failed"] == [names["tell"]]
    assert videos.strategy is names["wait"]


@pytest.mark.parametrize("events", [(), ("done",), ("failed", "active"), (print,)])
def test_a_hook_names_events_that_there_are(events: Any) -> None:
    with pytest.raises(BadValue, match="completed, failed, retrying, stalled"):
        Queue("v").on(*events)
    with pytest.raises(BadValue, match="decorates a function"):
        Queue("v").on("failed")(5)  # type: ignore[type-var]


def test_a_queue_has_one_backoff_strategy() -> None:
    videos = Queue("v")
    assert videos.strategy is None

    @videos.backoff_strategy
    def wait(made: int, kind: str, error: Exception, job: Any) -> str:
        return "5s"

    assert videos.strategy is wait
    with pytest.raises(BadValue, match=r"two backoff strategies: .*wait.* and .*other"):

        @videos.backoff_strategy
        def other(made: int, kind: str, error: Exception, job: Any) -> int:
            return -1

    with pytest.raises(BadValue, match="without arguments"):
        videos.backoff_strategy(5)  # type: ignore[type-var]


# ---- where it runs ----


def test_producers_need_nothing_that_only_linux_has() -> None:
    code = """
import sys
for name in ("fcntl", "resource", "pwd", "grp", "termios", "psutil", "setproctitle"):
    sys.modules[name] = None
import asyncio, redis.asyncio, pydantic.type_adapter  # they know what they run on
sys.platform = "win32"
from heavyq import ConfigError, Flow, Model, Queue
from heavyq.store import embedded
queue = Queue("v", connection="redis://127.0.0.1:1")
from heavyq import RedisUnavailable
for ask in (lambda: queue.add({}), lambda: asyncio.run(queue.aio.add({})), lambda: Flow(queue, {}).add()):
    try:
        ask()
    except RedisUnavailable:
        print("asked")
try:
    Queue("w").add({})
except ConfigError as error:
    print("HEAVYQ_REDIS" in str(error))
"""
    env = {name: value for name, value in os.environ.items() if name not in ("HEAVYQ_REDIS", "REDIS_URL")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
    assert (done.stdout.split(), done.stderr) == (["asked", "asked", "asked", "True"], "")
