"""Bad input, seen from outside: one line that says what to do, the right exit code, no traceback, and no job lost.

What `heavyq` says of its own command lines, and of jobs and queues that do not exist, is in test_cli.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import heavyq as api
from heavyq.errors import BadValue, NotBuiltYet, PayloadError, PayloadTooLarge, UnknownOption
from tests.support.fresh import forget_declarations
from tests.support.worker import Finished, environment, heavyq

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.support.jobs import Jobs
    from tests.support.valkey import Valkey
    from tests.support.worker import Worker

pytestmark = pytest.mark.timeout(60)

NOBODY = "redis://127.0.0.1:1"  # a port that nobody listens on
QUICK = ("--connect-timeout", "1s")
WORKS = """\
from heavyq import Queue
q = Queue("q")
@q.processor
def work(job): return job.id
"""


class Shell:
    """Runs commands on the shared server, under the test's own prefix, while one job waits in queue q."""

    def __init__(self, jobs: Jobs, valkey: Valkey, folder: Path) -> None:
        self.jobs, self.url, self.folder = jobs, valkey.url, folder
        self.job_id = jobs.add("work", attempts=1)

    def write(self, app: str | None, pyproject: str | None = None) -> None:
        for name, text in (("app.py", app), ("pyproject.toml", pyproject)):
            if text is not None:
                (self.folder / name).write_text(text)

    def __call__(self, *argv: str, redis: str | None = None, stdin: str = "", **env: str) -> Finished:
        place = ("--redis", redis or self.url, "--prefix", self.jobs.q.prefix)
        return heavyq(*argv, *place, folder=self.folder, env=env, stdin=stdin)

    def refused(self, code: int, *argv: str, **more: str) -> str:
        """Return the one line of a command that must fail; see that it has touched no job."""
        done = self(*argv, **more)
        assert done.code == code, done
        assert "Traceback" not in done.out + done.err, done
        (line,) = done.err.splitlines()
        assert line.startswith("heavyq: "), line
        self.untouched()
        return line.removeprefix("heavyq: ")

    def untouched(self) -> None:
        assert self.jobs.counts() == {"waiting": 1}
        assert self.jobs.read(self.job_id).attempts_started == 0


@pytest.fixture
def shell(jobs: Jobs, valkey: Valkey, tmp_path: Path) -> Shell:
    return Shell(jobs, valkey, tmp_path)


# ---- the module


def queue(options: str, more: str = "") -> str:
    return f"from heavyq import HEAVY, Queue\nq = Queue('q', {options})\n{more}"


def hook(kind: str, body: str, how: str = "def") -> str:
    return f"{WORKS}from heavyq import {kind}\n@{kind}\n{how} open_it():\n    {body}\n"


