"""The Lua scripts as the server gets them: what they share, then the verb's own text, and the SHA1 of both.

Owns the loading of `ops/*.lua`. Never talks to Redis: `store.client` loads and runs what stands here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

_FOLDER = "heavyq.bullmq.ops"
_SHARED = "common.lua"


@dataclass(frozen=True, slots=True)
class Script:
    """One script. sha: what EVALSHA takes, lower-case hex."""

    verb: str
    text: bytes
    sha: str


@cache
def script(verb: str) -> Script:
    """Return the script of one verb, `ops/<verb>.lua` behind `ops/common.lua`; read and hashed once."""
    folder = resources.files(_FOLDER)
    text = b"\n".join((folder / name).read_bytes() for name in (_SHARED, f"{verb}.lua"))
    return Script(verb, text, hashlib.sha1(text, usedforsecurity=False).hexdigest())
