"""A child that runs many jobs on one loop: a real process and its real socket, we are the supervisor."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from heavyq.core.retry import DELAY_MAX_MS
from heavyq.job import wire
from tests.support import procs
from tests.support.child import Child
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

SHOP = """
    import asyncio, contextlib, logging, os, signal, subprocess, sys, time
    import threading
    from typing import Annotated
    import pydantic
    from heavyq import Queue, Snooze, around_job, child_start, child_stop
    from heavyq.job import tasks

    tasks._AGAIN_S = 0.2

    def check(value):
        if value in RAISED:
            raise RAISED[value]
        return value

    RAISED = {"exit": SystemExit(3), "cancel": asyncio.CancelledError()}

    class Payload(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="allow")
        odd: Annotated[str, pydantic.AfterValidator(check)] = ""

    class Result(pydantic.BaseModel):
        odd: Annotated[str, pydantic.AfterValidator(check)]

    q = Queue("q")
    odd_q = Queue("odd", payload=Payload, result=Result)
    gates = {}
    thread_gate = threading.Event()

    @odd_q.processor
    async def odd_job(job):
        if "strategy" in job.data.model_extra:
            raise ValueError(job.data.strategy)
        return {"odd": job.data.result}

    @odd_q.on("failed")
    async def odd_hook(event):
        print("odd hook", event.job_id, event.data)

    @odd_q.backoff_strategy
    def odd_strategy(attempts_made, kind, error, job):
        return check(str(error)) and 1.0
    background = []

    @child_start
    async def open_pool():
        background.append(asyncio.create_task(asyncio.Event().wait()))
        background.append(asyncio.get_running_loop())

    @child_stop
    async def close_pool():
        assert asyncio.get_running_loop() is background[1]
        background[0].cancel()
        print("pool closed", [task.get_name() for task in asyncio.all_tasks()].count("left"))

    @child_stop
    async def wait_for_it():
        await background[0]  # which was cancelled

    @around_job
    @contextlib.contextmanager
    def noted(job):
        if job.name != "within":
            yield
            return
        job.log("sync in")
        yield
        job.log("sync out")

    @around_job
    @contextlib.asynccontextmanager
    async def noted_async(job):
        if job.name != "within":
            yield
            return
        await asyncio.sleep(0)
        job.log("async in")
        try:
            yield
        finally:
            job.log("async out")

    @q.processor("wait")
    async def wait(job):
        gate = gates.setdefault(job.data["gate"], asyncio.Event())
        job.log("waits")
        await gate.wait()
        return job.id

    @q.processor("open")
    async def open_gate(job):
        gates.setdefault(job.data["gate"], asyncio.Event()).set()
        return len(asyncio.all_tasks())

    @q.processor("within")
    async def within(job):
        job.log("function")
        return [job.slot, job.workdir.is_dir(), str(job.workdir), asyncio.get_running_loop() is background[1]]

    @q.processor("burn")
    async def burn(job):
        async def part():
            began = time.thread_time()
            while time.thread_time() - began < 0.03:
                pass
        await asyncio.gather(part(), part(), asyncio.to_thread(time.sleep, 0))
        if job.data.get("thread"):
            def work():
                began = time.thread_time()
                while time.thread_time() - began < 0.05:
                    pass
            await asyncio.to_thread(work)

    @q.processor("raise")
    async def raises(job):
        raise {"value": ValueError("bad"), "exit": SystemExit(3), "cancel": asyncio.CancelledError()}[job.data["what"]]

    @q.processor("exits below")
    async def exits_below(job):
        async def part():
            sys.exit(4)
        await asyncio.create_task(part())

    @q.processor("leave task")
    async def leave_task(job):
        async def left():
            try:
                await asyncio.Event().wait()
            finally:
                print("left task ended", job.id)
        asyncio.create_task(left(), name="left")
        await asyncio.sleep(0)

    @q.processor("leave generators")
    async def leave_generators(job):
        async def numbers(name):
            try:
                for n in range(9):
                    yield n
            finally:
                await asyncio.sleep(0)
                print("generator closed", name)
        dropped, held = numbers("dropped"), numbers("held")
        await anext(dropped)
        await anext(held)
        background.append(held)
        del dropped
        await asyncio.sleep(0)

    @q.processor("stubborn")
    async def stubborn(job):
        job.log("waits")
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            if job.data.get("returns"):
                return "done all the same"
            if job.data.get("returns too much"):
                return "x" * 2000
            if job.data.get("raises"):
                raise ValueError("not now")

    @q.processor("stubborn child task")
    async def stubborn_child_task(job):
        async def stays():
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
        asyncio.create_task(stays())
        await asyncio.sleep(0)

    @q.processor("deaf once")
    async def deaf_once(job):
        job.log("waits")
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    @q.processor("in threads")
    async def in_threads(job):
        def stays():
            job.log("waits")
            thread_gate.wait(30)
        await asyncio.gather(*(asyncio.to_thread(stays) for _ in range(40)))

    @q.processor("open threads")
    async def open_threads(job):
        thread_gate.set()

    @q.processor("cancel drivers")
    async def cancel_drivers(job):
        for task in asyncio.all_tasks():
            if "Tasks._job" in repr(task):
                task.cancel()

    @q.processor("snooze")
    async def snooze(job):
        raise Snooze("400d")

    @q.processor("logs")
    async def logs(job):
        def below():
            logging.getLogger("shop").warning("from a thread")
        logging.getLogger("shop").warning("from a job")
        await asyncio.to_thread(below)
        await asyncio.get_running_loop().run_in_executor(None, below)

    @q.processor("leave process")
    async def leave_process(job):
        (job.workdir / "file").write_text("x")
        return subprocess.Popen(["sleep", "600"]).pid

    @q.processor("leave file")
    async def leave_file(job):
        (job.workdir / "file").write_text("x")

    @q.processor("plain")
    def plain(job):
        job.log("in a thread")
        time.sleep(0.01)
        return job.id

    @q.processor("late")
    async def late(job):
        async def left():
            try:
                await asyncio.Event().wait()
            finally:
                job.log("too late")
        asyncio.create_task(left())
        await asyncio.sleep(0)

    logging.basicConfig(format="%(message)s job=%(job_id)s name=%(job_name)s attempt=%(attempt)s", force=True)
