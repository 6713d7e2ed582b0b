"""Bull Board over queues that heavyq alone feeds and runs: what it shows, and what its buttons do.

A real board (`@bull-board/api`, served by Express) in a Node process, looked at by HTTP and by headless Chromium. What
a button did is read back through heavyq. `HEAVYQ_SCREENSHOTS=docs/img` keeps a picture (`make picture`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import TypeAdapter

import heavyq
from heavyq import Flow, Queue
from heavyq.bullmq.ops.counts import counts
from tests.interop.conftest import note_version
from tests.interop.node import HERE
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from heavyq.bullmq.keys import QueueKey
    from tests.interop.node import NodeQueue
    from tests.support.ops import Rig
    from tests.support.valkey import Valkey
    from tests.support.worker import Worker

    StartWorker = Callable[..., Worker]

JobQueue = Queue[Any, Any]
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def jobs(q: QueueKey, valkey: Valkey) -> Iterator[JobQueue]:
    """The test's queue as a heavyq program sees it; what ends stays."""
    yield Queue(
        q.name,
        prefix=q.prefix,
        connection=valkey.url,
        payload=TypeAdapter(Any),
        result=TypeAdapter(Any),
        attempts=1,
        remove_on_complete=False,
    )
    heavyq.close()


class Board:
    """Bull Board on the test's queue."""

    def __init__(self, bull: NodeQueue) -> None:
        self.bull = bull
        self.url: str = bull("board", queues=[[bull.q.prefix, bull.q.name]])

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api{path}", timeout=10) as reply:
            return json.load(reply)

    def put(self, path: str, body: Any = None) -> None:
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{self.url}/api{path}", method="PUT", data=data, headers=headers)
        urllib.request.urlopen(request, timeout=10).close()

    @property
    def queue(self) -> dict[str, Any]:
        """The queue as the board's first page gets it."""
        (found,) = self.get("/queues?activeQueue=q&status=latest&page=1&jobsPerPage=20")["queues"]
        assert found["name"] == self.bull.q.name
        return dict(found)

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self.get(f"/queues/q/{job_id}")["job"])

    @contextlib.contextmanager
    def later(self) -> Iterator[None]:
        """Let the board think it is ten seconds later: its `clean` spares what ended in the last five."""
        self.bull.node.call("clock", now=int(time.time() * 1000) + 10_000)
        yield
        self.bull.node.call("clock", now=None)


class Screen(Board):
    """The same in a browser."""

    def visit(self, job_id: str = "", *, status: str = "latest") -> None:
        self.bull("visit", url=f"{self.url}/queue/q{job_id and '/'}{job_id}?status={status}")

    def see(self, *texts: str) -> str:
        """Return what stands on the page, as soon as all these texts do."""
        shown: str = self.bull("see", texts=list(texts))
        return shown

    def press(self, name: str, **where: str) -> None:
        self.bull("press", name=name, **where)

    def press_icon(self, tip: str, *, sure: bool = False) -> None:
        """Press one of a job's small buttons. sure: it asks, and we are."""
        self.bull("pressIcon", tip=tip)
        if sure:
            self.press("Confirm")

    def press_menu(self, name: str) -> None:
        """Choose from the queue's menu, which asks each time."""
        self.bull("pressMenu", name=name)
        self.press("Confirm")


@pytest.fixture
def board(request: pytest.FixtureRequest, bull: NodeQueue) -> Iterator[Board]:
    started = Board(bull)
    package = json.loads((HERE / "node_modules/@bull-board/api/package.json").read_text())
    note_version(request.config, "Bull Board", package["version"])
    yield started
    bull("boardClose")


@pytest.fixture
def screen(bull: NodeQueue) -> Iterator[Screen]:
    executable = shutil.which("chromium")
    if executable is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no `chromium` here: `make interop` installs it")
        pytest.skip("no `chromium` here: apt-get install chromium")
    bull("browser", executable=executable)
    started = Screen(bull)
    yield started
    assert bull("browserClose") == []
    bull("boardClose")


def run_some(jobs: JobQueue, heavyq_worker: StartWorker) -> tuple[str, str]:
    """Let heavyq complete one job and fail one; return their ids."""
    todo = {"progress": 42, "rows": ["opened clip 7", "wrote 12 frames"], "returns": {"path": "/out/clip7.mp4"}}
    done = jobs.add("transcode", todo)
    broken = jobs.add("transcode", {"raise": "no such codec: xyz"})
    worker = heavyq_worker("--name", "w1")
    eventually(lambda: done.state() == "completed" and broken.state() == "failed", 15, "one completed, one failed")
    worker.stop()
    return done.id, broken.id


