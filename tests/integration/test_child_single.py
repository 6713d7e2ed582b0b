"""A child of one seat: a real process and its real socket, we are the supervisor."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from heavyq.core.outcome import Failure
from heavyq.job import wire
from tests.support.child import Child

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.valkey import Valkey

SHOP = """
    import asyncio, contextlib, contextvars, logging, os, time
    from heavyq import Queue, RateLimited, RetryAfter, Snooze, Unrecoverable, WaitForChildren
    from heavyq import around_job, child_start, child_stop

    q = Queue("q", payload=dict[str, int | str | bool])
    other = Queue("other", result=list[int])
    seen = []
    traced = contextvars.ContextVar("traced", default=None)

    @child_start
    async def start():
        seen.append(asyncio.get_running_loop())

    @child_stop
    async def stop():
        print("stopped on the same loop", asyncio.get_running_loop() is seen[0])

    @around_job
    @contextlib.contextmanager
    def trace(job):
        traced.set(job.id)
        try:
            yield
        except KeyError:
            pass
        finally:
            traced.set(None)

    @around_job
    @contextlib.asynccontextmanager
    async def session(job):
        await asyncio.sleep(0)
        yield
        if job.name == "plain":
            job.log("session over")

    @q.processor("plain")
    def plain(job):
        return [traced.get(), job.parent, job.key, job.opts.attempts]

    @q.processor("async")
    async def works(job):
        async def left():
            try:
                await asyncio.Event().wait()
            finally:
                print("left task ended")
        asyncio.create_task(left())
        await asyncio.sleep(0)
        return [traced.get(), asyncio.get_running_loop() is seen[0]]

    def hidden(function):
        def decorated(job):
            return function(job)
        return decorated

    @q.processor("hidden")
    @hidden
    async def hides(job):
        await asyncio.sleep(0)
        return traced.get()

    @q.processor("raise")
    def raises(job):
        raise {
            "unrecoverable": Unrecoverable("no such file"),
            "snooze": Snooze("10m"),
            "rate": RateLimited("30s"),
            "children": WaitForChildren(),
            "retry": RetryAfter("90s", "the API is down"),
            "swallowed": KeyError("x"),
            "value": ValueError("bad"),
        }[job.data["what"]]

    @q.processor("raise async")
    async def raises_async(job):
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())

    async def fails():
        raise Unrecoverable("no such file")

    @q.processor("too large")
    def too_large(job):
        return "x" * 2000

    @q.processor("update")
    def update(job):
        job.update_data({"step": 2})
        return job.data

    @q.processor("children")
    def children(job):
        return [job.children_values(), job.children_values(other), job.failed_children_values()]

    @q.processor("wrong child")
    def wrong_child(job):
        return job.children_values(Queue("typed", result=int))

    @q.processor("late")
    def late(job):
        seen.append(job)

    @q.processor("later")
    def later(job):
        late_job = next(one for one in seen if hasattr(one, "children_values"))
        late_job.children_values()

    @q.backoff_strategy
    def strategy(attempts_made, kind, error, job):
        print("asked", attempts_made, kind, type(error).__name__, str(error)[:40], job.id)
        return {"never": -1, "now": 0, "text": "2m", "broken": None}[kind]

    @q.on("completed", "failed")
    def told(event):
        print("told", event.name, event.job_id, event.job_name, event.queue_name, event.attempts_made, event.at)
        print("told", event.data, event.result, event.failure and event.failure.reason)
        event.data["a"] = 2

    @q.on("failed")
    def broken(event):
        raise ValueError("hook is broken")

    @q.on("failed")
    async def told_async(event):
        await asyncio.sleep(0)
        logging.getLogger("shop").warning("told of %s", event.data)

    @q.on("stalled")
    def leaves(event):
        import subprocess
        subprocess.Popen(["sleep", "600"])

    logging.basicConfig(format="%(message)s job=%(job_id)s attempt=%(attempt)s", force=True)
