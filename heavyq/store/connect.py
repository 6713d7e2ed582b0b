"""Where redis-py clients are made, and where their errors become ours. The only place of either.

Owns the settings that heavyq relies on: RESP2 (under RESP3 scores and ZRANGE change shape), bytes in and out,
and no retries (redis-py 8.1 sends again by default; only we know what may be sent twice). Never runs an
operation.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    ClusterDownError,
    DataError,
    InvalidResponse,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.retry import Retry

from heavyq.errors import BadValue, ConfigError, HeavyqError, RedisRefused, RedisReplyError, RedisUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis.asyncio.connection import ConnectionPool

    from heavyq.store.client import Client

_SCHEMES: Final = ("redis", "rediss", "unix")
_SHAPES: Final = "redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH"
_UNIX_PATH_MAX: Final = 107  # the kernel's sun_path, less its final zero
_IN_QUERY: Final = frozenset({"db", "username", "password"})
_IN_TLS_QUERY: Final = _IN_QUERY | {
    "ssl_ca_certs",
    "ssl_ca_data",
    "ssl_ca_path",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_keyfile",
    "ssl_password",
}
_CONNECTIONS_MAX: Final = 100_000  # as many as there are threads; redis-py's own limit raises in the 101st

# The codes with which a server says that it cannot serve now. redis-py calls most of them ResponseError.
# UNBLOCKED: a blocking call was ended as the server became a replica. NOSCRIPT: the scripts were flushed
# twice while one batch was sent.
AWAY_CODES: Final = frozenset(
    {
        "BUSY",
        "CLUSTERDOWN",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "NOREPLICAS",
        "NOSCRIPT",
        "OOM",
        "READONLY",
        "TRYAGAIN",
        "UNBLOCKED",
    }
)
_CODE: Final = re.compile(r"[A-Z]{3,}(?= |$)")
# Redis 6.2 wraps what a command in a script says: "ERR Error running script (call to f_..): ...: -OOM ..".
_CODE_IN_SCRIPT: Final = re.compile(r"Error running script .*?: -([A-Z]{3,}) ")

# The codes that redis-py takes off the text.
_CODES_OF: Final = {
    ClusterDownError: "CLUSTERDOWN",
    MasterDownError: "MASTERDOWN",
    NoPermissionError: "NOPERM",
    NoScriptError: "NOSCRIPT",
    OutOfMemoryError: "OOM",
    ReadOnlyError: "READONLY",
    TryAgainError: "TRYAGAIN",
}

_FLOORS: Final = {"valkey": (7, 2), "redis": (6, 2)}


def make_client(url: str, *, timeout_s: float, read_timeout_s: float, name: str | None = None) -> redis.Redis:
    """Return a redis-py client with a pool of its own. Connects at its first command.

    timeout_s: for making a connection. read_timeout_s: for each read and write; above the longest block.
    name: CLIENT SETNAME of its connections.
    Raises ConfigError if the URL is none of ours.
    """
    check_url(url)
    return redis.Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        client_name=name,
        max_connections=_CONNECTIONS_MAX,
        **_settings(timeout_s, read_timeout_s),
    )


def make_async_pool(url: str, *, timeout_s: float, read_timeout_s: float) -> ConnectionPool:
    """Return redis-py's maker of connections for asyncio; a parameter that is missing here is as in `make_client`."""
    from redis.asyncio.connection import ConnectionPool
    from redis.asyncio.retry import Retry as AsyncRetry

    check_url(url)
    retry: Any = AsyncRetry(NoBackoff(), 0)
    return ConnectionPool.from_url(url, retry=retry, **_settings(timeout_s, read_timeout_s))


def _settings(timeout_s: float, read_timeout_s: float) -> dict[str, Any]:
    return {
        "protocol": 2,
        "decode_responses": False,
        "retry_on_timeout": False,
        "retry_on_error": [],
        "health_check_interval": 0,
        "socket_timeout": read_timeout_s,
        "socket_connect_timeout": timeout_s,
    }