MODULES = {
    "missing": (None, "there is no module app in {folder} or on the import path (is the folder right?)"),
    "needs a missing one": (
        "import hq_not_there",
        "ModuleNotFoundError: No module named 'hq_not_there' ({folder}/app.py:1)",
    ),
    "raises": ("\n\nraise ValueError('no table\\nat all')", "ValueError: no table ({folder}/app.py:3)"),
    "raises what has no text": (
        "class Mute(Exception):\n    def __str__(self): raise KeyError\nraise Mute",
        "Mute: (no text: its __str__ raises KeyError) ({folder}/app.py:3)",
    ),
    "SystemExit": (
        "raise SystemExit('usage')",
        'SystemExit: usage ({folder}/app.py:1); what a program does belongs below `if __name__ == "__main__":`',
    ),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt ({folder}/app.py:1)"),
    "syntax error": ("x = 1\ndef f(:\n", "SyntaxError: invalid syntax ({folder}/app.py:2)"),
    "processor that is an async generator": (
        WORKS.replace("def work(job): return", "async def work(job): yield"),
        "work (a processor of queue q) is an async generator: return the result",
    ),
    "@around_job without @contextmanager": (
        f"{WORKS}from heavyq import around_job\n@around_job\ndef timed(job):\n    yield\n",
        "timed (@around_job) makes no context manager: put @contextmanager below it",
    ),
    "async def hook": (
        hook("preload", "pass", "async def"),
        "open_it (a hook) is `async def`: not built yet; use `def`",
    ),
    "async def canary": (
        hook("canary", "pass", "async def"),
        "open_it (a hook) is `async def`: not built yet; use `def`",
    ),
    "@preload raises": (
        hook("preload", "raise OSError('no model')"),
        "@preload open_it raised OSError: no model ({folder}/app.py:8)",
    ),
    "unknown option": (
        queue("lock_duraton='30s'"),
        "Queue('q') has no option 'lock_duraton' (did you mean \"lock_duration\"?) ({folder}/app.py:2)",
    ),
    "milliseconds": (
        queue("lock_duration=30_000"),
        (
            "Queue('q'): lock_duration: 30000 looks like milliseconds, and durations are seconds: "
            'write "30s" (or "30000s" if you mean seconds) ({folder}/app.py:2)'
        ),
    ),
    "milliseconds in a profile": (
        queue("profile=HEAVY.replace(stalled_interval=30_000)"),
        "profile 'heavy': stalled_interval: 30000 looks like milliseconds",
    ),
    "option not built yet": (
        queue("timeout_grace='2s'"),
        "Queue('q'): timeout_grace is not built yet: leave it out ({folder}/app.py:2)",
    ),
    "more memory asked for than allowed": (
        queue("memory_request='4Gi', memory_limit='2Gi'"),
        (
            "Queue('q'): memory_request 4Gi is above memory_limit 2Gi: a job that uses what it asks for would be "
            "stopped; raise the limit or lower the request ({folder}/app.py:2)"
        ),
    ),
    "start method that is none": (
        queue("start_method='thread'"),
        "Queue('q'): start_method: 'thread' is not one of: fork, spawn ({folder}/app.py:2)",
    ),
    "client object as connection": (
        "from redis import Redis\n" + queue("connection=Redis()"),
        (
            "Queue('q'): the connection: a Redis object is no Redis URL: write one, redis://, rediss:// or unix:// "
            "({folder}/app.py:3)"
        ),
    ),
    "no type as payload": (queue("payload=3"), "the payload of Queue('q'): 3 is no type that pydantic takes"),
}


@pytest.mark.parametrize("case", MODULES)
def test_module_that_cannot_be_imported_is_exit_3(shell: Shell, case: str) -> None:
    text, words = MODULES[case]
    shell.write(text)
    line = shell.refused(3, "run", "app")
    assert line.startswith("cannot import app: " + words.format(folder=shell.folder))
    assert line.endswith(" (HEAVYQ_TRACEBACK=1 shows all of it)")


@pytest.mark.long
def test_module_that_ends_the_process_that_imports_it_is_exit_3(shell: Shell) -> None:
    ends = {"leaves": ("os._exit(7)", "exit code 7"), "kills": ("os.kill(os.getpid(), 9)", "signal 9")}
    for name, (text, _) in ends.items():
        (shell.folder / f"{name}.py").write_text(f"import os; {text}")
    with ThreadPoolExecutor() as both:  # each is tried five times, with pauses
        lines = dict(zip(ends, both.map(lambda name: shell.refused(3, "run", name), ends), strict=True))
    assert lines == {
        name: f"cannot import {name}: 5 starts failed in a row; the last: the zygote ended ({how}) "
        f"(try: python -c 'import {name}')"
        for name, (_, how) in ends.items()
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no processor in app; decorate a function with @queue.processor"),
        (queue(""), "no processor in app (queues without one: q); decorate a function with @queue.processor"),
        (
            WORKS + "Queue('other', connection='redis://elsewhere:6379').processor(work)\n",
            "the queues q, other live in more than one Redis; start a worker for each, with -q",
        ),
    ],
    ids=["no queue", "no processor", "two Redis"],
)
def test_module_that_cannot_be_served_is_exit_3(shell: Shell, text: str, words: str) -> None:
    shell.write(text)
    assert shell.refused(3, "run", "app") == words