"""


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    with Child(tmp_path_factory.mktemp("child"), SHOP, seats=50) as child:
        yield child


_numbers = iter(range(100, 10_000))


@pytest.fixture
def run() -> int:
    return next(_numbers)


def test_many_jobs_run_at_once_and_each_is_reported(child, run):
    runs = range(10_000, 10_040)
    for n in runs:
        child.job(n, "wait", {"gate": run})
    for n in runs:
        child.logged(n, "waits")
    child.job(run, "open", {"gate": run})
    assert child.result(run) >= len(runs)
    assert [child.result(n) for n in runs] == [str(n) for n in runs]


def test_managers_stand_around_the_job_in_order_on_the_loop_of_child_start(child, run):
    child.job(run, "within")
    assert child.result(run) == [3, True, str(child.workdir / str(run)), True]
    rows = [wire.split_run(frame.body)[1].decode() for frame in child.frames if frame.kind == wire.LOG]
    assert rows[-5:] == ["sync in", "async in", "function", "async out", "sync out"]
    assert not (child.workdir / str(run)).exists()


@pytest.mark.parametrize(("thread", "least_s", "most_s"), [(False, 0.06, 0.09), (True, 0.11, 0.16)])
def test_usage_is_of_the_jobs_own_tasks_and_threads(child, run, thread, least_s, most_s):
    child.job(10_050, "wait", {"gate": run})
    child.job(run, "burn", {"thread": thread})
    assert least_s <= child.ended(run).head["usage"]["cpu_s"] <= most_s
    child.job(run + 50_000, "open", {"gate": run})
    usage = child.ended(10_050).head["usage"]
    assert usage["cpu_s"] < 0.02
    assert usage["wall_s"] >= least_s
    assert usage["peak_rss_bytes"] > 2**20


@pytest.mark.parametrize(
    ("what", "reason", "detail"),
    [
        ("value", "exception", "bad"),
        ("exit", "exit", "the job ended with SystemExit: 3"),
        ("cancel", "exception", "CancelledError"),
    ],
)
def test_whatever_a_job_raises_is_its_own_failure(child, run, what, reason, detail):
    child.job(run, "raise", {"what": what})
    frame = child.ended(run)
    assert (frame.kind, frame.head["reason"], frame.head["detail"]) == (wire.FAILURE, reason, detail)
    assert (frame.head["final"], frame.head["retry_ms"]) == (False, None)
    assert frame.body.decode().splitlines()[-2].strip().startswith("File ")
    assert "shop.py" in frame.body.decode()


def test_task_below_a_job_that_calls_exit_ends_only_the_job(child, run):
    child.job(run, "exits below")
    assert child.ended(run).head["detail"] == "the job ended with SystemExit: 4"


def test_tasks_that_a_job_leaves_are_cancelled_before_its_report(child, run):
    child.job(run, "leave task")
    frame = child.ended(run)
    assert (frame.kind, frame.head["clean"]) == (wire.RESULT, True)
    assert f"left task ended {run}" in child.log


def test_generators_that_a_job_leaves_are_closed(child, run):
    child.job(run, "leave generators")
    child.result(run)
    assert "generator closed dropped" in child.log
    assert "generator closed held" in child.log


def test_job_that_is_over_has_no_api_any_more(child, run):
    child.job(run, "late")
    child.result(run)
    eventually(lambda: "this job is over" in child.log or None)
    assert not [f for f in child.frames if f.kind == wire.LOG and wire.split_run(f.body)[1] == b"too late"]


# ---- jobs that would harm their neighbours


@pytest.mark.parametrize("what", ["exit", "cancel"])
@pytest.mark.parametrize(("where", "reason"), [("odd", "invalid_payload"), ("result", "invalid_result")])
def test_whatever_a_validator_raises_is_the_jobs_failure(child, run, what, where, reason):
    child.job(10_090 + run, "wait", {"gate": run})
    child.job(run, "x", {where: what}, queue="odd")
    head = child.ended(run).head
    assert head["reason"] == reason
    assert head["detail"].split(": ")[1].startswith({"exit": "SystemExit", "cancel": "CancelledError"}[what])
    child.job(run + 50_000, "open", {"gate": run})
    child.result(10_090 + run)


@pytest.mark.parametrize("what", ["exit", "cancel"])
def test_whatever_a_strategy_raises_makes_the_failure_final(child, run, what):
    opts = b'{"attempts": 3, "backoff": {"type": "mine", "delay": 1}}'
    child.job(run, "x", {"strategy": what}, queue="odd", fields={b"opts": opts})
    frame = child.ended(run)
    assert (frame.head["reason"], frame.head["final"]) == ("exception", True)
    assert "the backoff strategy failed" in frame.head["detail"]


@pytest.mark.parametrize("what", ["exit", "cancel"])
def test_whatever_a_validator_raises_leaves_the_data_of_an_event_out(child, run, what):
    child.hook(run, "failed", {b"data": json.dumps({"odd": what}).encode()}, queue="odd", id=str(run))
    child.ended(run)
    assert f"odd hook {run} None" in child.log


def test_snooze_of_more_than_a_year_is_cut(child, run):
    child.job(run, "snooze")
    assert child.ended(run).head["delay_ms"] == DELAY_MAX_MS


def test_child_whose_driver_is_cancelled_ends(tmp_path):
    with Child(tmp_path, SHOP, seats=2) as child:
        child.job(1, "wait", {"gate": 1})
        child.logged(1, "waits")
        child.job(2, "cancel drivers")
        assert child.wait() == 1
        assert "a job has cancelled a task that is not its own" in child.log


# ---- stopping


def test_stop_cancels_that_job_only(child, run):
    child.job(10_060, "wait", {"gate": run})
    child.job(run, "wait", {"gate": run})
    child.logged(run, "waits")
    child.stop(run)
    frame = child.ended(run)
    assert (frame.kind, frame.head["clean"], frame.head["usage"]["wall_s"] > 0) == (wire.STOPPED, True, True)
    child.job(run + 50_000, "open", {"gate": run})
    assert child.result(10_060) == "10060"


def test_stop_that_comes_with_the_job_wins(child, run):
    with child.at_once():
        child.job(run, "wait", {"gate": run})
        child.stop(run)
    assert child.ended(run).kind == wire.STOPPED
    assert not [f for f in child.frames if f.kind == wire.LOG and wire.split_run(f.body)[0] == run]


@pytest.mark.parametrize(
    ("how", "kind"), [("returns", wire.RESULT), ("returns too much", wire.STOPPED), ("raises", wire.STOPPED)]
)
def test_after_a_stop_only_a_result_counts(child, run, how, kind):
    child.job(run, "stubborn", {how: True})
    child.logged(run, "waits")
    child.stop(run)
    assert child.ended(run).kind == kind


def test_stop_of_a_job_that_has_ended_is_nothing(child, run):
    child.job(run, "within")
    child.result(run)
    child.stop(run)
    child.told(run)
    child.job(run + 50_000, "within")
    child.result(run + 50_000)


def test_stop_is_answered_before_the_job_ends(child, run):
    child.job(run, "wait", {"gate": run})
    child.logged(run, "waits")
    child.stop(run)
    assert child.ended(run).kind == wire.STOPPED
    assert [said for said in child.order if said[1] == run] == [(wire.TOLD, run), (wire.STOPPED, run)]


def test_stop_that_the_job_has_swallowed_comes_once_more(child, run):
    child.job(run, "deaf once")
    child.logged(run, "waits")
    child.stop(run)
    assert child.ended(run).kind == wire.STOPPED


# ---- records


def test_records_of_a_job_and_of_its_threads_carry_its_fields(child, run):
    child.job(run, "logs", made=2)
    child.result(run)
    assert f"from a job job={run} name=logs attempt=3" in child.log
    assert child.log.count(f"from a thread job={run} name=logs attempt=3") == 2


# ---- what is left behind


def test_child_is_looked_at_when_nothing_runs_and_restored(child, run):
    child.job(10_070, "wait", {"gate": run})
    child.job(run, "leave process")
    left = child.ended(run)
    assert left.head["clean"] is True  # nobody can tell while another runs
    pid = json.loads(left.body)
    child.job(run + 50_000, "open", {"gate": run})
    reports = [child.ended(10_070), child.ended(run + 50_000)]
    assert [frame.head["clean"] for frame in reports].count(False) == 1
    assert child.expect(wire.READY).head["whole"] is True
    assert not procs.alive(pid)
    assert list(child.workdir.iterdir()) == []


def test_thread_that_stays_is_told_at_once_and_the_child_restored_when_nothing_runs(tmp_path):
    with Child(tmp_path, SHOP, seats=4) as child:
        child.job(1, "wait", {"gate": 1})
        child.logged(1, "waits")
        child.job(2, "in threads")
        child.logged(2, "waits")
        child.stop(2)
        stopped = child.ended(2)
        assert (stopped.kind, stopped.head["clean"]) == (wire.STOPPED, False)
        child.job(3, "open threads")  # was on its way
        child.job(4, "open", {"gate": 1})
        for n in (1, 3, 4):
            assert child.ended(n).head["clean"] is False  # the READY is owed until it is sent
        assert wire.READY not in [frame.kind for frame in child.frames[:-1]]
        assert child.expect(wire.READY).head["whole"] is True


def test_files_of_a_job_go_while_others_run(child, run):
    child.job(10_080, "wait", {"gate": run})
    child.job(run, "leave file")
    child.result(run)
    eventually(lambda: not (child.workdir / str(run)).exists() or None)
    child.job(run + 50_000, "open", {"gate": run})
    child.result(10_080)


def test_plain_function_runs_in_a_thread(child, run):
    child.job(run, "plain")
    assert child.result(run) == str(run)


def test_job_without_a_processor_fails(child, run):
    child.job(run, "nobody")
    assert child.ended(run).head["reason"] == "no_processor"


def test_child_with_a_task_that_cannot_be_cancelled_is_not_whole(tmp_path):
    with Child(tmp_path, SHOP, seats=2) as child:
        child.job(1, "stubborn child task")
        assert child.ended(1).head["clean"] is False
        child.job(2, "within")  # waits until the child is restored
        child.job(3, "wait", {"gate": 1})
        child.stop(3)
        child.told(3)
        assert child.expect(wire.READY).head["whole"] is False
        child.result(2)
        assert child.ended(3).kind == wire.STOPPED
        order = [said for said in child.order if said[0] != wire.LOG]
        assert order[2:4] == [(wire.TOLD, 3), (wire.READY, None)]
        assert sorted(order[4:]) == [(wire.RESULT, 2), (wire.STOPPED, 3)]
        child.retire()
        assert child.wait() == 0


def test_retiring_child_ends_its_jobs_first_and_then_its_hooks(tmp_path):
    with Child(tmp_path, SHOP, seats=2) as child:
        child.job(1, "wait", {"gate": 1})
        child.logged(1, "waits")
        child.job(2, "stubborn", {"returns": True})
        child.logged(2, "waits")
        assert child.log.count("pool closed") == 0
        child.retire()
        child.job(3, "open", {"gate": 1})  # too late: it takes nothing more
        child.stop(2)
        assert child.result(2) == "done all the same"
        child.stop(1)
        assert child.ended(1).kind == wire.STOPPED
        assert child.wait() == 0
        assert "pool closed 0" in child.log
        assert "@child_stop hook wait_for_it failed" in child.log
