"""Fixtures of the interop tests: a Node process for each generation of BullMQ, and queues seen from both sides."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import TypeAdapter

import heavyq
from heavyq import Queue
from heavyq.bullmq.keys import QueueKey
from tests.interop.node import GENERATIONS, HERE, Node, NodeQueue, why_missing
from tests.interop.record import Recorder
from tests.interop.trees import Trees
from tests.interop.twins import Twins
from tests.support.fresh import forget_declarations
from tests.support.ops import Rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from heavyq.store.client import Client
    from tests.support.valkey import Valkey
    from tests.support.worker import Worker


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="write what these tests saw to tests/interop/results.json")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("record", default=False):
        config.pluginmanager.register(Recorder(), "interop-record")


def note_version(config: pytest.Config, name: str, version: str) -> None:
    """Say what the tests ran with, for the page of results."""
    recorder = config.pluginmanager.get_plugin("interop-record")
    if isinstance(recorder, Recorder):
        recorder.versions[name] = version


def needs_node() -> None:
    """Skip where there is no Node or no BullMQ; in CI fail: a green run there means that they ran."""
    if why := why_missing():
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)


@pytest.fixture(scope="session", params=GENERATIONS, ids=lambda generation: f"v{generation}")
def node(request: pytest.FixtureRequest, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A process with real BullMQ that all tests share; each test runs with both generations."""
    needs_node()
    with Node(request.param, valkey.url, tmp_path_factory.mktemp("node") / "stderr.log") as process:
        note_version(request.config, request.param, process.version)
        with valkey.redis() as server:
            note_version(request.config, "Valkey", server.info("server")["valkey_version"])
        yield process


@pytest.fixture
def more_nodes(node: Node, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Node]]:
    """Make further processes, to kill: `more_nodes()`, or of the other generation: `more_nodes("5")`."""
    with contextlib.ExitStack() as processes:

        def make(generation: str = node.generation) -> Node:
            log_path = tmp_path_factory.mktemp("node") / "stderr.log"
            return processes.enter_context(Node(generation, valkey.url, log_path))

        yield make


@pytest.fixture
def bull(node: Node, q: QueueKey) -> Iterator[NodeQueue]:
    """The test's queue `q` in Node. At the end everything is closed, and BullMQ must have met no error."""
    queue = node.at(q)
    yield queue
    errors = queue("errors")
    queue("close")
    assert errors == []


@pytest.fixture
def ours(client: Client, raw: redis.Redis, q: QueueKey) -> Rig:
    """The test's queue `q` through heavyq's operations, on a clock that tests move."""
    return Rig(client, raw, q)


@pytest.fixture
def twins(node: Node, client: Client, raw: redis.Redis, prefix: str) -> Iterator[Twins]:
    """Two queues, one for Node and one for heavyq, that get the same steps on one clock."""
    mine, theirs = QueueKey(prefix, "ours"), QueueKey(prefix, "node")
    queue = node.at(theirs)
    pair = Twins(Rig(client, raw, mine), Rig(client, raw, theirs), queue)
    try:
        yield pair
        errors = queue("errors")
    finally:
        queue("close")
        node.call("clock", now=None)
    assert errors == []


@pytest.fixture
def trees(node: Node, client: Client, raw: redis.Redis, prefix: str) -> Iterator[Trees]:
    """Two queues, `par` and `chi`, each once for Node and once for heavyq, that get the same adds on one clock."""
    grown = Trees(node, client, raw, prefix, ("par", "chi"))
    errors = []
    try:
        yield grown
    finally:
        errors = grown.close()
        node.call("clock", now=None)
    assert errors == []


@pytest.fixture
def heavyq_worker(run_worker: Callable[..., Worker]) -> Callable[..., Worker]:
    """Start a heavyq worker on the test's queue: `heavyq_worker("-c", "2")`. It runs app.py."""
    text = (HERE / "app.py").read_text()
    return lambda *argv: run_worker(text, *argv)


@pytest.fixture
def live_worker(run_worker: Callable[..., Worker]) -> Callable[..., Worker]:
    """Start a heavyq worker on the test's queues `q` and `kids`. It runs live.py."""
    text = (HERE / "live.py").read_text()
    return lambda *argv, **options: run_worker(text, *argv, **options)


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch, prefix: str, valkey: Valkey) -> Iterator[Callable[..., Queue[Any, Any]]]:
    """Declare queues as a heavyq program does: `declare("kids")`. One attempt, any JSON, and what ends stays."""
    forget_declarations(monkeypatch)
    anything: TypeAdapter[Any] = TypeAdapter(Any)
    of_all: dict[str, Any] = {"payload": anything, "result": anything, "attempts": 1, "remove_on_complete": False}

    def make(name: str = "q", **options: Any) -> Queue[Any, Any]:
        return Queue(name, **{"prefix": prefix, "connection": valkey.url, **of_all, **options})

    yield make
    heavyq.close()


@pytest.fixture
def hq(declare: Callable[..., Queue[Any, Any]]) -> Queue[Any, Any]:
    """The test's queue `q` as a heavyq program sees it."""
    return declare()


@pytest.fixture
def kids(node: Node, prefix: str) -> Iterator[NodeQueue]:
    """The queue of the children, in Node."""
    queue = node.at(QueueKey(prefix, "kids"))
    yield queue
    errors = queue("errors")
    queue("close")
    assert errors == []
