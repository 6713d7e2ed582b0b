"""What README and docs show works as it stands there: modules are worked, commands are run, output is compared."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.ops.find import find
from heavyq.config import load_run_settings
from heavyq.store import embedded
from heavyq.store.client import Client
from tests.support.eventually import eventually
from tests.support.worker import REPOSITORY, Finished, Worker, environment, heavyq

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.valkey import Valkey

README = (REPOSITORY / "README.md").read_text()
QUICKSTART = (REPOSITORY / "docs/quickstart.md").read_text()
HOWTO = {page.stem: page.read_text() for page in sorted((REPOSITORY / "docs/howto").glob("*.md"))}
PAGES = {"README": README, "quickstart": QUICKSTART, **HOWTO}
TOLD = [page for page, text in HOWTO.items() if "```console" in text]
MAKEFILE = (REPOSITORY / "Makefile").read_text()


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", page)


def files(page: str, folder: Path) -> None:
    """Write the page's files: blocks whose first line is a comment with a name."""
    for code in blocks(page, "(?:python|toml)"):
        if name := re.match(r"# (\w+\.\w+)\n", code):
            (folder / name[1]).write_text(code)


def scripts(page: str) -> set[str]:
    """Names of the page's files that a reader runs with `python`."""
    return set(re.findall(r"(?m)^\$ python (\w+\.py)$", page))


def commands(page: str, first_words: str = "[a-z]") -> list[list[str]]:
    """Every `heavyq ...` of a page: in a line of its own, or in the text."""
    found = re.findall(rf"(?m)(?:^    (?:\w+=\w+ )?|`)heavyq ({first_words}[^`\n]*)", page)
    return [shlex.split(command, comments=True) for command in found]


# ---- the README -------------------------------------------------------------------------------------------


@pytest.fixture
def shop(valkey: Valkey, prefix: str, tmp_path: Path) -> Iterator[tuple[Worker, dict[str, str]]]:
    """The README's module, worked by the README's `heavyq run`."""
    files(README, tmp_path)
    env = {"HEAVYQ_REDIS": valkey.url, "HEAVYQ_PREFIX": prefix}
    (run,) = commands(README, "run")
    with Worker(tmp_path, run[1:], env=env) as worker:
        yield worker, env


def test_every_command_of_the_readme(shop: tuple[Worker, dict[str, str]], tmp_path: Path) -> None:
    _, env = shop
    others = [argv for argv in commands(README) if argv[0] != "run"]
    assert ["add", "process-video", "process", '{"videoId": "v1"}', "--wait"] in others
    for argv in others:
        done = heavyq(*argv, folder=tmp_path, env=env)
        assert done.code == 0, (argv, done)
        if argv[0] == "add":
            assert json.loads(done.out) == {"path": "/out/v1.mp4"}


def test_the_readmes_add_from_python(shop: tuple[Worker, dict[str, str]], tmp_path: Path) -> None:
    (add,) = re.findall(r"\| Python \| `(.*?)`", README)
    done = python(f"from app import Video, videos; print({add}.result(30).path)", tmp_path, shop[1])
    assert (done.code, done.out) == (0, "/out/v1.mp4\n"), done


def test_it_needs_no_redis(tmp_path: Path) -> None:
    files(README, tmp_path)
    (tmp_path / "pyproject.toml").touch()
    env = {"HEAVYQ_EMBEDDED": "1"}
    (run,), (add,) = commands(README, "run"), commands(README, "add")
    with Worker(tmp_path, run[1:], env=env) as worker:
        worker.find("zygote")
        done = heavyq(*add, folder=tmp_path, env=env)
        assert "/out/v1.mp4" in done.out, done
        assert "for production set HEAVYQ_REDIS" in worker.log
    assert (tmp_path / ".heavyq/appendonlydir").is_dir()


@pytest.mark.parametrize("page", PAGES)
def test_its_make_targets_exist(page: str) -> None:
    for target in re.findall(r"(?m)(?:^    |`)make (\w+)", PAGES[page]):
        assert re.search(rf"(?m)^{target}:", MAKEFILE), target


