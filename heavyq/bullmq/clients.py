"""Which of the server's clients work on a queue: they name one connection each after it.

Owns the reading of CLIENT LIST and of those names. Never asks the server: `store` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heavyq.bullmq.keys import worker_client_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heavyq.bullmq.keys import QueueKey

_FIELD = re.compile(r"(\S+?)=(\S*)")


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """One worker, as its blocking connection shows it, BullMQ's or heavyq's.

    name: the worker's own, None if it has none. rawname: the connection's. addr: `host:port`, or of a unix socket.
    id: the connection's, on this server. age_s, idle_s: since it was opened, and since it last said something.
    """

    name: str | None
    rawname: str
    addr: str
    id: int
    age_s: int
    idle_s: int


def workers_in(client_list: str | bytes | Iterable[Mapping[str, Any]], q: QueueKey) -> list[ClientInfo]:
    """Return the workers of a queue that a server lists, in its order.

    client_list: the reply to CLIENT LIST, as text or as rows of fields.
    """
    unnamed = worker_client_name(q, None)
    return [
        _info(row, rawname)
        for row in _rows(client_list)
        if (rawname := str(row.get("name", ""))) == unnamed or rawname.startswith(f"{unnamed}:w:")
    ]


def _info(row: Mapping[str, Any], rawname: str) -> ClientInfo:
    _, separator, name = rawname.partition(":w:")
    return ClientInfo(
        name=name if separator else None,
        rawname=rawname,
        addr=str(row.get("addr", "")),
        id=_number(row, "id"),
        age_s=_number(row, "age"),
        idle_s=_number(row, "idle"),
    )


def _rows(client_list: str | bytes | Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    if isinstance(client_list, bytes):
        client_list = client_list.decode("utf-8", "replace")
    if isinstance(client_list, str):
        yield from (dict(_FIELD.findall(line)) for line in client_list.splitlines())
    else:
        yield from client_list


def _number(row: Mapping[str, Any], field: str) -> int:
    text = str(row.get(field, ""))
    return int(text) if text.isdecimal() else 0
