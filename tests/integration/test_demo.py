"""`heavyq demo` as a person runs it, and its processors as the plain functions that they are."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from heavyq import Queue
from heavyq.demo import show
from heavyq.demo.queues import Clip, Rung, Search, Trial
from heavyq.job import wire
from heavyq.job.context import Job, JobInfo
from heavyq.queue.typed import to_json
from tests.support import procs
from tests.support.eventually import eventually
from tests.support.worker import environment, heavyq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.valkey import Valkey

PEAK_BYTES_MAX = 500 * 1024**2
WHOLE_S = 200.0  # it uses about 50 s of CPU, and other tests may run beside it


@pytest.fixture
def processors() -> Any:
    """The module of the demo's processors. Skip without the extra; in CI fail: a green run there means it ran."""
    lacking = [name for name in show.EXTRA if importlib.util.find_spec(name) is None]
    if lacking:
        message = f"no {', '.join(lacking)}: install the extra `demo`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return importlib.import_module("heavyq.demo.processors")


class Sent:
    """A job, and what it sent."""

    def __init__(self, data: Any, workdir: Path, checkpoint: Any = None) -> None:
        self.frames: list[tuple[bytes, Any]] = []
        info = JobInfo(
            id="1",
            name="x",
            queue_name="q",
            prefix="bull",
            attempt=1,
            attempts_made=0,
            fence=1,
            timestamp_ms=0,
            slot=0,
            workdir=workdir,
            opts=b"{}",
            parent=None,
            progress=0,
            checkpoint=None if checkpoint is None else json.loads(to_json(checkpoint)),
        )
        self.job: Job[Any, Any] = Job(
            info, data, lambda kind, body: self.frames.append((kind, body)), queue=Queue("q"), check=lambda: None
        )

    def of(self, kind: bytes) -> list[Any]:
        return [json.loads(body) for sent, body in self.frames if sent == kind]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A folder for results and a job's workdir."""
    made = tmp_path / "out", tmp_path / "work"
    for folder in made:
        folder.mkdir()
    return made


# ---- the processors ---------------------------------------------------------------------------------------


def test_transcode_makes_each_rung_with_progress_and_a_checkpoint(processors: Any, folders: tuple[Path, Path]) -> None:
    out, work = folders
    sent = Sent(Clip(codec="h264", heights=[36, 72], out=str(out)), work)

    ladder = processors.transcode(sent.job)

    assert [(rung.height, rung.frames) for rung in ladder.rungs] == [(36, 132), (72, 132)]
    assert [Path(rung.file).stat().st_size for rung in ladder.rungs] == [rung.size_bytes for rung in ladder.rungs]
    assert list(work.iterdir()) == []
    assert [len(checkpoint) for checkpoint in sent.of(wire.CHECKPOINT)] == [1, 2]
    percents = [progress["percent"] for progress in sent.of(wire.PROGRESS)]
    assert len(percents) == 2 * 132
    assert percents == sorted(percents)
    assert percents[-1] == 100


def test_transcode_does_not_make_again_what_the_checkpoint_holds(processors: Any, folders: tuple[Path, Path]) -> None:
    out, work = folders
    made = Rung(height=36, file="made-before", frames=132, size_bytes=1, seconds=1.0)
    sent = Sent(Clip(codec="vp9", heights=[36, 72], out=str(out)), work, checkpoint=[made])

    ladder = processors.transcode(sent.job)

    assert ladder.resumed_at == 1
    assert ladder.rungs[0] == made
    assert [file.name for file in out.iterdir()] == ["bigbuckbunny-72p.webm"]
    assert sent.of(wire.PROGRESS)[0]["safe"] == 20


