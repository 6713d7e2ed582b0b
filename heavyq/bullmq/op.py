"""One Redis operation as plain data: which script, its keys and arguments, and how its reply is read.

Owns the shape of an operation. Never talks to Redis: `store` runs operations, `worker` queues them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

R = TypeVar("R")
Arg = str | bytes | int | float


@dataclass(frozen=True, slots=True)
class Op(Generic[R]):
    """One call of one script.

    verb: the script, `ops/<verb>.lua`.
    keys, args: KEYS and ARGV, flat.
    read: turns the raw reply (bytes, ints, lists) into the result; raises an error of `heavyq.errors`.
    replayable: sending it twice leaves the same state as once, so it may be repeated after a lost reply.
    """

    verb: str
    keys: tuple[str, ...]
    args: tuple[Arg, ...]
    read: Callable[[Any], R]
    replayable: bool
