"""The command line as people and scripts use it: a process, its two streams and its exit code, on a real server."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.worker import Finished, environment, heavyq

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.jobs import Jobs
    from tests.support.valkey import Valkey
    from tests.support.worker import Worker

MODULE = """
from heavyq import HEAVY, Model, Queue

print("a module may print")

class Video(Model):
    video_id: str

q = Queue("q", payload=Video, profile=HEAVY, attempts=7, lock_duration="10m")
other = Queue("other")

@q.processor
def work(job):
    job.log("first row")
    if job.data.video_id == "bad":
        raise ValueError("no such video")
    return {"path": job.data.video_id + ".mp4"}
"""
JOB_KEYS = {
    "id", "queue", "name", "state", "data", "result", "progress", "attempts_made", "attempts_started", "stalled_count",
    "timestamp", "processed_on", "finished_on", "failed_reason", "stacktrace", "parent", "checkpoint", "usage",
    "failure",
}  # fmt: skip


class Shell:
    """Runs commands on the shared server, under the test's own prefix."""

    def __init__(self, valkey: Valkey, prefix: str, folder: Path) -> None:
        self.place = ("--redis", valkey.url, "--prefix", prefix)
        self.folder = folder

    def __call__(self, *argv: str, stdin: str = "", **env: str) -> Finished:
        return heavyq(*argv, *self.place, folder=self.folder, env=env, stdin=stdin)

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Start a command whose output is read while it runs."""
        command = [sys.executable, "-m", "heavyq", *argv, *self.place]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.folder, env=environment(), **pipes)

    def json(self, *argv: str, code: int = 0, **env: str) -> Any:
        """Return the one document on stdout."""
        done = self(*argv, "--json", **env)
        assert done.code == code, done
        return json.loads(done.out)

    def refused(self, *argv: str, code: int, **env: str) -> str:
        """Return the one line on stderr of a command that fails, with nothing on stdout."""
        done = self(*argv, **env)
        assert done.code == code, done
        assert done.out == "", done
        lines = done.err.splitlines()
        assert len(lines) == 1, done.err
        line = lines[0]
        assert line.startswith("heavyq: "), line
        return line.removeprefix("heavyq: ")


@pytest.fixture
def shell(valkey: Valkey, prefix: str, tmp_path: Path) -> Shell:
    (tmp_path / "app.py").write_text(MODULE)
    return Shell(valkey, prefix, tmp_path)


# ---- add


def test_add_without_modules_makes_the_queue_with_standard_options_and_says_so(shell: Shell, jobs: Jobs) -> None:
    done = shell("add", "q", "n", '{"videoId": "v1"}', "--json")
    assert (done.code, json.loads(done.out)) == (0, {"id": "1", "queue": "q", "name": "n"})
    assert "STANDARD" in done.err
    record = jobs.read("1")
    assert (record.state, record.name, json.loads(record.data)) == ("waiting", "n", {"videoId": "v1"})
    assert (record.opts.attempts, record.opts.backoff.type, record.opts.remove_on_complete.count) == (
        3,
        "exponential",
        0,
    )


def test_add_for_people_prints_one_line(shell: Shell) -> None:
    assert shell("add", "q", "n").out == "job 1 added to queue q\n"


def test_any_json_may_be_added_to_an_undeclared_queue_from_stdin_too(shell: Shell, jobs: Jobs) -> None:
    assert shell("add", "q", "n", "[1, null]").code == 0
    assert shell("add", "q", "n", "-", stdin='"text"\n').code == 0
    assert [json.loads(jobs.read(n).data) for n in ("1", "2")] == [[1, None], "text"]


def test_add_options_reach_the_job(shell: Shell, jobs: Jobs) -> None:
    answer = shell.json(
        "add", "q", "n", "{}", "--delay", "1h", "--priority", "3", "--attempts", "2", "--job-id", "mine"
    )
    assert answer["id"] == "mine"
    record = jobs.read("mine")
    assert (record.state, record.priority, record.opts.attempts, record.opts.delay_ms) == ("delayed", 3, 2, 3_600_000)
    again = shell("add", "q", "n", "{}", "--job-id", "mine")
    assert again.out == "job mine was already in queue q\n"


def test_with_modules_the_queues_own_options_and_payload_hold(shell: Shell, jobs: Jobs) -> None:
    done = shell("add", "q", "n", '{"video_id": "v1"}', "--json", HEAVYQ_MODULES="app")
    assert (done.code, json.loads(done.out)["id"]) == (0, "1")
    assert "STANDARD" not in done.err
    record = jobs.read("1")
    assert (record.opts.attempts, record.opts.remove_on_complete.count) == (7, 100)
    assert json.loads(record.data) == {"videoId": "v1"}
    refused = shell("add", "q", "n", '{"videoId": 7}', HEAVYQ_MODULES="app")
    assert (refused.code, refused.out) == (1, "")
    assert "video_id" in refused.err.splitlines()[-1]
    assert jobs.counts() == {"waiting": 1}


def test_queue_that_the_modules_do_not_declare_is_standard_and_said_so(shell: Shell) -> None:
    done = shell("add", "third", "n", HEAVYQ_MODULES="app")
    assert done.code == 0
    assert "app declares no queue third" in done.err
    assert done.out == "job 1 added to queue third\n"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("q", "n", "{bad"), "the payload is no JSON: Expecting property name"),
        (("q", "n", "NaN"), "the payload is no JSON: NaN"),
        (("q", "n", "[" * 100_000), "the payload is no JSON"),
        (("q", "n", "{}", "--delay", "30000"), "--delay: 30000 looks like milliseconds"),
        (("q", "n", "{}", "--priority", "high"), "--priority: 'high' is no whole number"),
        (("q", "n", "{}", "--job-id", "12"), "--job-id: '12': an id cannot be an integer"),
        (("q", "n", "{}", "--timeout", "5s"), "--timeout is for --wait"),
        (("q", "n", "{}", "--wait", "--timeout", "soon"), "--timeout: 'soon' is no duration"),
        (("q", "n", "{}", "--lifoo"), "No such option: --lifoo"),
        (("q",), "Missing argument 'NAME'"),
    ],
)
def test_what_cannot_be_added_is_one_line_and_exit_2(shell: Shell, argv: tuple[str, ...], words: str) -> None:
    assert shell.refused("add", *argv, code=2).startswith(words)


def test_module_that_does_not_import_is_one_line_and_exit_3(shell: Shell) -> None:
    (shell.folder / "broken.py").write_text("import hq_not_there\n")
    line = shell.refused("add", "q", "n", code=3, HEAVYQ_MODULES="broken")
    assert line.startswith("cannot import broken: ModuleNotFoundError: No module named 'hq_not_there'")
    assert line.endswith("broken.py:1)")
    shown = shell("add", "q", "n", HEAVYQ_MODULES="broken", HEAVYQ_TRACEBACK="1")
    assert "Traceback (most recent call last)" in shown.err


# ---- add --wait


def test_wait_prints_the_result_or_why_there_is_none(shell: Shell, run_worker: Callable[..., Worker]) -> None:
    run_worker(MODULE).wait_log("serving")
    done = shell("add", "q", "n", '{"videoId": "v1"}', "--wait", "--timeout", "20s")
    assert done.code == 0, done
    assert json.loads(done.out) == {"path": "v1.mp4"}
    answer = shell.json("add", "q", "n", '{"videoId": "v2"}', "--wait")
    assert answer == {"id": "2", "queue": "q", "name": "n", "state": "completed", "result": {"path": "v2.mp4"}}
    failed = shell("add", "q", "n", '{"videoId": "bad"}', "--wait", "--attempts", "1", "--json")
    assert failed.code == 1
    answer = json.loads(failed.out)
    assert (answer["state"], answer["failure"]["reason"]) == ("failed", "exception")
    assert "no such video" in answer["failure"]["detail"]
    assert "job 3 failed (exception)" in failed.err
    assert shell("logs", "q", "3").out == "first row\n"
    assert shell.json("jobs", "q", "--reason", "exception")[0]["id"] == "3"


def test_wait_that_takes_too_long_says_where_the_job_is(shell: Shell) -> None:
    done = shell("add", "q", "n", "--wait", "--timeout", "300ms", "--json")
    assert done.code == 1
    assert json.loads(done.out) == {"id": "1", "queue": "q", "name": "n", "state": "waiting"}
    assert "job 1 is still waiting after 0.3 s" in done.err


# ---- looking


def test_queues_shows_the_counts_of_every_queue(shell: Shell, jobs: Jobs) -> None:
    assert shell.json("queues") == []
    shell("add", "q", "n")
    shell("add", "second", "n", "{}", "--delay", "1h")
    found = {each["queue"]: each for each in shell.json("queues")}
    assert found["q"] == {
        "queue": "q",
        "prefix": jobs.q.prefix,
        "paused": False,
        "counts": {
            "waiting": 1, "active": 0, "delayed": 0, "prioritized": 0, "waiting-children": 0, "completed": 0,
            "failed": 0,
        },
    }  # fmt: skip
    assert found["second"]["counts"]["delayed"] == 1
    lines = shell("queues").out.splitlines()
    assert lines[0].split()[:3] == ["queue", "waiting", "active"]
    assert lines[1].split()[:2] == ["q", "1"]


def test_job_json_has_the_keys_of_the_contract(shell: Shell) -> None:
    shell("add", "q", "n", '{"a": [1]}')
    found = shell.json("job", "q", "1")
    assert set(found) == JOB_KEYS
    assert (found["id"], found["queue"], found["state"], found["data"]) == ("1", "q", "waiting", {"a": [1]})
    assert found["timestamp"].endswith("+00:00")
    assert (found["result"], found["stacktrace"], found["attempts_made"], found["failure"]) == (None, [], 0, None)


def test_job_for_people_shows_what_is_set(shell: Shell) -> None:
    shell("add", "q", "n", '{"a": [1]}')
    shown = dict(
        line.split(None, 1) for line in shell("job", "q", "1").out.splitlines() if len(line.split(None, 1)) > 1
    )
    assert (shown["state"], shown["data"]) == ("waiting", '{"a": [1]}')
    assert "result" not in shown


def test_payload_that_another_producer_broke_is_shown_as_it_is(shell: Shell, jobs: Jobs) -> None:
    job_id = jobs.add("n")
    jobs.raw.hset(jobs.q.key(job_id), "data", b'{"a": NaN}')
    assert shell.json("job", "q", job_id)["data"] == '{"a": NaN}'


def test_names_in_redis_cannot_steer_the_terminal(shell: Shell, jobs: Jobs) -> None:
    jobs.add("\x1b[31mred\x07")
    assert "\x1b" not in shell("jobs", "q").out
    assert shell.json("jobs", "q")[0]["name"] == "\x1b[31mred\x07"


def test_jobs_are_chosen_by_state_age_and_number(shell: Shell, jobs: Jobs) -> None:
    ids = jobs.add_all([("n", {"n": n}) for n in range(5)])
    late = jobs.add("late", delay_ms=3_600_000)
    assert [each["id"] for each in shell.json("jobs", "q", "--state", "waiting")] == ids
    assert [each["id"] for each in shell.json("jobs", "q", "--limit", "2")] == ids[:2]
    assert [each["id"] for each in shell.json("jobs", "q")] == [*ids, late]
    assert len(shell.json("jobs", "q", "--since", "1h")) == 6
    assert shell.json("jobs", "q", "--reason", "signal") == []
    jobs.raw.hset(jobs.q.key(ids[0]), "timestamp", 1_000_000_000_000)
    assert len(shell.json("jobs", "q", "--since", "1h")) == 5
    assert "waiting" in shell("jobs", "q").out.splitlines()[1]


def test_more_jobs_than_one_page_are_found(shell: Shell, jobs: Jobs) -> None:
    ids = jobs.add_all([("n", {})] * 450)
    assert [each["id"] for each in shell.json("jobs", "q", "--limit", "1000")] == ids


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("job", "q", "99"), "queue q has no job 99"),
        (("logs", "q", "99"), "queue q has no job 99"),
        (("job", "qq", "1"), "there is no queue qq under the prefix"),
        (("jobs", "qq"), "there is no queue qq under the prefix"),
        (("logs", "qq", "1"), "there is no queue qq under the prefix"),
    ],
)
def test_what_is_not_there_is_one_line_and_exit_1(shell: Shell, jobs: Jobs, argv: tuple[str, ...], words: str) -> None:
    jobs.add("n")
    assert shell.refused(*argv, code=1).startswith(words)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("jobs", "q", "--state", "fail"), '--state fail: no such state (did you mean "failed"?); one of: waiting'),
        (("jobs", "q", "--since", "86400"), "--since: 86400 looks like milliseconds"),
        (("jobs", "q", "--limit", "0"), "Invalid value"),
        (("job", "a:b", "1"), "'a:b' is no queue name"),
        (("nonsense",), "No such command 'nonsense'"),
    ],
)
def test_misuse_is_one_line_and_exit_2(shell: Shell, argv: tuple[str, ...], words: str) -> None:
    assert shell.refused(*argv, code=2).startswith(words)


def test_empty_queue_that_exists_is_no_error(shell: Shell, jobs: Jobs) -> None:
    jobs.raw.hset(jobs.q.key("meta"), "opts.maxLenEvents", 10_000)
    assert shell.json("jobs", "q") == []


# ---- logs


def test_logs_come_in_order(shell: Shell, jobs: Jobs) -> None:
    job_id = jobs.add("n")
    jobs.raw.rpush(jobs.q.key(f"{job_id}:logs"), "one", "two")
    assert shell("logs", "q", job_id).out == "one\ntwo\n"
    assert shell.json("logs", "q", job_id) == {"id": job_id, "queue": "q", "logs": ["one", "two"]}


def test_followed_log_goes_on_until_the_job_has_ended(shell: Shell, jobs: Jobs) -> None:
    job_id = jobs.add("n")
    rows = jobs.q.key(f"{job_id}:logs")
    jobs.raw.rpush(rows, "one")
    with shell.start("logs", "q", job_id, "--follow") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "one\n"
        jobs.raw.rpush(rows, "two")
        assert process.stdout.readline() == "two\n"
        jobs.raw.ltrim(rows, -1, -1)  # as keep_logs=1 does
        jobs.raw.rpush(rows, "three")
        assert process.stdout.readline() == "three\n"
        jobs.raw.lrem(jobs.q.key("wait"), 0, job_id)
        jobs.raw.zadd(jobs.q.key("completed"), {job_id: 1})
        assert process.wait(20) == 0
        assert process.stdout.read() == ""


# ---- the server


def test_server_that_is_not_there_is_one_line_and_exit_4(tmp_path: Path) -> None:
    for argv in (("queues",), ("job", "q", "1"), ("add", "q", "n")):
        done = heavyq(*argv, "--redis", "redis://127.0.0.1:1", folder=tmp_path)
        assert (done.code, done.out) == (4, ""), done
        last = done.err.splitlines()[-1]
        assert "127.0.0.1:1" in last
        assert last.endswith("(is Redis running, and is --redis or HEAVYQ_REDIS right?)")
        assert "Traceback" not in done.err


def test_wrong_password_is_one_line_and_exit_4(own_valkey: Callable[..., Valkey], tmp_path: Path) -> None:
    server = own_valkey(password="right")
    url = server.url.replace("right", "wrong")
    assert url != server.url
    done = heavyq("queues", "--redis", url, folder=tmp_path)
    assert (done.code, done.out) == (4, "")
    (line,) = done.err.splitlines()
    assert "refused" in line
    assert "wrong" not in line


def test_no_url_and_no_embedded_server_is_exit_3(tmp_path: Path) -> None:
    done = heavyq("queues", folder=tmp_path)
    assert (done.code, done.out) == (3, "")
    assert "HEAVYQ_REDIS" in done.err


def test_redis_and_prefix_come_from_the_environment_and_the_project_too(
    shell: Shell, jobs: Jobs, valkey: Valkey
) -> None:
    jobs.add("n")
    table = f'[tool.heavyq]\nprefix = "{jobs.q.prefix}"\nmodules = {{ light = ["app"] }}\n'
    (shell.folder / "pyproject.toml").write_text(table)
    env = {"REDIS_URL": valkey.url, "WORKER_TYPE": "heavy"}  # a worker's pod: its type says nothing here
    done = heavyq("queues", "--json", folder=shell.folder, env=env)
    assert [each["queue"] for each in json.loads(done.out)] == ["q"]


# ---- config


def test_config_shows_each_value_and_where_it_came_from(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(MODULE)
    (tmp_path / "pyproject.toml").write_text('[tool.heavyq]\nmodules = ["app"]\nnice = 9\n')
    env = {
        "HEAVYQ_REDIS": "redis://:secret@host:1",
        "HEAVYQ_DRAIN_TIMEOUT": "7s",
        "HEAVYQ_TYPO": "1",
        "HEAVYQ_MEMORY_BUDGET": "6Gi",
        "HEAVYQ_MEMORY_REQUEST": "1Gi",
    }
    argv = ("--set", "q.max_result=2Mi", "--burst", "--memory-limit", "2Gi", "--on-memory-limit", "retry")
    done = heavyq("config", "--json", *argv, folder=tmp_path, env=env)
    assert done.code == 0
    found = json.loads(done.out)
    assert found["worker"]["modules"] == {"value": ["app"], "from": "pyproject.toml"}
    assert found["worker"]["redis"] == {"value": "redis://:***@host:1", "from": "HEAVYQ_REDIS"}
    assert found["worker"]["drain_timeout"] == {"value": 7.0, "from": "HEAVYQ_DRAIN_TIMEOUT"}
    assert found["worker"]["burst"] == {"value": True, "from": "--burst"}
    assert found["worker"]["concurrency"] == {"value": 2, "from": "the queues"}
    assert found["queues"]["q"]["lock_duration"] == {"value": 600.0, "from": "Queue('q')"}
    assert found["queues"]["q"]["stalled_interval"] == {"value": 300.0, "from": "profile heavy"}
    assert found["queues"]["q"]["max_result"] == {"value": 2 * 1024**2, "from": "--set q.max_result"}
    assert found["worker"]["memory_budget"] == {"value": 6 * 1024**3, "from": "HEAVYQ_MEMORY_BUDGET"}
    assert found["queues"]["q"]["memory_limit"] == {"value": 2 * 1024**3, "from": "--memory-limit"}
    assert found["queues"]["q"]["memory_request"] == {"value": 1024**3, "from": "HEAVYQ_MEMORY_REQUEST"}
    assert found["queues"]["q"]["on_memory_limit"] == {"value": "retry", "from": "--on-memory-limit"}
    assert found["queues"]["q"]["start_method"] == {"value": "fork", "from": "default"}
    assert found["queues"]["other"]["nice"] == {"value": 9, "from": "pyproject.toml"}
    assert found["queues"]["other"]["oom_score_adj"] == {"value": 1000, "from": "default"}
    assert "warning: HEAVYQ_TYPO in the environment means nothing to heavyq" in done.err
    assert "a module may print" in done.err
    shown = heavyq("config", "--memory-budget", "auto", folder=tmp_path, env=env)
    assert "secret" not in shown.out
    assert "10m" in shown.out
    assert ["memory_budget", "auto", "--memory-budget"] in [line.split() for line in shown.out.splitlines()]


def test_config_counts_children_that_jobs_share_and_shows_a_rate_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "from heavyq import LIGHT, Queue, Rate\n"
        "q = Queue('q', profile=LIGHT, async_concurrency=20, limiter=Rate(10, per='1m30s'))\n"
        "@q.processor\n"
        "async def work(job): ...\n"
    )
    done = heavyq("config", "app", "--json", "--timeout", "2h", folder=tmp_path)
    found = json.loads(done.out)
    assert found["worker"]["concurrency"] == {"value": 3, "from": "the queues"}
    assert found["queues"]["q"]["limiter"] == {"value": "10/1m30s", "from": "Queue('q')"}
    assert found["queues"]["q"]["timeout"] == {"value": 7200.0, "from": "--timeout"}
    assert found["queues"]["q"]["progress_timeout"] == {"value": None, "from": "default"}
    shown = heavyq("config", "app", folder=tmp_path)
    assert ["limiter", "10/1m30s", "Queue('q')"] in [line.split() for line in shown.out.splitlines()]


def test_config_without_modules_shows_the_worker_only(tmp_path: Path) -> None:
    done = heavyq("config", "--json", folder=tmp_path)
    assert (done.code, json.loads(done.out)["queues"]) == (0, {})


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (("app", "--set", "qq.nice=3"), 2, "--set qq: the worker has no such queue"),
        (("app", "-q", "qq"), 2, "--queue qq: no such queue"),
        (("app", "--worker-type", "gpu"), 2, "--worker-type gpu: no such type; known: heavy"),
        (
            ("app", "--memory-request", "2Gi", "--set", "q.memory_limit=1Gi"),
            2,
            "queue 'q': memory_request 2Gi is above memory_limit 1Gi: ",
        ),
        (("nowhere",), 3, "cannot import nowhere: there is no module nowhere"),
        (("app.py",), 3, "cannot import app.py: app.py is a file name"),
    ],
)
def test_config_refuses_what_run_refuses(tmp_path: Path, argv: tuple[str, ...], code: int, words: str) -> None:
    (tmp_path / "app.py").write_text(MODULE)
    done = heavyq("config", *argv, folder=tmp_path)
    assert (done.code, done.out) == (code, "")
    assert done.err.splitlines()[-1].startswith(f"heavyq: {words}")


# ---- run


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (("app", "--concurency", "2"), 2, "No such option: --concurency"),
        (("app", "--concurrency", "0"), 2, "--concurrency: 0 is out of range"),
        (("app", "--drain-timeout", "30000"), 2, "--drain-timeout: 30000 looks like milliseconds"),
        (("app", "--timeout", "soon"), 2, "--timeout: 'soon' is no duration"),
        (("app", "--grace", "5s"), 2, "--grace is not built yet"),
        (("app", "--inline"), 2, "--inline is not built yet"),
        (("app", "--metrics-port", "9000"), 2, "--metrics-port is not built yet"),
        (("app", "--state-dir", "x"), 2, "--state-dir is not built yet"),
        (("app", "--set", "q.timeout_grace=1s"), 2, "--set q.timeout_grace is not built yet"),
        (("app", "--redis", "localhost"), 2, "--redis: this is no Redis URL"),
        ((), 3, "no module to work with"),
    ],
)
def test_run_refuses_in_one_line(tmp_path: Path, argv: tuple[str, ...], code: int, words: str) -> None:
    (tmp_path / "app.py").write_text(MODULE)
    done = heavyq("run", *argv, folder=tmp_path)
    assert done.code == code, done
    (line,) = done.err.splitlines()
    assert line.startswith(f"heavyq: {words}")
    assert done.out == ""


def test_traceback_is_shown_when_asked_for(tmp_path: Path) -> None:
    done = heavyq("run", folder=tmp_path, env={"HEAVYQ_TRACEBACK": "1"})
    assert done.code == 3
    assert "Traceback (most recent call last)" in done.err
    assert done.err.splitlines()[-1].startswith("heavyq: no module to work with")


def test_help_of_every_command_exits_0(tmp_path: Path) -> None:
    done = heavyq("--help", folder=tmp_path)
    assert done.code == 0
    for command in ("run", "add", "job", "jobs", "queues", "logs", "config", "demo"):
        assert f" {command} " in done.out
    assert "--drain-timeout" in heavyq("run", "--help", folder=tmp_path).out
    assert heavyq(folder=tmp_path).code == 2
    assert heavyq("--version", folder=tmp_path).code == 0


def test_reader_that_has_seen_enough_is_no_error(shell: Shell, jobs: Jobs) -> None:
    jobs.add_all([("n", {"pad": "x" * 500})] * 500)
    with shell.start("jobs", "q", "--limit", "500", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(20) == 0