# ---- the quickstart ---------------------------------------------------------------------------------------


class Reader:
    """Somebody who types what a page shows, in a folder of their own, and looks at what is printed."""

    def __init__(self, page: str, folder: Path, env: dict[str, str]) -> None:
        self.folder, self.env = folder, env
        self.worker: Worker | None = None
        self.added = ""  # id of the job that was added last
        files(page, folder)

    def follow(self, console: str) -> None:
        """Run a block's commands, each with the output that stands below it."""
        for step in re.split(r"(?m)^\$ ", console)[1:]:
            command, _, shown = step.partition("\n")
            self._type(command, shown.splitlines())

    def stop(self) -> None:
        if self.worker is not None:
            assert self.worker.stop() == 0, self.worker.tail()
            self.worker = None

    def _type(self, command: str, shown: list[str]) -> None:
        if command.startswith("kill "):
            self._kill(command)
        elif command.startswith("heavyq run"):
            self._run(shlex.split(command)[2:], shown)
        else:
            words = shlex.split(command)
            done = self._heavyq(words[1:]) if words[0] == "heavyq" else self._script(words[1:])
            refused = bool(shown) and shown[0].startswith("heavyq: the payload")
            assert done.code == int(refused), (command, done)
            for line in shown:
                assert re.search(_pattern(line), done.err + done.out), f"{command}: no line {line!r} in {done}"
            if added := re.search(r"job (\S+) added", done.out + done.err):
                self.added = added[1]

    def _run(self, argv: list[str], shown: list[str]) -> None:
        self.stop()
        self.worker = Worker(self.folder, argv, env=self.env)
        self.worker.start()
        for line in shown or ["... serving ..."]:
            self.worker.wait_log(_pattern(line))
        if "--burst" in argv:
            assert self.worker.wait() == 0

    def _kill(self, command: str) -> None:
        """Do what the command does, by parentage: the tests' machine may run other workers."""
        assert self.worker is not None
        self._wait_for_a_checkpoint()
        signal, role = re.fullmatch(r"kill -(\w+) \$\(pgrep -f 'heavyq (.*)'\)", command).groups()  # type: ignore[union-attr]
        if signal == "TERM":
            assert role == "guard"
            self.stop()
        else:
            assert (signal, role) == ("9", f"child process-video {self.added}")
            self.worker.kill(role)
            self.worker.wait_log("failed, will be retried")

    def _wait_for_a_checkpoint(self) -> None:
        client = Client(embedded.ensure(self.folder))
        try:
            eventually(lambda: client.run(find(QueueKey("bull", "process-video"), self.added)).checkpoint)
        finally:
            client.close()
            embedded.leave(self.folder)

    def _heavyq(self, argv: list[str]) -> Finished:
        return heavyq(*argv, folder=self.folder, env=self.env)

    def _script(self, argv: list[str]) -> Finished:
        return python((self.folder / argv[0]).read_text(), self.folder, self.env)


@pytest.mark.long
def test_the_quickstart_as_it_is_told(tmp_path: Path) -> None:
    _follow(QUICKSTART, tmp_path, {"HEAVYQ_EMBEDDED": "1"})
    _wait_for_the_server(tmp_path)


def _follow(page: str, folder: Path, env: dict[str, str]) -> None:
    reader = Reader(page, folder, env)
    consoles = blocks(page, "console")
    assert consoles
    try:
        for console in consoles:
            reader.follow(console)
    finally:
        reader.stop()


def _wait_for_the_server(folder: Path) -> None:
    """The last user has left: the embedded server goes too, and with it its socket."""
    eventually(lambda: not (folder / ".heavyq/valkey.sock").exists(), 10, "the embedded server has ended")


def _pattern(line: str) -> str:
    """A shown line as a pattern: `...` is any text, and so many spaces are some."""
    return r"(?m)^ *" + r" *".join(".*" if word == "..." else _words(word) for word in line.split()) + r".*$"


