"""store.connect: which URLs are taken, what an error means, which servers are too old."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from redis import exceptions as theirs
from redis.connection import DefaultParser

from heavyq.errors import BadValue, ConfigError, RedisError, RedisRefused, RedisReplyError, RedisUnavailable
from heavyq.store.connect import AWAY_CODES, check_server, check_url, make_client, too_old, translate


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://localhost:6379",
        "redis://localhost:6379/",
        "redis://localhost:6379/2",
        "redis://user:p%40ss@10.0.0.1:6380/0",
        "redis://:secret@[::1]:6379/1?db=3",
        "rediss://redis.example.com:6380/0?ssl_cert_reqs=required&ssl_ca_certs=/etc/ca.pem",
        "unix:///run/redis.sock",
        "unix://:secret@/run/redis.sock?db=1",
        "unix:///run/redis.sock?password=secret",
    ],
)
def test_urls_that_are_taken(url: str) -> None:
    check_url(url)
    make_client(url, timeout_s=1.0, read_timeout_s=1.0).close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "not begin with a scheme"),
        ("localhost:6379", "not begin with a scheme"),
        ("http://localhost:6379", 'begins with "http"'),
        ("redis:localhost", "not begin with a scheme"),
        ("redis://", "no host"),
        ("redis://:6379", "no host"),
        ("redis://localhost:port", "cannot be read"),
        ("redis://localhost:99999", "cannot be read"),
        ("redis://localhost:0", "port is 0"),
        ("redis://[::1", "cannot be read"),
        ("redis://localhost/queue", 'ends with "/queue"'),
        ("redis://localhost/0/1", 'ends with "/0/1"'),
        ("redis://localhost/-1", 'ends with "/-1"'),
        (f"redis://{'a' * 64}.example", "no host name"),
        ("redis://localhost?db=x", "db is no number"),
        ("redis://localhost?protocol=3", '"protocol"'),
        ("redis://localhost?retry_on_timeout=True", '"retry_on_timeout"'),
        ("redis://localhost?decode_responses=", '"decode_responses"'),
        ("redis://localhost?ssl_cert_reqs=none", '"ssl_cert_reqs"'),
        ("unix://", "no socket"),
        ("unix:///", "no socket"),
        ("unix://run/redis.sock", "three slashes"),
        (f"unix:///{'x' * 108}", "107"),
    ],
)
def test_urls_that_are_not(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        make_client(url, timeout_s=1.0, read_timeout_s=1.0)


@pytest.mark.parametrize("rest", ["host:port", "host/queue", "host?protocol=3", "", "host:0"])
def test_a_complaint_about_a_url_never_shows_the_password(rest: str) -> None:
    for scheme in ("redis", "rediss", "unix", "http"):
        with pytest.raises(ConfigError) as caught:
            check_url(f"{scheme}://user:secret@{rest}")
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["redis://:secret/x@host", "redis://:se?secret=1@host", "redis://:1/secret@host", "u:secret@host", ":secret@host"],
)
def test_nor_one_that_was_not_escaped(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_url(url)
    assert "secret" not in str(caught.value)


def test_the_settings_that_heavyq_relies_on() -> None:
    with make_client("redis://localhost", timeout_s=1.0, read_timeout_s=2.0, name="n") as client:
        settings = client.connection_pool.connection_kwargs
        connection = client.connection_pool.connection_class(**settings)
    assert int(settings["protocol"]) == 2
    assert settings["decode_responses"] is False
    assert settings["health_check_interval"] == 0
    assert (settings["socket_connect_timeout"], settings["socket_timeout"]) == (1.0, 2.0)
    assert settings["client_name"] == "n"
    assert connection.retry.get_retries() == 0
    assert not connection.retry_on_timeout


def reply_error(line: str) -> Exception:
    """Return what redis-py makes of an error reply."""
    error = DefaultParser.parse_error(line)
    assert isinstance(error, Exception)
    return error


@pytest.mark.parametrize(
    "line",
    [
        "LOADING Redis is loading the dataset in memory",
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "READONLY You can't write against a read only replica.",
        "READONLY You can't write against a read only replica. script: 9f6, on @user_script:12.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "ERR Error running script (call to f_9f6): @user_script:12: @user_script: 12: -OOM command not allowed",
        "ERR Error running script (call to f_9f6): @user_script:12: @user_script: 12: -READONLY You can't write",
        "NOREPLICAS Not enough good replicas to write.",
        "CLUSTERDOWN The cluster is down",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        "NOSCRIPT No matching script. Please use EVAL.",
        "ERR max number of clients reached",
    ],
)
def test_a_server_that_cannot_serve_now_counts_as_away(line: str) -> None:
    assert type(translate(reply_error(line))) is RedisUnavailable


def test_every_code_that_counts_as_away_does() -> None:
    for code in AWAY_CODES:
        assert type(translate(reply_error(f"{code} whatever"))) is RedisUnavailable


@pytest.mark.parametrize(
    "line",
    [
        "NOAUTH Authentication required.",
        "WRONGPASS invalid username-password pair or user is disabled.",
        "ERR invalid password",
        "ERR wrong number of arguments for 'auth' command",
        (
            "ERR AUTH <password> called without any password configured for the default user. Are you sure your "
            "configuration is correct?"
        ),
    ],
)
def test_a_refused_password_is_no_lost_connection(line: str) -> None:
    error = translate(reply_error(line))
    assert type(error) is RedisRefused
    assert error.exit_code == 4


@pytest.mark.parametrize(
    "line",
    [
        "ERR unknown command 'EVALSHA'",
        "ERR heavyq: ARGV[2] must be a number script: 9f6, on @user_script:12.",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "NOPERM this user has no permissions to run the 'evalsha' command",
        "CROSSSLOT Keys in request don't hash to the same slot",
        "MOVED 3999 127.0.0.1:6381",
        "the word OOM stands in here",
        "BUSYGROUP Consumer Group name already exists",
        "",
    ],
)
def test_other_error_replies_are_final(line: str) -> None:
    assert type(translate(reply_error(line))) is RedisReplyError


@pytest.mark.parametrize(
    "error",
    [
        theirs.ConnectionError("Connection refused"),
        theirs.TimeoutError("Timeout reading from socket"),
        theirs.MaxConnectionsError("Too many connections"),
        theirs.InvalidResponse("Protocol error"),
        ConnectionResetError(104, "reset"),
        TimeoutError(),
    ],
)
def test_no_answer_is_unavailable_and_says_something(error: Exception) -> None:
    ours = translate(error)
    assert type(ours) is RedisUnavailable
    assert str(ours)


def test_what_is_no_error_of_redis_is_not_hidden() -> None:
    with pytest.raises(redis.WatchError):
        translate(redis.WatchError("a key has changed"))


def test_what_cannot_be_sent_is_a_bad_value() -> None:
    assert type(translate(redis.DataError("Invalid input of type: 'list'"))) is BadValue


@pytest.mark.parametrize(
    ("info", "old"),
    [
        ({"redis_version": "6.0.16"}, "Redis 6.0.16"),
        ({"redis_version": "6.2.0"}, None),
        ({"redis_version": "8.4.0"}, None),
        ({"redis_version": "10.0.1"}, None),
        ({"redis_version": "7.2.4", "valkey_version": "7.2.5"}, None),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, None),
        ({"redis_version": "7.2.4", "valkey_version": "7.0.0"}, "Valkey 7.0.0"),
        ({"redis_version": "6.0.0", "dragonfly_version": "df-v1.30.0"}, None),
        ({"redis_version": "unstable"}, None),
        ({}, None),
    ],
)
def test_servers_that_are_too_old(info: dict[str, object], old: str | None) -> None:
    complaint = too_old(info)
    if old is None:
        assert complaint is None
    else:
        assert complaint is not None
        assert old in complaint
        assert "6.2" in complaint


class Server:
    """Stands where a Client would; answers INFO only."""

    def __init__(self, answer: dict[str, Any] | RedisError) -> None:
        self._answer = answer

    def info(self, section: str) -> dict[str, Any]:
        assert section == "server"
        if isinstance(self._answer, RedisError):
            raise self._answer
        return self._answer


def test_the_worker_does_not_start_on_a_server_that_is_too_old() -> None:
    with pytest.raises(ConfigError, match=r"6\.0\.9"):
        check_server(Server({"redis_version": "6.0.9"}))  # type: ignore[arg-type]


def test_a_server_that_hides_its_version_passes_and_one_that_is_away_does_not() -> None:
    check_server(Server(RedisReplyError("NOPERM")))  # type: ignore[arg-type]
    with pytest.raises(RedisUnavailable):
        check_server(Server(RedisUnavailable("away")))  # type: ignore[arg-type]