def test_traceback_of_an_import_is_shown_when_asked_for(shell: Shell) -> None:
    shell.write("def load():\n    raise ValueError('no table')\nload()\n")
    done = shell("run", "app", HEAVYQ_TRACEBACK="1")
    assert done.code == 3
    assert f'File "{shell.folder}/app.py", line 2, in load' in done.out
    last = done.err.splitlines()[-1]
    assert last.startswith(f"heavyq: cannot import app: ValueError: no table ({shell.folder}/app.py:2)")
    shell.refused(3, "run", "app", HEAVYQ_TRACEBACK="0")


# ---- options


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--lock-duration", "5m"), "No such option: --lock-duration"),
        (("--drain-timeout", "30000"), "--drain-timeout: 30000 looks like milliseconds"),
        (("--recycle-rss", "2GB3"), "--recycle-rss: '2GB3' is no size: write bytes, or text such as"),
        (("--memory-limit", "4"), "--memory-limit: 4 is out of range: at least 16Mi (a bare number is bytes)"),
        (("--memory-budget", "most"), "--memory-budget: 'most' is no size: write bytes, or text such as"),
        (("--on-memory-limit", "stop"), "--on-memory-limit: 'stop' is not one of: fail, retry"),
        (
            ("--memory-limit", "1Gi", "--memory-request", "2Gi"),
            "queue 'q': memory_request 2Gi is above memory_limit 1Gi: ",
        ),
        (("--inline",), "--inline is not built yet: leave it out"),
        (("--name", "two words"), "--name: 'two words' has a blank or a character outside ASCII"),
        (("--set", "q.lock_duraton=5m"), "--set has no option 'lock_duraton' (did you mean \"lock_duration\"?)"),
        (("--set", "q.lock_duration=30000"), "--set q.lock_duration: 30000 looks like milliseconds"),
        (("--timeout", "7200000"), "--timeout: 7200000 looks like milliseconds"),
        (("--set", "q.limiter=10"), "--set q.limiter: '10' is no rate: write a number of jobs per time, such as 10/1s"),
        (("--set", "q.timeout_grace=1s"), "--set q.timeout_grace is not built yet: leave it out"),
        (("--set", "q.attempts=3"), "--set q.attempts: a job's options belong to whoever adds it"),
        (("--set", "qq.nice=3"), '--set qq: the worker has no such queue (did you mean "q"?); it has: q'),
        (("-q", "qq"), "-q qq: no processor for such a queue in app; known: q"),
        (("--worker-type", "hevy"), '--worker-type hevy: no such type (did you mean "heavy"?); known: heavy, light'),
    ],
    ids=lambda argv: " ".join(argv) if isinstance(argv, tuple) else "",
)
def test_wrong_option_on_the_command_line_is_exit_2(shell: Shell, argv: tuple[str, ...], words: str) -> None:
    shell.write(WORKS)
    assert shell.refused(2, "run", "app", *argv).startswith(words)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("HEAVYQ_LOCK_DURATION", "30000", "HEAVYQ_LOCK_DURATION: 30000 looks like milliseconds"),
        ("HEAVYQ_MEMORY_LIMIT", "4", "HEAVYQ_MEMORY_LIMIT: 4 is out of range: at least 16Mi"),
        ("HEAVYQ_TIMEOUT", "7200000", "HEAVYQ_TIMEOUT: 7200000 looks like milliseconds"),
        ("HEAVYQ_TIMEOUT_GRACE", "2s", "HEAVYQ_TIMEOUT_GRACE is not built yet: leave it out"),
        ("HEAVYQ_ATTEMPTS", "3", "HEAVYQ_ATTEMPTS: a job's options belong to whoever adds it"),
    ],
)
def test_wrong_option_in_the_environment_is_exit_3(shell: Shell, variable: str, value: str, words: str) -> None:
    shell.write(WORKS)
    assert shell.refused(3, "run", "app", **{variable: value}).startswith(words)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('lock_duraton = "5m"', "has no option 'lock_duraton' (did you mean \"lock_duration\"?)"),
        ("lock_duration = 30000", "lock_duration: 30000 looks like milliseconds"),
        ('timeout_grace = "2s"', "timeout_grace is not built yet: leave it out"),
        ('memory_limit = "4"', "memory_limit: 4 is out of range: at least 16Mi"),
        ("nice = [", "cannot be read: "),
    ],
)
def test_wrong_option_in_pyproject_is_exit_3(shell: Shell, table: str, words: str) -> None:
    shell.write(WORKS, f"[tool.heavyq]\n{table}\n")
    line = shell.refused(3, "run", "app")
    assert "pyproject.toml" in line
    assert words in line