"""


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory, valkey: Valkey) -> Iterator[Child]:
    with Child(tmp_path_factory.mktemp("child"), SHOP, env={"HEAVYQ_REDIS": valkey.url}) as child:
        yield child


_numbers = iter(range(100, 10_000))


@pytest.fixture
def run() -> int:
    return next(_numbers)


def test_managers_stand_around_plain_and_async_functions(child, run):
    for number, name in enumerate(("plain", "async", "hidden"), start=run * 100):
        child.job(number, name, parent_key="bull:p:1", fields={b"opts": b'{"attempts": 3}'})
        value = child.result(number)
        first = value if isinstance(value, str) else value[0]
        assert first == str(number)
    assert child.log.count("left task ended") == 1
    child.logged(run * 100, "session over")


def test_job_knows_its_parent_and_its_key(child, run):
    child.job(run, "plain", parent_key="bull:p:1", fields={b"opts": b'{"attempts": 3}'})
    assert child.result(run)[1:] == ["bull:p:1", f"bull:q:{run}", 3]
    child.job(run + 50_000, "plain", fields={b"parentKey": b""})
    assert child.result(run + 50_000)[1] is None


def test_async_job_runs_on_the_loop_of_child_start(child, run):
    child.job(run, "async")
    assert child.result(run)[1] is True


@pytest.mark.parametrize(
    ("what", "kind", "told"),
    [
        ("unrecoverable", wire.FAILURE, {"detail": "no such file", "final": True, "retry_ms": None}),
        ("snooze", wire.LATER, {"what": "snooze", "delay_ms": 600_000}),
        ("rate", wire.LATER, {"what": "rate_limited", "delay_ms": 30_000}),
        ("children", wire.LATER, {"what": "children", "delay_ms": 0}),
        ("retry", wire.FAILURE, {"detail": "the API is down", "final": False, "retry_ms": 90_000}),
        ("value", wire.FAILURE, {"detail": "bad", "final": False, "retry_ms": None}),
        ("swallowed", wire.RESULT, {}),
    ],
)
def test_what_a_job_raises_on_purpose_is_reported_as_that(child, run, what, kind, told):
    child.job(run, "raise", {"what": what})
    frame = child.ended(run)
    assert frame.kind == kind
    assert told.items() <= frame.head.items()
    assert frame.head["usage"]["wall_s"] >= 0


def test_verdict_of_a_task_below_is_the_jobs(child, run):
    child.job(run, "raise async")
    assert child.ended(run).head["final"] is True


def test_trace_shows_the_users_lines(child, run):
    child.job(run, "raise", {"what": "value"})
    lines = child.ended(run).body.decode().splitlines()
    assert lines[0] == "ValueError: bad"
    assert [line for line in lines if "raises" in line], lines
    assert "heavyq/job" not in "\n".join(lines)


# ---- the backoff strategy


def custom(kind: str, attempts: int = 3) -> dict[bytes, bytes]:
    return {b"opts": json.dumps({"attempts": attempts, "backoff": {"type": kind, "delay": 5}}).encode()}


@pytest.mark.parametrize(("kind", "retry_ms"), [("never", -1), ("now", 0), ("text", 120_000), ("fixed", None)])
def test_strategy_is_asked_for_types_that_are_not_bullmqs(child, run, kind, retry_ms):
    child.job(run, "raise", {"what": "value"}, made=1, fields=custom(kind))
    head = child.ended(run).head
    assert (head["retry_ms"], head["final"]) == (retry_ms, False)
    assert (f"asked 2 {kind} ValueError bad {run}" in child.log) == (kind != "fixed")


def test_strategy_is_not_asked_when_no_run_will_follow(child, run):
    child.job(run, "raise", {"what": "value"}, made=2, fields=custom("text"))
    assert child.ended(run).head["retry_ms"] is None
    child.job(run + 50_000, "raise", {"what": "unrecoverable"}, fields=custom("text"))
    assert child.ended(run + 50_000).head["final"] is True
    assert f"bad {run}\n" not in child.log


def test_strategy_is_asked_about_a_result_that_cannot_be_stored(child, run):
    child.job(run, "too large", fields=custom("text"))
    head = child.ended(run).head
    assert (head["reason"], head["retry_ms"]) == ("result_too_large", 120_000)


def test_strategy_that_fails_makes_the_failure_final(child, run):
    child.job(run, "raise", {"what": "value"}, fields=custom("broken"))
    head = child.ended(run).head
    assert head["final"] is True
    assert head["detail"].startswith("bad (not retried: the backoff strategy failed: None is no duration")


# ---- what a job asks of Redis


@pytest.fixture
def parent(raw: Any, run: int, prefix: str) -> str:
    """A job whose children are written as BullMQ does; its key."""
    key = f"{prefix}:q:{run}"
    raw.hset(key, mapping={"name": "x", "data": '{"step": 1}', "opts": "{}", "timestamp": 1})
    raw.hset(f"{key}:processed", mapping={f"{prefix}:other:a": "[1]", f"{prefix}:typed:b": '"x"'})
    raw.hset(f"{key}:failed", f"{prefix}:other:c", "it broke")
    return key


@pytest.mark.usefixtures("parent")
def test_children_values_are_read_with_and_without_a_type(valkey, tmp_path, run, prefix):
    env = {"HEAVYQ_REDIS": valkey.url, "HEAVYQ_PREFIX": prefix}
    with Child(tmp_path, SHOP, env=env) as child:
        child.job(run, "children", prefix=prefix)
        plain, typed, failed = child.result(run)
        assert plain == {f"{prefix}:other:a": [1], f"{prefix}:typed:b": "x"}
        assert typed == {f"{prefix}:other:a": [1]}
        assert failed == {f"{prefix}:other:c": "it broke"}
        child.job(run + 1, "wrong child", prefix=prefix, id=str(run))
        assert f"the result of the child {prefix}:typed:b" in child.ended(run + 1).head["detail"]


def test_update_data_writes_the_payload_of_the_hash(child, run, prefix, raw, parent):
    child.job(run, "update", prefix=prefix)
    assert child.result(run) == {"step": 2}
    assert json.loads(raw.hget(parent, "data")) == {"step": 2}


def test_job_that_is_over_asks_nothing(child, run):
    child.job(run, "late")
    child.result(run)
    child.job(run + 50_000, "later")
    assert "this job is over" in child.ended(run + 50_000).head["detail"]


# ---- hooks


def test_hook_gets_the_event_in_the_queues_types(child, run):
    child.hook(run, "completed", {b"returnvalue": b'{"ok": true}'})
    frame = child.ended(run)
    assert (frame.kind, frame.head["clean"]) == (wire.HOOKED, True)
    assert frame.head["cpu_total_s"] > 0
    assert "told completed n work q 2 1970-01-01 00:00:01.500000+00:00" in child.log
    assert "told {'a': 1} {'ok': True} None" in child.log


def test_hooks_are_called_each_on_its_own_and_fail_into_the_log(child, run):
    failure = Failure("signal", "killed", signal=9).to_json(1)
    child.hook(run, "failed", {b"failure": failure})
    assert child.ended(run).kind == wire.HOOKED
    assert "told {'a': 1} None signal" in child.log
    assert "@on('failed') broken failed job=n attempt=2" in child.log
    assert "ValueError: hook is broken" in child.log
    assert "told of {'a': 1} job=n attempt=2" in child.log  # not as the first has left it


def test_payload_that_does_not_fit_leaves_data_out(child, run):
    child.hook(run, "failed", {b"data": b"[1]", b"failure": b"nonsense"})
    assert child.ended(run).kind == wire.HOOKED
    assert "told of None job=n" in child.log


def test_what_a_hook_leaves_is_removed(child, run):
    child.hook(run, "stalled")
    assert child.ended(run).head["clean"] is False
    assert child.expect(wire.READY).head["whole"] is True


def test_retired_child_runs_its_async_hooks(tmp_path: Path):
    with Child(tmp_path, SHOP) as child:
        child.job(1, "plain")
        child.result(1)
        child.retire()
        assert child.wait() == 0
        assert "stopped on the same loop True" in child.log


def test_child_start_that_raises_is_told(tmp_path):
    module = SHOP + "\n    @child_start\n    async def no():\n        raise OSError('no database')\n"
    child = Child(tmp_path, module)
    try:
        assert child.expect(wire.NOT_READY).head["error"].startswith("@child_start no raised OSError: no database")
        assert child.wait() == 1
    finally:
        child.__exit__()