def test_search_goes_on_from_its_checkpoint_and_keeps_the_best_model(
    processors: Any, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, work = folders
    monkeypatch.setitem(processors.GRIDS, "rbf", [(0.1, 0.001), (3, 0.1), (0.1, 0.3)])
    monkeypatch.setattr(processors, "FOLDS", 2)
    tried = Trial(c=0.1, gamma=0.001, score=0.5)
    sent = Sent(Search(kernel="rbf", out=str(out)), work, checkpoint=[tried])

    found = processors.search(sent.job)

    assert (found.best.c, found.best.gamma, found.trials, found.resumed_at) == (3, 0.1, 3, 1)
    assert found.test_score > 0.97
    unseen, labels = processors.digits()[1], processors.digits()[3]
    model = pickle.loads((out / "digits-rbf.pickle").read_bytes())
    assert model.score(unseen, labels) == found.test_score
    assert [len(checkpoint) for checkpoint in sent.of(wire.CHECKPOINT)] == [2, 3]


def test_job_of_a_demo_that_is_over_fails_before_it_works(processors: Any, tmp_path: Path) -> None:
    sent = Sent(Clip(codec="h264", heights=[720], out=str(tmp_path / "gone")), tmp_path)
    with pytest.raises(FileNotFoundError, match="has ended"):
        processors.transcode(sent.job)
    assert sent.frames == []


# ---- the whole demo ---------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(WHOLE_S + 30)
@pytest.mark.usefixtures("processors")
def test_demo_completes_its_jobs_and_the_killed_one_by_its_checkpoint(
    valkey: Valkey, prefix: str, tmp_path: Path
) -> None:
    place = ("--redis", valkey.url, "--prefix", prefix)
    done = heavyq("demo", *place, "--out", "films", "--json", folder=tmp_path, timeout_s=WHOLE_S)

    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert (answer["ok"], answer["trouble"]) == (True, None)
    killed, *others = answer["jobs"]
    assert [job["state"] for job in answer["jobs"]] == ["completed"] * 4
    assert (killed["attempts"], killed["reasons"], killed["resumed_at"]) == (2, ["signal 9"], 2)
    assert [(job["attempts"], job["reasons"]) for job in others] == [(1, [])] * 3
    for job in answer["jobs"]:
        assert job["wall_s"] > 1
        assert job["cpu_s"] > 1
        assert 20 * 1024**2 < job["peak_rss_bytes"] < PEAK_BYTES_MAX
    for line in ("now we kill its child", "reason signal 9", "from its checkpoint: 41%", "What to type next"):
        assert line in done.err
    assert len(list((tmp_path / "films").glob("bigbuckbunny-*p.*"))) == 6

    hint = next(line for line in done.err.splitlines() if "what Redis knows" in line)
    command = hint.split("#")[0].split()
    again = heavyq(*command[command.index("job") :], "--json", folder=tmp_path)
    assert json.loads(again.out)["attempts_made"] == 2


@pytest.fixture
def running_demo(valkey: Valkey, prefix: str, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start a demo whose temporary files are in `tmp_path`, and wait until a child runs a job."""
    started: list[subprocess.Popen[str]] = []
    output = tmp_path / "output"

    def start() -> subprocess.Popen[str]:
        with output.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "heavyq", "demo", "--redis", valkey.url, "--prefix", prefix],
                cwd=tmp_path,
                env=environment({"TMPDIR": str(tmp_path)}),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                text=True,
            )
        started.append(process)
        begun = "film h264: attempt 1 runs in child"
        eventually(lambda: begun in output.read_text() or process.poll() is not None, 60, "a child has a job")
        assert begun in output.read_text(), output.read_text()
        return process

    yield start
    print(output.read_text())
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
@pytest.mark.usefixtures("processors")
def test_interrupted_demo_leaves_no_process_no_file_and_hands_back(
    running_demo: Callable[[], subprocess.Popen[str]], signum: int, valkey: Valkey, prefix: str, tmp_path: Path
) -> None:
    process = running_demo()
    below = procs.tree(process.pid)
    assert len(below) > 3

    process.send_signal(signum)

    assert process.wait(30) == 130
    assert [proc for proc in below if proc.still_runs()] == []
    assert "Interrupted" in (tmp_path / "output").read_text()
    assert list(tmp_path.glob("heavyq-*")) == []
    jobs = heavyq("jobs", "demo-video", "--redis", valkey.url, "--prefix", prefix, "--json", folder=tmp_path)
    assert [(job["state"], job["attempts_made"]) for job in json.loads(jobs.out)] == [("waiting", 0)] * 2


@pytest.mark.long
@pytest.mark.usefixtures("processors")
def test_killed_demo_leaves_no_worker(running_demo: Callable[[], subprocess.Popen[str]]) -> None:
    process = running_demo()
    below = procs.tree(process.pid)

    process.kill()

    eventually(lambda: not [proc for proc in below if proc.still_runs()], 15, "the worker is gone")


@pytest.mark.usefixtures("processors")
def test_worker_that_cannot_start_shows_its_log(valkey: Valkey, prefix: str, tmp_path: Path) -> None:
    (tmp_path / "av.py").write_text("raise RuntimeError('no codecs today')\n")

    done = heavyq("demo", "--redis", valkey.url, "--prefix", prefix, folder=tmp_path)

    assert done.code == 1
    assert "no codecs today" in done.out
    assert "the worker has ended with exit code 3" in done.out


def test_demo_without_the_extra_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in show.EXTRA else name)
    assert show.main() == 3
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "pip install 'heavyq[demo]'" in said.err


def test_demo_without_redis_says_so_in_one_line(processors: Any, tmp_path: Path) -> None:
    del processors
    done = heavyq("demo", "--redis", "redis://127.0.0.1:1", folder=tmp_path)
    assert done.code == 4
    assert done.err.count("\n") == 1