def test_the_api_shows_what_heavyq_did(board: Board, jobs: JobQueue, heavyq_worker: StartWorker) -> None:
    # conformance: C-181
    done_id, broken_id = run_some(jobs, heavyq_worker)
    waiting, later, second = jobs.add("later", {}), jobs.add("later", {}, delay="1h"), jobs.add({}, priority=3)
    expected = {"completed": 1, "failed": 1, "waiting": 1, "delayed": 1, "prioritized": 1, "active": 0}
    assert board.queue["counts"].items() >= expected.items()
    assert {job["id"] for job in board.queue["jobs"]} == {done_id, broken_id, waiting.id, later.id, second.id}
    done, broken = board.job(done_id), board.job(broken_id)
    assert (done["progress"], done["returnValue"], done["isFailed"]) == (42, {"path": "/out/clip7.mp4"}, False)
    assert (done["processedBy"], done["attempts"]) == ("w1", 1)
    assert done["timestamp"] <= done["processedOn"] <= done["finishedOn"]
    assert board.get(f"/queues/q/{done_id}/logs") == ["opened clip 7", "wrote 12 frames"]
    assert (broken["isFailed"], broken["failedReason"]) == (True, "no such codec: xyz")
    assert broken["stacktrace"][0].startswith("RuntimeError: no such codec: xyz\n")
    assert "app.py" in broken["stacktrace"][0]


def test_the_api_shows_the_worker_that_runs(board: Board, jobs: JobQueue, heavyq_worker: StartWorker) -> None:
    # conformance: C-170 C-181
    heavyq_worker("--name", "w1")
    eventually(lambda: board.get("/queues/q/workers")["workers"], 15, "a worker")
    (worker,) = board.get("/queues/q/workers")["workers"]
    assert worker["name"].endswith("w1")


def test_the_api_acts_on_heavyqs_jobs(board: Board, jobs: JobQueue, ours: Rig, heavyq_worker: StartWorker) -> None:
    # conformance: C-181
    _, broken_id = run_some(jobs, heavyq_worker)
    later = jobs.add({}, delay="1h")
    board.put(f"/queues/q/{broken_id}/retry")
    board.put(f"/queues/q/{later.id}/promote")
    assert [jobs.handle(each).state() for each in (broken_id, later.id)] == ["waiting", "waiting"]
    board.put(f"/queues/q/{later.id}/clean")
    assert jobs.get_job(later.id) is None
    board.put("/queues/q/pause")
    assert ours.run(counts(ours.q)).paused
    board.put("/queues/q/resume")
    assert not ours.run(counts(ours.q)).paused
    with board.later():
        board.put("/queues/q/clean/completed")
    assert jobs.counts()["completed"] == 0
    heavyq_worker()  # what the board moved, heavyq runs
    eventually(lambda: jobs.handle(broken_id).state() == "failed", 15, "failed again")
    assert jobs.handle(broken_id).refresh().attempts_made == 2


def test_a_person_sees_jobs_progress_results_logs_and_traces(
    screen: Screen, jobs: JobQueue, heavyq_worker: StartWorker
) -> None:
    # conformance: C-181
    done_id, broken_id = run_some(jobs, heavyq_worker)
    jobs.add("thumbnail", {"clip": 7}, delay="1h")
    jobs.add("transcode", {"clip": 8}, priority=2)
    screen.visit(status="completed")
    shown = screen.see(f"#{done_id}", "transcode", "42", "/out/clip7.mp4", "w1")
    assert f"#{broken_id}" not in shown
    screen.press("Logs", role="tab", within="main")
    screen.see("opened clip 7", "wrote 12 frames")
    screen.visit(status="failed")
    screen.see(f"#{broken_id}", "RuntimeError: no such codec: xyz", "app.py")
    screen.visit(status="delayed")
    screen.see("thumbnail")
    screen.visit(status="prioritized")
    screen.see("#4", "priority 2")
    screen.visit()
    screen.see(f"#{done_id}", f"#{broken_id}", "thumbnail", "RuntimeError: no such codec: xyz", "42")
    if folder := os.environ.get("HEAVYQ_SCREENSHOTS"):
        heavyq_worker("--name", "w1", "--drain-timeout", "0s")
        jobs.add("transcode", {"clip": 9, "progress": 37, "ms": 60_000})
        screen.visit()
        screen.see("37%")
        screen.bull("screenshot", path=str(REPOSITORY / folder / "bull-board.png"), height=1560)


def test_the_buttons_of_a_job(screen: Screen, jobs: JobQueue, heavyq_worker: StartWorker) -> None:
    # conformance: C-181
    _, broken_id = run_some(jobs, heavyq_worker)
    later, unwanted = jobs.add({"clip": 7}, delay="1h"), jobs.add({"clip": 8})
    screen.visit(broken_id, status="failed")
    screen.press_icon("Retry", sure=True)
    eventually(lambda: jobs.handle(broken_id).state() == "waiting", 5, "retried")
    screen.visit(later.id, status="delayed")
    screen.press_icon("Promote", sure=True)
    eventually(lambda: later.state() == "waiting", 5, "promoted")
    screen.visit(unwanted.id, status="waiting")
    screen.press_icon("Clean", sure=True)
    eventually(lambda: jobs.get_job(unwanted.id) is None, 5, "removed")
    heavyq_worker()
    eventually(lambda: later.state() == "completed", 15, "what was promoted has run")
    eventually(lambda: jobs.handle(broken_id).state() == "failed", 15, "what was retried has run")