def check_url(url: str) -> None:
    """Raise ConfigError if this is no URL that heavyq takes. Never shows the password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its text may hold a piece of the password, if that has a "/" in it
        raise ConfigError(
            f"the Redis URL's host or port cannot be read (write {_SHAPES}, escape /?#@ as %..)"
        ) from None
    scheme, mark, _ = url.partition("://")
    if not mark:
        raise ConfigError(f"the Redis URL does not begin with a scheme (write {_SHAPES})")
    if parts.scheme not in _SCHEMES:
        raise ConfigError(f"the Redis URL begins with {_shown(scheme)} (write {_SHAPES})")
    _check_query(parts)
    if parts.scheme == "unix":
        _check_unix(parts)
    else:
        _check_tcp(parts, port)


def _check_query(parts: SplitResult) -> None:
    known = _IN_TLS_QUERY if parts.scheme == "rediss" else _IN_QUERY
    given = parse_qs(parts.query, keep_blank_values=True)
    for name in given:
        if name not in known:
            raise ConfigError(
                f"the Redis URL sets {_shown(name)}, which heavyq does not take (known: {', '.join(sorted(known))})"
            )
    if not all(db.isdecimal() for db in given.get("db", [])):
        raise ConfigError("the Redis URL's db is no number (write ?db=0)")


def _check_unix(parts: SplitResult) -> None:
    path = unquote(parts.path)
    if parts.hostname:
        raise ConfigError("the Redis URL's socket path is not absolute (write unix:///PATH, with three slashes)")
    if len(path) <= 1:
        raise ConfigError("the Redis URL names no socket (write unix:///PATH)")
    if len(path.encode()) > _UNIX_PATH_MAX:
        raise ConfigError(
            f"the socket's path in the Redis URL has {len(path.encode())} bytes; the kernel takes "
            f"{_UNIX_PATH_MAX} (use a shorter one)"
        )


def _check_tcp(parts: SplitResult, port: int | None) -> None:
    if not parts.hostname:
        raise ConfigError(f"the Redis URL names no host (write {_SHAPES})")
    try:
        parts.hostname.encode("idna")
    except UnicodeError:
        raise ConfigError(f'the Redis URL\'s host "{parts.hostname[:80]}" is no host name') from None
    if port == 0:
        raise ConfigError("the Redis URL's port is 0 (6379 is the usual one)")
    db = parts.path.removeprefix("/")
    if db and not db.isdecimal():
        raise ConfigError(f"the Redis URL ends with {_shown('/' + db)} (write the database's number, such as /0)")


def _shown(part: str) -> str:
    """Quote a piece of a URL, unless a password that was not escaped may have slipped into it."""
    return "something else" if "@" in part or ":" in part else f'"{part}"'


def translate(error: Exception) -> HeavyqError:
    """Return what an error of redis-py, or of the system below it, means to us. The only such table.

    The order counts: to redis-py a refused password and a loading server are connection errors both.
    """
    text = str(error) or type(error).__name__
    match error:
        case AuthenticationError() | AuthorizationError() | AuthenticationWrongNumberOfArgsError():
            return RedisRefused(f"Redis refused the user or password: {text}")
        case InvalidResponse():
            return RedisUnavailable(f"what answers there is no Redis server: {text}")
        case ResponseError():
            code = error_code(error)
            shown = text if not code or text.startswith(code) else f"{code} {text}"
            return RedisUnavailable(shown) if code in AWAY_CODES else RedisReplyError(shown)
        case redis.ConnectionError() | redis.TimeoutError() | OSError():
            return RedisUnavailable(text)
        case DataError():
            return BadValue(f"an argument cannot be sent to Redis: {text}")
        case _:
            raise error


def error_code(error: ResponseError) -> str:
    """Return the code an error reply begins with (`OOM`, `NOSCRIPT`, `ERR`); empty if it has none."""
    text = str(error)
    inside = _CODE_IN_SCRIPT.search(text)
    if inside:
        return inside[1]
    taken_off: str | None = getattr(error, "status_code", None) or _CODES_OF.get(type(error))  # redis-py 8, and 7.0
    if taken_off:
        return taken_off
    at_start = _CODE.match(text)
    return at_start[0] if at_start else ""


def check_server(client: Client) -> None:
    """Raise ConfigError if the server is older than Redis 6.2 or Valkey 7.2.

    A script that writes reads the server's TIME, which older ones refuse. A server that hides INFO passes.
    Raises RedisUnavailable, RedisRefused.
    """
    try:
        info = client.info("server")
    except RedisReplyError:
        return
    complaint = too_old(info)
    if complaint:
        raise ConfigError(complaint)


def too_old(info: Mapping[str, object]) -> str | None:
    """Return what is wrong with a server's version, None if nothing is. info: INFO's fields."""
    kind = "valkey" if "valkey_version" in info else "redis"
    version = str(info.get(f"{kind}_version", ""))
    numbers = re.match(r"(\d+)\.(\d+)", version)
    floor = _FLOORS[kind]
    if "dragonfly_version" in info or not numbers or (int(numbers[1]), int(numbers[2])) >= floor:
        return None
    found = f"{kind.capitalize()} {version}"
    return f"the server is {found}; heavyq needs Redis 6.2 or Valkey 7.2 at least (upgrade it)"