def test_worker_type_of_no_queue_is_exit_3_and_an_unknown_one_in_the_environment_exit_2(shell: Shell) -> None:
    shell.write(WORKS)
    line = shell.refused(3, "run", "app", "--worker-type", "heavy")
    assert line == "app: no queue of worker type heavy; give --worker-type all to serve every queue"
    assert "gpu: no such type; known: heavy" in shell.refused(2, "run", "app", WORKER_TYPE="gpu")


def test_unknown_variable_only_warns(shell: Shell) -> None:
    shell.write(WORKS)
    done = shell("run", "app", "--burst", HEAVYQ_LOCK_DURATON="30s")
    assert done.code == 0, done
    assert done.err == (
        "heavyq: warning: HEAVYQ_LOCK_DURATON in the environment means nothing to heavyq "
        "(did you mean HEAVYQ_LOCK_DURATION?)\n"
    )
    assert shell.jobs.result(shell.job_id) == shell.job_id


def test_prefix_that_is_no_connection_name_costs_only_the_place_in_lists_of_workers(
    run_worker: Callable[..., Worker], jobs: Jobs, prefix: str
) -> None:
    odd = f"{prefix}:two words"
    worker = run_worker(WORKS, prefix=odd)
    worker.wait_log("serving")
    assert "no list of workers will show this one: Redis takes no such name" in worker.log
    jobs.q = type(jobs.q)(odd, "q")
    job_id = jobs.add("work")
    assert jobs.result(job_id) == job_id


# ---- Redis


def test_server_that_is_not_there_is_exit_4_after_the_connect_timeout(shell: Shell) -> None:
    shell.write(WORKS)
    began_s = time.monotonic()
    line = shell.refused(4, "run", "app", *QUICK, redis=NOBODY)
    assert time.monotonic() - began_s >= 1
    assert line.startswith("redis did not answer within 1 s: ")
    assert "127.0.0.1:1" in line
    assert line.endswith("; is it running, and is --redis right?")
    line = shell.refused(4, "jobs", "q", redis=NOBODY)
    assert line.endswith("(is Redis running, and is --redis or HEAVYQ_REDIS right?)")


@pytest.mark.parametrize("argv", [("run", "app", "--connect-timeout", "50s"), ("jobs", "q")])
def test_wrong_password_is_exit_4_at_once_and_is_not_shown(
    shell: Shell, own_valkey: Callable[..., Valkey], argv: tuple[str, ...]
) -> None:
    shell.write(WORKS)
    url = own_valkey(password="right").url.replace("right", "s3cr3t")
    began_s = time.monotonic()
    done = shell(*argv, redis=url)
    assert time.monotonic() - began_s < 30
    assert done.code == 4, done
    assert "s3cr3t" not in done.out + done.err
    (line,) = done.err.splitlines()
    assert line.startswith("heavyq: Redis refused the user or password: ")
    assert line.endswith("(user and password stand in the URL: redis://USER:PASSWORD@HOST)")