def test_the_buttons_of_a_queue(screen: Screen, jobs: JobQueue, ours: Rig, heavyq_worker: StartWorker) -> None:
    # conformance: C-181
    run_some(jobs, heavyq_worker)
    later = [jobs.add({"clip": n}, delay="1h") for n in range(3)]
    screen.visit(status="failed")
    screen.press_menu("Pause")
    eventually(lambda: ours.run(counts(ours.q)).paused, 5, "paused")
    screen.visit(status="failed")
    screen.press_menu("Resume")
    eventually(lambda: not ours.run(counts(ours.q)).paused, 5, "resumed")
    screen.press("Retry all", within="main")
    screen.press("Confirm")
    eventually(lambda: jobs.counts().items() >= {"failed": 0, "waiting": 1}.items(), 5, "all failed jobs wait")
    screen.visit(status="delayed")
    screen.press("Promote all", within="main")
    screen.press("Confirm")
    eventually(lambda: {job.state() for job in later} == {"waiting"}, 5, "all delayed jobs wait")
    screen.visit(status="completed")
    with screen.later():
        screen.press("Clean all", within="main")
        screen.press("Confirm")
        eventually(lambda: jobs.counts()["completed"] == 0, 5, "completed jobs are cleaned")
    screen.visit()
    screen.press_menu("Empty")
    eventually(lambda: jobs.counts()["waiting"] == 0, 5, "the queue is empty")


def test_a_person_sees_flows(screen: Screen, jobs: JobQueue, heavyq_worker: StartWorker) -> None:
    # conformance: C-126 C-181
    tree = Flow(jobs, "course", {"course": 1}, children=[Flow(jobs, "clip", {"returns": 7})]).add()
    (clip,) = tree.children

    def expect(root: str, leaf: str) -> None:
        seen = screen.get(f"/queues/q/{tree.job.id}/flow")["flowRoot"]
        assert (seen["id"], seen["name"], seen["state"]) == (tree.job.id, "course", root)
        assert [(each["id"], each["name"], each["state"]) for each in seen["children"]] == [(clip.job.id, "clip", leaf)]

    expect("waiting-children", "waiting")
    screen.visit(tree.job.id, status="waiting-children")
    screen.see("course", "clip")
    heavyq_worker()
    tree.job.result(timeout=15)
    expect("completed", "completed")


def test_a_person_runs_and_removes_schedulers(
    screen: Screen, jobs: JobQueue, heavyq_worker: StartWorker, ours: Rig
) -> None:
    # conformance: C-148 C-181
    jobs.upsert_scheduler(
        "nightly", cron="0 3 * * *", tz="Europe/Paris", data={"returns": 1}, name="report", remove_on_complete=False
    )
    (seen,) = screen.get("/job-schedulers")["schedulers"]
    expected = {"id": "nightly", "name": "report", "pattern": "0 3 * * *", "tz": "Europe/Paris", "iterationCount": 1}
    assert seen.items() >= expected.items()
    assert seen["nextRunJobId"] == f"repeat:nightly:{seen['next']}"
    assert seen["template"]["data"] == {"returns": 1}
    screen.bull("visit", url=f"{screen.url}/job-schedulers")
    screen.see("nightly", "report", "0 3 * * *", "Europe/Paris")
    screen.press("Run now")
    screen.press("Confirm")
    heavyq_worker()
    eventually(lambda: jobs.counts()["completed"] == 1, 15, "it has run now")
    assert len(jobs.schedulers()) == 1
    screen.press("Remove scheduler")
    screen.press("Confirm")
    eventually(lambda: jobs.schedulers() == [], 5, "removed")


def test_limits_set_on_the_board_are_heavyqs(board: Board, jobs: JobQueue, ours: Rig) -> None:
    # conformance: C-181
    board.put("/queues/q/concurrency", {"concurrency": 3})
    board.put("/queues/q/rate-limit", {"max": 5, "duration": 2000})
    settings = jobs.settings()
    assert (settings.concurrency, settings.rate) == (3, heavyq.Rate(5, per=2.0))
    jobs.set_global_concurrency(None)
    jobs.set_global_rate_limit(heavyq.Rate(7, per="1s"))
    seen = board.queue
    assert not seen.get("globalConcurrency")
    assert ours.hash("meta").items() >= {"max": "7", "duration": "1000"}.items()
