"""Which Redis a queue means, and this process's connections to it.

Owns the order of resolution: `Queue(connection=)`, `heavyq.connect()`, the worker's `--redis`, HEAVYQ_REDIS,
REDIS_URL, the embedded server. Owns the clients, which connect at their first call: for threads one for each URL,
for asyncio one for each URL and event loop. A forked process makes its own, and never touches a socket that it
inherited.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from heavyq.config.profiles import Profile
from heavyq.config.table import OPTIONS
from heavyq.config.units import Duration, parse_duration
from heavyq.errors import BadValue

if TYPE_CHECKING:
    import asyncio

    from heavyq.store.aclient import AsyncClient
    from heavyq.store.client import Client

PREFIX: Final = "bull"
TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Defaults:
    """What a queue takes that names nothing of its own. None: nobody said."""

    url: str | None = None
    prefix: str | None = None
    timeout_s: float = TIMEOUT_S
    profile: Profile | None = None


_by_code = _Defaults()
_by_worker = _Defaults()
_embedded_url: str | None = None
_clients: dict[str, Client] = {}
_async_clients: dict[asyncio.AbstractEventLoop, dict[str, AsyncClient]] = {}
_async_clients_made = False
_inherited: list[object] = []  # what a forked process must neither use nor let go of: it shares the parent's selector
_lock = threading.Lock()


def connect(
    url: str, *, prefix: str | None = None, timeout: Duration = TIMEOUT_S, profile: Profile | None = None
) -> None:
    """Set what every queue takes that names none of its own. Connects to nothing yet.

    url: redis://, rediss:// or unix://. prefix: first part of the key names, "bull" if nobody says.
    timeout: for connecting and for each reply. profile: instead of STANDARD.
    Raises BadValue (a ValueError).
    """
    global _by_code  # noqa: PLW0603 - what the process declares
    if profile is not None and not isinstance(profile, Profile):
        raise BadValue(f"connect(profile={profile!r}): a Profile is expected, such as heavyq.HEAVY")
    _by_code = _Defaults(
        url=check_url(url, where="connect()"),
        prefix=None if prefix is None else check_prefix(prefix, where="connect()"),
        timeout_s=_timeout(timeout),
        profile=profile,
    )


def close() -> None:
    """Close this process's connections, but those of event loops. The next use of a queue makes new ones."""
    with _lock:
        clients = list(_clients.values())
        _clients.clear()
        ended = _of_closed_loops()
    for client in clients:
        client.close()
    for abandoned in ended:
        abandoned.abandon()


async def aclose() -> None:
    """Close the connections of the running event loop. The next use of a queue's `.aio` makes new ones.

    Without it they are closed when the loop is shut down, as at the end of `asyncio.run`.
    """
    import asyncio

    with _lock:
        clients = _async_clients.pop(asyncio.get_running_loop(), {})
    for client in clients.values():
        await client.aclose()


def set_worker_default(url: str | None, prefix: str) -> None:
    """Tell the queues of a worker's process what the worker was started with.

    It counts for less than `connect()`, and for more than the environment. url: None if the worker names none.
    """
    global _by_worker  # noqa: PLW0603 - once, before the user's modules are imported
    _by_worker = _Defaults(url=url, prefix=prefix)


def default_url() -> str | None:
    """Return the URL that `connect()` named, if it did."""
    return _by_code.url


def default_prefix(otherwise: str | None = None) -> str:
    """Return the prefix of a queue that names none. otherwise: instead of what the worker or environment says."""
    return _by_code.prefix or otherwise or _by_worker.prefix or os.environ.get("HEAVYQ_PREFIX") or PREFIX


def default_profile() -> Profile | None:
    """Return the profile that `connect()` named, if it did."""
    return _by_code.profile


def client(explicit_url: str | None) -> Client:
    """Return this process's client for a queue. explicit_url: what the queue itself names.

    Raises ConfigError if no Redis is named anywhere and there is no embedded one, or if the URL is wrong.
    """
    url = _named_url(explicit_url) or _embedded()
    with _lock:
        found = _clients.get(url)
        if found is None:
            from heavyq.store.client import Client

            found = _clients[url] = Client(url, timeout_s=_by_code.timeout_s)
    return found


async def aclient(explicit_url: str | None) -> AsyncClient:
    """Return the running event loop's client for a queue; as `client`."""
    global _async_clients_made  # noqa: PLW0603 - once
    import asyncio

    # Starting the embedded server takes a moment: not in the loop's own thread.
    named = _named_url(explicit_url) or _embedded_url
    url = await asyncio.to_thread(_embedded) if named is None else named
    with _lock:
        ended = _of_closed_loops()
        clients = _async_clients.setdefault(asyncio.get_running_loop(), {})
        found = clients.get(url)
        if found is None or found.closed:
            from heavyq.store.aclient import AsyncClient

            if not _async_clients_made:
                atexit.register(close)  # what closed loops have left would warn as the interpreter ends
                _async_clients_made = True
            found = clients[url] = AsyncClient(url, timeout_s=_by_code.timeout_s)
    for abandoned in ended:
        abandoned.abandon()
    return found


def check_url(url: object, *, where: str) -> str:
    """Return a URL. where: who names it. Raises BadValue for what is none, a client object too."""
    checked: str = OPTIONS["redis"].read(url, label=f"{where}: the connection")
    return checked


def check_prefix(prefix: object, *, where: str) -> str:
    """Return a prefix. where: who names it. Raises BadValue."""
    if not isinstance(prefix, str) or not prefix:
        raise BadValue(f"{where}: the prefix is {prefix!r}; write text, such as {PREFIX!r}")
    return prefix


def _timeout(timeout: Duration) -> float:
    try:
        timeout_s = parse_duration(timeout)
    except BadValue as error:
        raise BadValue(f"connect(): timeout: {error}") from None
    if timeout_s <= 0:
        raise BadValue("connect(): timeout: it must be more than 0")
    return timeout_s


def _named_url(explicit_url: str | None) -> str | None:
    return explicit_url or _by_code.url or _by_worker.url or _from_environment()


def _of_closed_loops() -> list[AsyncClient]:
    """Take the clients of loops that are closed out of the list. The caller holds the lock."""
    closed = [loop for loop in _async_clients if loop.is_closed()]
    return [client for loop in closed for client in _async_clients.pop(loop).values()]


def _from_environment() -> str | None:
    for variable in OPTIONS["redis"].env:
        if url := os.environ.get(variable):
            return check_url(url, where=variable)
    return None


def _embedded() -> str:
    global _embedded_url  # noqa: PLW0603 - the server stays as long as this process lives
    from heavyq.store import embedded

    if _embedded_url is None:
        _embedded_url = embedded.ensure()
        logging.getLogger("heavyq").info(embedded.notice())
    return _embedded_url


def _forked() -> None:
    """Leave the parent's sockets alone: they are closed here as they are collected, and stay open there."""
    global _lock, _clients, _async_clients  # noqa: PLW0603 - a thread of the parent may have held the lock
    _lock = threading.Lock()
    _clients = {}
    if _async_clients:
        _inherited.append(_async_clients)
        _async_clients = {}


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