def test_database_that_the_server_does_not_have_is_exit_4(shell: Shell) -> None:
    shell.write(WORKS)
    line = shell.refused(4, "run", "app", redis=shell.url.removesuffix("/0") + "/99")
    assert line.startswith("ERR DB index is out of range (is the database in the URL one that Redis has")


def test_no_redis_named_anywhere_is_exit_3(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(WORKS)
    done = heavyq("run", "app", folder=tmp_path)
    assert done.code == 3, done
    (line,) = done.err.splitlines()
    assert "HEAVYQ_REDIS=redis://HOST:6379" in line


def test_import_is_reported_before_redis(shell: Shell) -> None:
    shell.write("import hq_not_there")
    line = shell.refused(3, "run", "app", *QUICK, redis=NOBODY)
    assert line.startswith("cannot import app: ModuleNotFoundError")


# ---- adding

TYPED = """\
from heavyq import Model, Queue
class Video(Model):
    video_id: str
q = Queue("q", payload=Video, max_payload="1Ki")
@q.processor
def work(job): return job.data.video_id
"""


@pytest.mark.parametrize(
    ("code", "payload", "words"),
    [
        (2, "{videoId: 1}", "the payload is no JSON: Expecting property name"),
        (1, '{"videoId": 7}', "the payload of queue 'q' does not fit Video: video_id (videoId on the wire): "),
        (1, "[]", "the payload of queue 'q' does not fit Video: "),
        (
            1,
            json.dumps({"videoId": "x" * 2000}),
            "add to queue 'q': the payload has 2014 bytes as JSON, and max_payload is 1Ki: store it, pass its id",
        ),
    ],
    ids=["malformed", "wrong field", "wrong type", "too large"],
)
def test_wrong_payload_is_refused_by_add(shell: Shell, code: int, payload: str, words: str) -> None:
    shell.write(TYPED)
    assert shell.refused(code, "add", "q", "work", payload, HEAVYQ_MODULES="app").startswith(words)


def test_payload_over_the_standard_size_is_refused_by_add_without_modules(shell: Shell) -> None:
    done = shell("add", "q", "work", "-", stdin=json.dumps("x" * 1024**2))
    assert done.code == 1, done.code
    why = done.err.splitlines()[-1]
    assert why.startswith("heavyq: add to queue 'q': the payload has 1048578 bytes as JSON, and max_payload is 1Mi")
    shell.untouched()


def test_wrong_payload_and_wrong_options_are_refused_by_the_api(
    shell: Shell, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_declarations(monkeypatch)

    class Video(api.Model):
        video_id: str

    place: Any = {"prefix": shell.jobs.q.prefix, "connection": valkey.url}
    videos: Any = api.Queue("q", payload=Video, max_payload="1Ki", **place)
    try:
        misfits: tuple[Any, ...] = ({"video_id": 7}, {}, [], None, "v1")
        for wrong in misfits:
            with pytest.raises(PayloadError, match="the payload of queue 'q' does not fit Video: "):
                videos.add(wrong)
        with pytest.raises(PayloadTooLarge, match="max_payload is 1Ki: store it, pass its id"):
            videos.add(Video(video_id="x" * 2000))
        with pytest.raises(UnknownOption, match="has no option 'dely' \\(did you mean \"delay\""):
            videos.add(Video(video_id="v1"), dely="5m")
        with pytest.raises(NotBuiltYet, match="durable is not built yet"):
            videos.add(Video(video_id="v1"), durable=True)
        with pytest.raises(BadValue, match="deduplication: 1 is no deduplication: write an id, or Dedup"):
            videos.add(Video(video_id="v1"), deduplication=1)
        with pytest.raises(BadValue, match="only one of them can hold when the job has failed"):
            videos.add(Video(video_id="v1"), fail_parent_on_failure=True, continue_parent_on_failure=True)
        with pytest.raises(BadValue, match="no Redis URL"):
            api.Queue("other", connection=shell.jobs.raw)  # type: ignore[arg-type]
    finally:
        api.close()
    shell.untouched()


# ---- jobs that somebody else has added

APP = """
    import os
    from heavyq import Model, Queue
    from pydantic import model_validator

    class Video(Model):
        video_id: str

        @model_validator(mode="before")
        @classmethod
        def checked(cls, value):
            value["videoId"]
            return value

    class Made(Model):
        path: str

    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    q = Queue("q", payload=Video, result=Made, max_result="1Ki")

    @q.processor("ok")
    def ok(job):
        return {"path": f"{job.data.video_id} {os.getpid()}"}

    @q.processor("misfit")
    def misfit(job):
        return {"pth": "a.mp4"}

    @q.processor("object")
    def some_object(job):
        return object()

    @q.processor("large")
    def large(job):
        return Made(path="x" * 2000)

    @q.processor("mute")
    def mute(job):
        raise Mute
"""

# by case: name, what is put into its hash (None: taken out), attempts made at the end, reason, words of the reason
ONCE, EVERY = 1, 2
WRONG: dict[str, tuple[str, dict[str, bytes | None], int, str, str]] = {
    "payload of the wrong type": ("ok", {"data": b'{"videoId": 7}'}, ONCE, "invalid_payload", "videoId on the wire"),
    "payload without the field": ("ok", {"data": b"{}"}, ONCE, "invalid_payload", "cannot be read: KeyError"),
    "data that is no JSON": ("ok", {"data": b"{bad"}, ONCE, "invalid_payload", "Invalid JSON"),
    "data that is no UTF-8": ("ok", {"data": b'{"videoId": "\xff"}'}, ONCE, "invalid_payload", "Invalid JSON"),
    "no data": ("ok", {"data": None}, ONCE, "unreadable", "data cannot be read: the field is missing"),
    "no name": ("ok", {"name": None}, ONCE, "unreadable", "name cannot be read: the field is missing"),
    "opts that are no JSON": ("ok", {"opts": b"{bad"}, ONCE, "unreadable", "opts cannot be read: no JSON"),
    "opts that are no object": ("ok", {"opts": b"[1]"}, ONCE, "unreadable", "opts cannot be read: "),
    "attempts that are no number": (
        "ok",
        {"opts": b'{"attempts": "three"}'},
        ONCE,
        "unreadable",
        "opts.attempts cannot be read: a number is expected, not 'three'",
    ),
    "timestamp that is no number": ("ok", {"timestamp": b"now"}, ONCE, "unreadable", "timestamp cannot be read: "),
    "timestamp without an end": ("ok", {"timestamp": b"inf"}, ONCE, "unreadable", "timestamp cannot be read: "),
    "progress that is no JSON": ("ok", {"progress": b"{bad"}, ONCE, "unreadable", "progress cannot be read: "),
    "checkpoint that is no JSON": ("ok", {"hq:checkpoint": b"{"}, ONCE, "unreadable", "hq:checkpoint cannot be read: "),
    "unknown name": ("oky", {}, EVERY, "no_processor", "no processor for jobs named 'oky' (known names: large, misfit"),
    "name that is no UTF-8": ("ok", {"name": b"\xff"}, EVERY, "no_processor", "no processor for jobs named '\ufffd'"),
    "result of the wrong type": ("misfit", {}, EVERY, "invalid_result", "of queue 'q' does not fit Made: path: "),
    "result that is no JSON": ("object", {}, EVERY, "invalid_result", "the result of queue 'q' does not fit Made: "),
    "result too large": ("large", {}, EVERY, "result_too_large", "max_result is 1024: store it and return its address"),
    "error without a text": ("mute", {}, EVERY, "exception", "(no text: its __str__ raises RuntimeError)"),
}  # fmt: skip


def add_wrongly(jobs: Jobs, name: str, fields: Mapping[str, bytes | None]) -> str:
    job_id = jobs.add(name, {"videoId": "v1"}, attempts=EVERY)
    for field, value in fields.items():
        if value is None:
            jobs.raw.hdel(jobs.q.key(job_id), field)
        else:
            jobs.raw.hset(jobs.q.key(job_id), field, value)
    return job_id


def test_jobs_that_somebody_else_added_wrongly_fail_alone_and_say_why(
    run_worker: Callable[..., Worker], jobs: Jobs
) -> None:
    # conformance: C-040 C-041
    first = jobs.add("ok", {"videoId": "first"})
    ids = {case: add_wrongly(jobs, name, fields) for case, (name, fields, *_) in WRONG.items()}
    no_hash, other_key = jobs.add("ok"), jobs.add("ok")
    jobs.raw.delete(jobs.q.key(no_hash), jobs.q.key(other_key))
    jobs.raw.set(jobs.q.key(other_key), "no hash")
    last = jobs.add("ok", {"videoId": "last"})
    worker = run_worker(APP)

    ended = {case: jobs.wait(job_id) for case, job_id in ids.items()}
    seen = {case: (job.state, job.attempts_made, (job.failure or {})["reason"]) for case, job in ended.items()}
    assert seen == {case: ("failed", made, reason) for case, (_, _, made, reason, _) in WRONG.items()}
    missing = {
        case: ended[case].failed_reason
        for case, (*_, words) in WRONG.items()
        if words not in (ended[case].failed_reason or "")
    }
    assert not missing
    # One child has met all of it.
    before, after = (jobs.result(job_id)["path"].split() for job_id in (first, last))
    assert (before[0], after[0]) == ("first", "last")
    assert before[1] == after[1]
    jobs.wait_counts({"completed": 2, "failed": len(WRONG)})
    assert worker.running
    assert "Traceback" not in worker.log


# ---- children that cannot start


@pytest.mark.long
def test_hook_that_raises_in_every_child_ends_the_worker_and_the_job_is_given_back(
    run_worker: Callable[..., Worker], shell: Shell
) -> None:
    worker = run_worker(hook("child_start", "raise OSError('no database\\nat all')"))
    assert worker.wait() == 1
    where = f"{shell.folder}/app.py:8"
    assert worker.log.count("a process could not be started") == 5
    assert worker.log.splitlines()[-1] == (
        f"heavyq: 5 starts failed in a row; the last: @child_start open_it raised OSError: no database ({where})"
    )
    assert "Traceback" not in worker.log
    given_back(shell)


@pytest.mark.long
def test_fork_that_fails_is_tried_again_and_then_ends_the_worker(
    run_worker: Callable[..., Worker], shell: Shell
) -> None:
    # The limit binds any user but root, and this one has its one process already.
    limit = "import os, resource\n    os.getuid() or os.setuid(54_321)\n"
    worker = run_worker(hook("preload", f"{limit}    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))"))
    assert worker.wait() == 1
    assert worker.log.count("a process could not be started") == 5
    assert worker.log.splitlines()[-1] == (
        "heavyq: 5 starts failed in a row; the last: cannot fork: [Errno 11] Resource temporarily unavailable; "
        "is a limit of processes or memory reached?"
    )
    given_back(shell)


def given_back(shell: Shell) -> None:
    """See that the job, which has one attempt, waits as if nobody had taken it."""
    jobs = shell.jobs
    assert jobs.counts() == {"waiting": 1}
    assert jobs.read(shell.job_id).attempts_made == 0
    assert not jobs.raw.exists(jobs.q.key(f"{shell.job_id}:lock"))
    shell.write(WORKS)
    done = shell("run", "app", "--burst")
    assert done.code == 0, done
    assert jobs.result(shell.job_id) == shell.job_id


# ---- where it is run


@pytest.mark.parametrize("argv", [("run", "app"), ("queues",)])
def test_folder_that_was_removed_is_one_line(tmp_path: Path, argv: tuple[str, ...]) -> None:
    script = 'rmdir "$PWD" && exec "$0" -m heavyq "$@"'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable, *argv],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "heavyq: the current folder does not exist any more; go to one that does\n"
