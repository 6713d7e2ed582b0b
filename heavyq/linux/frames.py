"""Frames on a stream socket between supervisor, zygote and children.

A frame is one byte of kind, two big-endian 32-bit lengths, a small JSON head (may be empty) and a body of raw
bytes. The supervisor reads heads and never bodies. No pickle: the supervisor must not run what a child sends.
Owns the byte layout only; what a kind means stands with those who send it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heavyq.errors import ProtocolError

_LAYOUT = struct.Struct("!cII")
HEAD_MAX = 256 * 1024


@dataclass(frozen=True, slots=True)
class Frame:
    """One message. kind: one ASCII letter. head: parsed JSON object. body: opaque."""

    kind: bytes
    head: Mapping[str, Any]
    body: bytes

    def parts(self) -> list[bytes]:
        """Split a body that `pack` joined, by the lengths in the head."""
        found, at = [], 0
        for size in self.head["parts"]:
            found.append(self.body[at : at + size])
            at += size
        return found


def pack(kind: bytes, head: Mapping[str, Any] | None = None, body: bytes = b"") -> bytes:
    """Return the bytes of one frame."""
    raw = json.dumps(head, ensure_ascii=False).encode("utf-8", "replace") if head else b""
    return _LAYOUT.pack(kind, len(raw), len(body)) + raw + body


def pack_parts(kind: bytes, head: Mapping[str, Any], parts: Sequence[bytes]) -> list[bytes]:
    """Return the pieces of a frame whose body is several byte strings; `Frame.parts` takes them apart.

    In pieces, for a payload may be large and is not copied to be sent.
    """
    raw = json.dumps({**head, "parts": [len(p) for p in parts]}, ensure_ascii=False).encode("utf-8", "replace")
    return [_LAYOUT.pack(kind, len(raw), sum(map(len, parts))) + raw, *parts]


class FrameReader:
    """Cuts a byte stream into frames. Sans-IO.

    body_max: bytes; a longer body raises ProtocolError before it is buffered.
    """

    def __init__(self, body_max: int = 2**31) -> None:
        self._buffer = bytearray()
        self._body_max = body_max

    def feed(self, data: bytes) -> list[Frame]:
        """Take what was received; return the frames that are whole now.

        A list, not a generator: what is done about a frame may lead to the next `feed`.
        """
        buffer, frames = self._buffer, []
        buffer += data
        at, end = 0, len(buffer)
        while end - at >= _LAYOUT.size:
            kind, n_head, n_body = _LAYOUT.unpack_from(buffer, at)
            if n_head > HEAD_MAX or n_body > self._body_max:
                raise ProtocolError(f"frame {kind!r} of {n_head}+{n_body} bytes is over the limit")
            start = at + _LAYOUT.size
            stop = start + n_head + n_body
            if stop > end:
                break
            with memoryview(buffer) as view:  # a body may be large: copied once
                raw, body = bytes(view[start : start + n_head]), bytes(view[start + n_head : stop])
            frames.append(Frame(kind, _head(raw), body))
            at = stop
        del buffer[:at]
        return frames


def _head(raw: bytes) -> Mapping[str, Any]:
    if not raw:
        return {}
    try:
        head = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"frame head is not JSON: {error}") from error
    if not isinstance(head, dict):
        raise ProtocolError("frame head is not an object")
    return head
