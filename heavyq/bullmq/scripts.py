"""The Lua scripts as the server gets them: what they share, then the verb's own text, and the SHA1 of it all.

Owns the loading of `ops/*.lua`. Never talks to Redis: `store.client` loads and runs what stands here.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

_FOLDER: Final = "heavyq.bullmq.ops"
_ALWAYS: Final = "common"
# The files that are no verb.
SHARED: Final = frozenset({_ALWAYS, "adding", "ending", "parents", "places", "removal", "requeue", "schedules"})
_USES: Final = re.compile(rb"^-- Uses: ([a-z_ ]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """One script. sha: what EVALSHA takes, lower-case hex."""

    verb: str
    text: bytes
    sha: str


@cache
def script(verb: str) -> Script:
    """Return one verb's script: `ops/common.lua`, what its header names, `ops/<verb>.lua`; read and hashed once."""
    own = _read(verb)
    uses = _USES.search(own)
    names = [_ALWAYS, *(uses[1].decode().split() if uses else ())]
    text = b"\n".join([*(_read(name) for name in names), own])
    return Script(verb, text, hashlib.sha1(text, usedforsecurity=False).hexdigest())


def _read(name: str) -> bytes:
    return resources.files(_FOLDER).joinpath(f"{name}.lua").read_bytes()
