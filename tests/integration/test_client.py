"""store.client on a real Valkey: one round trip, scripts that are forgotten, connections that break."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import TYPE_CHECKING, Any

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.op import Op
from heavyq.bullmq.scripts import SHARED, script
from heavyq.errors import ProtocolError, RedisRefused, RedisReplyError, RedisUnavailable
from heavyq.store import client as client_module
from heavyq.store import trip
from heavyq.store.client import Client
from heavyq.store.connect import check_server
from tests.support.eventually import eventually, let_pass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from tests.support.valkey import Valkey

Q = QueueKey("t", "q")


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    """Make clients that are closed at the end."""
    with contextlib.ExitStack() as ending:

        def make(url: str, **options: Any) -> Client:
            client = Client(url, **options)
            ending.callback(client.close)
            return client

        yield make


def add(q: QueueKey = Q, name: str = "n") -> Op[ops.Added]:
    return ops.add(q, name=name, data=b"{}", opts=b"{}", timestamp_ms=1)


def blocked(raw: redis.Redis) -> int:
    return int(raw.info("clients")["blocked_clients"])


# -- running operations


def test_results_come_in_the_order_of_the_operations(client: Client, q: QueueKey) -> None:
    results = client.run_many([add(q), ops.counts(q), add(q), ops.counts(q)])
    assert [getattr(each, "id", None) or each.waiting for each in results] == ["1", 1, "2", 2]
    assert client.run_many([]) == []


def test_one_error_is_only_its_own_operations(client: Client, raw: redis.Redis, q: QueueKey) -> None:
    broken = QueueKey(q.prefix, "broken")
    raw.set(broken.key("wait"), "no list")
    first, error, last = client.run_many([add(q), ops.counts(broken), add(q)])
    assert (first.id, last.id) == ("1", "2")
    assert isinstance(error, RedisReplyError)
    assert "WRONGTYPE" in str(error)
    with pytest.raises(RedisReplyError):
        client.run(ops.counts(broken))


def test_a_script_that_does_not_compile_says_so(client: Client, q: QueueKey, monkeypatch: pytest.MonkeyPatch) -> None:
    real = script

    def spoiled(verb: str) -> Any:
        text = b"this is no Lua" if verb == "wake" else real(verb).text
        return type(real(verb))(verb, text, "0" * 40 if verb == "wake" else real(verb).sha)

    monkeypatch.setattr(trip, "script", spoiled)
    error, result = client.run_many([ops.wake(q), ops.counts(q)])
    assert isinstance(error, RedisReplyError)
    assert "compil" in str(error)
    assert result.waiting == 0


def test_a_script_that_may_not_be_loaded_again_still_runs(
    own_valkey: Callable[..., Valkey], connect: Callable[..., Client]
) -> None:
    server = own_valkey()
    with server.redis() as raw:
        raw.script_load(script("add").text)
        raw.acl_setuser("default", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-script|load"])
    client = connect(server.url)
    added, refused = client.run_many([add(), ops.counts(Q)])
    assert added.id == "1"
    assert isinstance(refused, RedisReplyError)
    assert "NOPERM" in str(refused)


def test_a_reply_that_we_misread_is_our_bug_and_hides_no_neighbour(client: Client, q: QueueKey) -> None:
    op = add(q)
    broken = Op(op.verb, op.keys, op.args, lambda reply: reply["id"], replayable=False)
    first, error, last = client.run_many([op, broken, op])
    assert (first.id, last.id) == ("1", "3")
    assert isinstance(error, ProtocolError)


def test_text_that_is_no_unicode_is_written_all_the_same(client: Client, raw: redis.Redis, q: QueueKey) -> None:
    job_id = client.run(add(q, name="caf\udce9")).id
    assert raw.hget(q.key(job_id), "name") == b"caf\\udce9"


def test_a_batch_is_one_round_trip(client: Client, raw: redis.Redis, q: QueueKey) -> None:
    batch: list[Op[Any]] = [add(q), ops.counts(q), ops.wake(q)]
    client.run_many(batch)
    before = raw.info("stats")["total_reads_processed"]
    client.run_many(batch * 10)
    assert raw.info("stats")["total_reads_processed"] - before == 2  # it, and the second INFO


def test_threads_share_a_client(client: Client, q: QueueKey) -> None:
    with ThreadPoolExecutor(8) as threads:
        batches = list(threads.map(lambda _: client.run_many([add(q)] * 25), range(16)))
    ids = [int(added.id) for batch in batches for added in batch]
    assert sorted(ids) == list(range(1, 401))


def test_a_forked_process_has_connections_of_its_own(client: Client, q: QueueKey) -> None:
    client.run(add(q))
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os._exit(int(client.run(add(q)).id))
        os._exit(99)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 2
    assert client.run(add(q)).id == "3"


VERBS = sorted(
    entry.name.removesuffix(".lua")
    for entry in resources.files("heavyq.bullmq.ops").iterdir()
    if entry.name.endswith(".lua") and entry.name.removesuffix(".lua") not in SHARED
)


@pytest.mark.parametrize("verb", VERBS)
def test_every_script_compiles_and_has_the_sha_that_the_server_computes(raw: redis.Redis, verb: str) -> None:
    assert raw.script_load(script(verb).text) == script(verb).sha
    assert script(verb) is script(verb)
    assert callable(getattr(ops, verb))


# -- scripts that the server forgot


def test_after_a_flush_of_scripts_nothing_is_lost_and_nothing_done_twice(
    own_valkey: Callable[..., Valkey], connect: Callable[..., Client]
) -> None:
    server = own_valkey()
    client = connect(server.url)
    client.run_many([add(), ops.wake(Q)])
    with server.redis() as raw:
        raw.script_flush()
        assert client.run(add()).id == "2"
        raw.script_flush()
        results = client.run_many([add(), ops.counts(Q), add(), ops.wake(Q)])
        assert (results[0].id, results[1].waiting, results[2].id) == ("3", 3, "4")
        assert raw.llen(Q.key("wait")) == 4


def test_only_what_was_not_run_is_sent_again(own_valkey: Callable[..., Valkey], connect: Callable[..., Client]) -> None:
    server = own_valkey()
    client = connect(server.url)
    client.run_many([add(), ops.counts(Q)])
    with server.redis() as raw:
        raw.script_flush()
        raw.script_load(script("add").text)
    results = client.run_many([add(), ops.counts(Q), add()])
    assert (results[0].id, results[1].waiting, results[2].id) == ("2", 3, "3")


# -- connections that break


def test_after_a_restart_the_next_call_works(own_valkey: Callable[..., Valkey], connect: Callable[..., Client]) -> None:
    server = own_valkey(aof=True)
    client = connect(server.url)
    with ThreadPoolExecutor(4) as threads:  # several idle connections in the pool
        barrier = threading.Barrier(4)

        def at_once(_: int) -> str:
            barrier.wait(10)
            return client.run(add()).id

        assert len(set(threads.map(at_once, range(4)))) == 4
    server.restart(kill=True)
    assert client.run(add()).id == "5"
    assert client.run_many([add(), ops.counts(Q)])[1].waiting == 6


def test_while_the_server_is_away_every_call_says_so_and_afterwards_works(
    own_valkey: Callable[..., Valkey], connect: Callable[..., Client]
) -> None:
    server = own_valkey()
    client = connect(server.url)
    client.run(add())
    calls: list[Callable[[], Any]] = [
        lambda: client.run(add()),
        lambda: client.run_many([add(), add()]),
        lambda: client.pop_marker(Q, 0.1),
        lambda: client.read_events(Q, "0", 0, 10),
        lambda: client.scan_queues("t"),
        client.ping,
    ]

    def all_fail() -> None:
        for call in calls:
            with pytest.raises(RedisUnavailable):
                call()

    server.restart(while_down=all_fail)
    for call in calls:
        call()


def test_a_server_that_hangs_is_unavailable_after_the_timeout_and_no_reply_is_mixed_up(
    own_valkey: Callable[..., Valkey], connect: Callable[..., Client]
) -> None:
    server = own_valkey()
    client = connect(server.url, timeout_s=0.3)
    client.run(add(name="before"))
    server.pause()
    started_s = time.monotonic()
    with pytest.raises(RedisUnavailable):
        client.run_many([add(name="lost"), add(name="lost")])
    assert 0.2 < time.monotonic() - started_s < 2
    server.resume()
    # What was sent then may have happened; it is not our reply now.
    assert client.run(ops.counts(Q)).waiting in {1, 3}
    eventually(lambda: client.run(ops.counts(Q)).waiting == 3, 5, "what was sent arrives")
    assert client.run(add(name="after")).id == "4"


def test_a_connection_that_breaks_half_way_fails_the_whole_batch(
    own_valkey: Callable[..., Valkey], connect: Callable[..., Client]
) -> None:
    server = own_valkey()
    client = connect(server.url)
    client.run(add())
    with server.redis() as raw:
        raw.set(Q.key("drop"), "x")
    kill_us = Op("add", (Q.key("meta"),), ("n",), lambda reply: reply, replayable=False)  # bad arguments: an error
    results = client.run_many([add(), kill_us, add()])
    assert isinstance(results[1], RedisReplyError)
    server.pause()
    failure: list[BaseException] = []

    def send() -> None:
        try:
            client.run_many([add()] * 50)
        except BaseException as error:
            failure.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    let_pass(0.1, "it waits for an answer by now; if not, it meets a dead server: the same")
    server.kill()
    sender.join(10)
    assert len(failure) == 1
    assert isinstance(failure[0], RedisUnavailable)


def test_nothing_is_sent_twice_by_the_client(own_valkey: Callable[..., Valkey], connect: Callable[..., Client]) -> None:
    server = own_valkey()
    client = connect(server.url, timeout_s=0.2)
    client.run(add())
    server.pause()
    for _ in range(3):
        with pytest.raises(RedisUnavailable):
            client.run(add())
    server.resume()
    with server.redis() as raw:
        eventually(lambda: raw.llen(Q.key("wait")) >= 2, 5, "the lost adds arrive")
        # The first went out whole; the later ones may have died in the handshake of a new connection.
        assert raw.llen(Q.key("wait")) <= 4


# -- servers that answer, and will not serve


def test_a_wrong_or_missing_password_is_refused_and_the_right_one_is_taken(
    own_valkey: Callable[..., Valkey], connect: Callable[..., Client]
) -> None:
    server = own_valkey(password="right")
    wrong = connect(server.url.replace("right", "wrong"))
    missing = connect(server.url.replace(":right@", ""))
    for client in (wrong, missing):
        for call in (lambda: client.run(add()), client.ping, lambda: client.pop_marker(Q, 0.1)):  # noqa: B023
            with pytest.raises(RedisRefused) as caught:
                call()
            assert "wrong" not in str(caught.value).replace("WRONGPASS", "")
    assert connect(server.url).run(add()).id == "1"


def test_a_password_that_changes_is_refused_and_then_taken_again(
    own_valkey: Callable[..., Valkey], connect: Callable[..., Client]
) -> None:
    server = own_valkey(password="right")
    client = connect(server.url)
    client.run(add())
    with server.redis() as raw:
        raw.config_set("requirepass", "other")
        raw.client_kill_filter(skipme=True, _type="normal")
        with pytest.raises(RedisRefused):
            client.run(add())
        raw.config_set("requirepass", "right")
    assert client.run(add()).id == "2"


@pytest.mark.parametrize(
    ("setting", "spoiled", "mended"),
    [("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")],
    ids=["OOM", "NOREPLICAS"],
)
def test_a_server_that_refuses_writes_is_away_until_it_takes_them(
    own_valkey: Callable[..., Valkey], connect: Callable[..., Client], setting: str, spoiled: str, mended: str
) -> None:
    server = own_valkey()
    client = connect(server.url)
    client.run(add())
    with server.redis() as raw:
        raw.config_set(setting, spoiled)
        with pytest.raises(RedisUnavailable):
            client.run(add())
        assert all(isinstance(each, RedisUnavailable) for each in client.run_many([add(), add()]))
        raw.config_set(setting, mended)
    assert client.run(add()).id == "2"


def test_a_replica_is_away_and_the_next_call_connects_anew(
    own_valkey: Callable[..., Valkey], connect: Callable[..., Client]
) -> None:
    server = own_valkey()
    client = connect(server.url)
    client.run(add())
    with server.redis() as raw:
        raw.replicaof("127.0.0.1", "1")
        with pytest.raises(RedisUnavailable, match="READONLY"):
            client.run(add())
        raw.config_set("replica-serve-stale-data", "no")
        with pytest.raises(RedisUnavailable, match="MASTERDOWN"):
            client.run(add())
        raw.replicaof("NO", "ONE")
        assert client.run(add()).id == "2"
        raw.replicaof("127.0.0.1", "1")  # a failover moves a name to another server: the old connection must go
        [before] = [each["id"] for each in raw.client_list() if each["cmd"] == "evalsha"]
        for _ in range(2):
            with pytest.raises(RedisUnavailable):
                client.run(add())
        assert before not in [each["id"] for each in raw.client_list()]


def test_a_server_that_is_busy_with_a_script_is_away(
    own_valkey: Callable[..., Valkey], connect: Callable[..., Client]
) -> None:
    server = own_valkey(config={"busy-reply-threshold": "20"})
    client = connect(server.url)
    client.run(add())
    with server.redis() as raw, server.redis() as killer:
        running = threading.Thread(target=lambda: _swallow(lambda: raw.eval("while true do end", 0)))
        running.start()
        try:

            def says_busy() -> bool:
                try:
                    client.run(add())
                except RedisUnavailable as error:
                    return "BUSY" in str(error)
                return False

            eventually(says_busy, 5, "the server says BUSY")
        finally:
            killer.script_kill()
            running.join(5)
    client.run(add())


def _swallow(call: Callable[[], Any]) -> None:
    with contextlib.suppress(Exception):
        call()


def test_something_else_listens_there(connect: Callable[..., Client]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with listening.accept()[0] as peer:
                peer.recv(1000)
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        answering = threading.Thread(target=answer)
        answering.start()
        client = connect(f"redis://127.0.0.1:{listening.getsockname()[1]}/0", timeout_s=2.0)
        with pytest.raises(RedisUnavailable):
            client.ping()
        answering.join(5)


# -- waiting for markers


def test_a_marker_is_popped_with_its_score(client: Client, raw: redis.Redis, q: QueueKey) -> None:
    raw.zadd(q.key("marker"), {"0": 0, "1": 1795492829667.0002})
    assert client.pop_marker(q, 1.0) == (b"0", 0.0)
    assert client.pop_marker(q, 1.0) == (b"1", 1795492829667.0002)


@pytest.mark.parametrize("timeout_s", [-1.0, 0.0, 0.0001, 0.05])
def test_no_marker_is_none_after_the_timeout(client: Client, q: QueueKey, timeout_s: float) -> None:
    started_s = time.monotonic()
    assert client.pop_marker(q, timeout_s) is None
    assert time.monotonic() - started_s < 1


def test_a_block_may_be_longer_than_the_timeout_of_replies(
    valkey: Valkey, connect: Callable[..., Client], q: QueueKey
) -> None:
    client = connect(valkey.url, timeout_s=0.2)
    started_s = time.monotonic()
    assert client.pop_marker(q, 0.7) is None
    assert time.monotonic() - started_s >= 0.7


def test_a_long_wait_is_several_blocks(
    valkey: Valkey, connect: Callable[..., Client], raw: redis.Redis, q: QueueKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "BLOCK_MAX_S", 0.1)
    client = connect(valkey.url, timeout_s=0.5)
    before = (
        raw.info("commandstats")["cmdstat_bzpopmin"]["calls"] if "cmdstat_bzpopmin" in raw.info("commandstats") else 0
    )
    assert client.pop_marker(q, 0.6) is None
    assert raw.info("commandstats")["cmdstat_bzpopmin"]["calls"] - before >= 2


def test_a_waiter_does_not_hold_up_the_others(client: Client, raw: redis.Redis, q: QueueKey) -> None:
    with ThreadPoolExecutor(1) as threads:
        popped = threads.submit(client.pop_marker, q, 10.0)
        eventually(lambda: blocked(raw) == 1, 5, "it waits")
        client.run(add(q))
        assert popped.result(5) == (b"0", 0.0)


def test_a_hung_server_is_noticed_by_a_waiter(
    own_valkey: Callable[..., Valkey], connect: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "BLOCK_MAX_S", 0.3)
    server = own_valkey()
    client = connect(server.url, timeout_s=0.3)
    assert client.pop_marker(Q, 0.01) is None
    server.pause()
    started_s = time.monotonic()
    with pytest.raises(RedisUnavailable):
        client.pop_marker(Q, 60.0)
    assert time.monotonic() - started_s < 3
    server.resume()
    client.run(add())
    eventually(lambda: client.pop_marker(Q, 0.1) or client.run(ops.wake(Q)), 5, "it pops again")


def test_a_waiter_survives_a_restart(own_valkey: Callable[..., Valkey], connect: Callable[..., Client]) -> None:
    server = own_valkey()
    client = connect(server.url)
    with server.redis() as raw, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.pop_marker, Q, 10.0)
        eventually(lambda: blocked(raw) == 1, 5, "it waits")
        server.restart()
        with pytest.raises(RedisUnavailable):
            waiting.result(5)
        client.run(add())
        assert client.pop_marker(Q, 5.0) == (b"0", 0.0)


def test_only_blocking_connections_carry_the_name(
    own_valkey: Callable[..., Valkey], connect: Callable[..., Client]
) -> None:
    server = own_valkey()
    client = connect(server.url, name="t:cQ==:w:w1")
    client.run(add())
    client.pop_marker(Q, 0.1)
    with server.redis() as raw:
        names = {each["cmd"]: each["name"] for each in raw.client_list()}
    assert names["bzpopmin"] == "t:cQ==:w:w1"
    assert names["evalsha"] == ""


# -- closing


def test_closing_ends_a_wait_and_leaves_no_socket(
    own_valkey: Callable[..., Valkey], connect: Callable[..., Client]
) -> None:
    server = own_valkey()
    client = connect(server.url)
    client.run(add())
    client.pop_marker(Q, 0.1)
    with server.redis() as raw, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.pop_marker, Q, 10.0)
        eventually(lambda: blocked(raw) == 1, 5, "it waits")
        client.close()
        with pytest.raises(RedisUnavailable):
            waiting.result(5)
        eventually(lambda: len(raw.client_list()) == 1, 5, "the server sees no client but this one")
    client.close()
    for call in (lambda: client.run(add()), lambda: client.pop_marker(Q, 1.0), client.ping):
        with pytest.raises(RedisUnavailable, match="closed"):
            call()


def test_a_client_that_was_never_used_connects_nowhere() -> None:
    Client("redis://127.0.0.1:1/0").close()


# -- looking around


def test_queues_are_found_by_their_meta(client: Client, raw: redis.Redis, prefix: str) -> None:
    for name in ("b", "a", "with space", "ünï"):
        client.run(ops.open_queue(QueueKey(prefix, name)))
    raw.hset(f"{prefix}::relay:meta", "x", "1")
    raw.hset(f"{prefix}:a:repeat:meta", "x", "1")
    raw.hset(f"{prefix}::meta", "x", "1")
    raw.set(f"{prefix}:text:meta", "no hash")
    raw.hset(f"{prefix}:no-meta:id", "x", "1")
    raw.hset(f"{prefix}2:other:meta", "x", "1")
    try:
        assert [q.name for q in client.scan_queues(prefix)] == ["a", "b", "with space", "ünï"]
        assert client.scan_queues(prefix)[0] == QueueKey(prefix, "a")
    finally:
        raw.delete(f"{prefix}2:other:meta")


@pytest.mark.parametrize("odd", ["{x}", "a*b", "a?b", "[ab]", "a\\b", "^", "a:b"])
def test_a_prefix_is_taken_literally(client: Client, raw: redis.Redis, prefix: str, odd: str) -> None:
    mine = f"{prefix}:{odd}"
    client.run(ops.open_queue(QueueKey(mine, "q")))
    client.run(ops.open_queue(QueueKey(f"{prefix}:axb", "q")))
    client.run(ops.open_queue(QueueKey(f"{prefix}:a", "q")))
    assert client.scan_queues(mine) == [QueueKey(mine, "q")]


def test_events_are_read_from_an_id_on(client: Client, raw: redis.Redis, q: QueueKey) -> None:
    assert client.last_event_id(q) == "0-0"
    assert client.read_events(q, "0", 0, 10) == []
    raw.xadd(q.key("events"), {"event": "completed", "jobId": "1", "returnvalue": b"\xff"})
    first = client.last_event_id(q)
    raw.xadd(q.key("events"), {"event": "x", b"\xff": "y"})
    both = client.read_events(q, "0", 0, 10)
    assert both[0] == (first, {"event": b"completed", "jobId": b"1", "returnvalue": b"\xff"})
    assert client.read_events(q, first, 0, 10) == both[1:]
    assert both[1][1] == {"event": b"x", "\N{REPLACEMENT CHARACTER}": b"y"}
    assert client.read_events(q, "0", 0, 1) == both[:1]


def test_an_event_is_waited_for(client: Client, raw: redis.Redis, q: QueueKey) -> None:
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(client.read_events, q, client.last_event_id(q), 10_000, 10)
        eventually(lambda: blocked(raw) == 1, 5, "it waits")
        raw.xadd(q.key("events"), {"event": "x"})
        [(event_id, fields)] = reading.result(5)
    assert fields == {"event": b"x"}
    assert client.read_events(q, event_id, 50, 10) == []


def test_the_server_here_is_new_enough(client: Client) -> None:
    check_server(client)
    client.ping()


# -- transactions


def test_a_transaction_is_seen_whole_and_answers_in_order(client: Client, raw: redis.Redis, q: QueueKey) -> None:
    first, seen, last = client.atomic([add(q), ops.counts(q), add(q)])
    assert (first.id, seen.waiting, last.id) == ("1", 1, "2")
    assert client.atomic([]) == []
    raw.script_flush()  # the scripts are loaded within it
    assert client.atomic([add(q)])[0].id == "3"


def test_an_error_in_a_transaction_is_only_its_own_operation_s(client: Client, raw: redis.Redis, q: QueueKey) -> None:
    broken = QueueKey(q.prefix, "broken")
    raw.set(broken.key("wait"), "no list")
    first, error, last = client.atomic([add(q), ops.counts(broken), add(q)])
    assert (first.id, last.id) == ("1", "2")
    assert isinstance(error, RedisReplyError)


def test_a_transaction_that_the_server_discards_has_not_happened(
    own_valkey: Callable[..., Valkey], connect: Callable[..., Client]
) -> None:
    server = own_valkey()
    client = connect(server.url)
    with server.redis() as raw:
        raw.acl_setuser("default", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-script|load"])
        with pytest.raises(RedisReplyError, match="NOPERM"):
            client.atomic([add(), add()])
        assert raw.dbsize() == 0
    assert client.run_many([add(), add()]) != []  # the connection is in step


@pytest.mark.parametrize("refusal", [("CONFIG", "SET", "maxmemory", "1"), ("REPLICAOF", "127.0.0.1", "1")])
def test_a_server_that_takes_no_writes_refuses_all_of_a_transaction(
    own_valkey: Callable[..., Valkey], connect: Callable[..., Client], refusal: Any
) -> None:
    server = own_valkey()
    client = connect(server.url)
    with server.redis() as raw:
        raw.execute_command(*refusal)
        answers = client.atomic([add(), add()])
        assert [type(answer) for answer in answers] == [RedisUnavailable] * 2
        assert raw.dbsize() == 0


def test_a_server_that_is_not_there_was_sent_nothing(connect: Callable[..., Client]) -> None:
    client = connect("redis://127.0.0.1:1")
    for ask in (lambda: client.run(add()), lambda: client.atomic([add()])):
        with pytest.raises(RedisUnavailable) as caught:
            ask()
        assert caught.value.nothing_happened


def test_the_server_s_clients_are_listed(client: Client) -> None:
    assert " cmd=client" in client.client_list()