def _words(word: str) -> str:
    return ".*".join(re.escape(part) for part in word.split("..."))


# ---- the other pages --------------------------------------------------------------------------------------


def python(code: str, folder: Path, env: dict[str, str] | None = None) -> Finished:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment(env),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.mark.long
@pytest.mark.parametrize("page", HOWTO)
def test_modules_of_the_howtos_import(page: str, tmp_path: Path) -> None:
    """Those that are files import each other; those without a name stand for themselves; scripts are for readers."""
    files(HOWTO[page], tmp_path)
    modules = [f"import {file.stem}" for file in tmp_path.glob("*.py") if file.name not in scripts(HOWTO[page])]
    unnamed = [code for code in blocks(HOWTO[page], "python") if not re.match(r"# \w+\.py\n", code)]
    for code in (*unnamed, "\n".join(modules)):
        done = python(code, tmp_path)
        assert done.code == 0, (code, done)


@pytest.mark.long
@pytest.mark.parametrize("page", TOLD)
def test_a_howto_as_it_is_told(page: str, valkey: Valkey, prefix: str, tmp_path: Path) -> None:
    _follow(HOWTO[page], tmp_path, {"HEAVYQ_REDIS": valkey.url, "HEAVYQ_PREFIX": prefix})


@pytest.mark.parametrize("page", HOWTO)
def test_workers_of_the_howtos_would_start(page: str, tmp_path: Path) -> None:
    """Their flags and queues are right: `heavyq config` with the same arguments says so."""
    (tmp_path / "shop").mkdir()
    (module,) = blocks(README, "python")
    for name in ("app.py", "shop/processors.py"):
        (tmp_path / name).write_text(module)
    for argv in commands(HOWTO[page], r"run "):
        done = heavyq("config", *argv[1:], folder=tmp_path)
        assert done.code == 0, (argv, done)


def test_the_courses_that_can_be_stopped(valkey: Valkey, prefix: str, tmp_path: Path) -> None:
    module = next(code for code in blocks(HOWTO["deploy-and-drain"], "python") if "processor" in code)
    (tmp_path / "courses.py").write_text(module)
    env = {"HEAVYQ_REDIS": valkey.url, "HEAVYQ_PREFIX": prefix, "HEAVYQ_MODULES": "courses"}
    with Worker(tmp_path, env=env):
        done = heavyq("add", "courses", "render", '{"videos": ["a", "b"]}', "--wait", folder=tmp_path, env=env)
    assert json.loads(done.out) == ["/out/a.mp4", "/out/b.mp4"], done


def test_the_leak_that_is_recycled(valkey: Valkey, prefix: str, tmp_path: Path) -> None:
    files(HOWTO["leaks-and-recycling"], tmp_path)
    env = {"HEAVYQ_REDIS": valkey.url, "HEAVYQ_PREFIX": prefix}
    added = python("from app import pages; pages.add_bulk([{}] * 8)", tmp_path, env)
    assert added.code == 0, added
    worker = Worker(tmp_path, ["app", "--burst", "--log-level", "debug"], env=env)
    worker.start()
    assert worker.wait() == 0, worker.tail()
    assert re.search(r"child retired .* why='recycle_rss: grown by 1\d\d MiB since its birth'", worker.log)
    pids: list[Any] = [
        json.loads(heavyq("job", "pages", str(n), "--json", folder=tmp_path, env=env).out) for n in (1, 8)
    ]
    assert pids[0]["result"] != pids[1]["result"]


def test_tables_of_pyproject_are_read(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs/reference/files-and-environment.md").read_text()
    (table,) = blocks(page, "toml")
    (tmp_path / "pyproject.toml").write_text(table)
    settings = load_run_settings({}, {"WORKER_TYPE": "heavy"}, tmp_path / "pyproject.toml")
    assert (settings.modules, settings.drain_timeout_s) == (("shop.video",), 10.0)
