"""What the Python halves of several verbs share, as common.lua does for the scripts.

Owns the order of a lease's five arguments, how text that is no UTF-8 survives, and the replies that verbs share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

from heavyq.errors import ProtocolError

if TYPE_CHECKING:
    from heavyq.bullmq.keys import QueueKey
    from heavyq.bullmq.lease import Lease
    from heavyq.bullmq.op import Arg
    from heavyq.bullmq.options import Keep

Settled = Literal["settled", "lost", "gone", "pending_children", "failed_children"]
"""What a settle did.

settled: written, now or by an earlier call with this lease. lost: the job is not ours any more, nothing is
written. gone: the job's hash does not exist, nothing is left to write. pending_children, failed_children: only of
`complete` and `wait_children`: it may not be, nothing is written.
"""

_SETTLED: Final = frozenset(get_args(Settled))

DUE_MS_MAX: Final = 2**53 // 4096 - 1
"""The last moment that a score of `delayed` can hold as an exact number: September 2039."""

NOTHING: Final = ""
"""How an argument that is not given is sent."""


def to_text(raw: bytes) -> str:
    """Decode a name or an id. Bytes that are no UTF-8 survive the way here and back (`to_bytes`)."""
    return raw.decode("utf-8", "surrogateescape")


def to_bytes(text: str) -> bytes:
    """Encode what `to_text` decoded."""
    return text.encode("utf-8", "surrogateescape")


def meta(q: QueueKey) -> tuple[str, ...]:
    """Return the KEYS of every script: the queue's `meta`, from which the script derives all others."""
    return (q.key("meta"),)


def lease_args(lease: Lease) -> tuple[Arg, ...]:
    """Return what `lease_argument` of common.lua reads."""
    return (to_bytes(lease.job_id), lease.token, lease.fence, lease.started, lease.processed_on_ms)


def keep_args(keep: Keep) -> tuple[Arg, ...]:
    """Return what `keep_argument` of common.lua reads."""
    return (keep.count, NOTHING if keep.age_s is None else keep.age_s, keep.limit)


def field_args(*fields: tuple[str, Arg | None]) -> tuple[Arg, ...]:
    """Return pairs of field and value for the job's hash. A value of None leaves the field as it is."""
    return tuple(part for field, value in fields if value is not None for part in (field, value))


def read_settled(reply: Any) -> Settled:
    word = reply.decode("ascii", "replace") if isinstance(reply, bytes) else reply
    if word not in _SETTLED:
        raise ProtocolError(f"a settle script replied {reply!r}")
    return cast("Settled", word)


def read_written(reply: Any) -> bool:
    return bool(reply == 1)


def read_ids(reply: Any) -> tuple[str, ...]:
    return tuple(to_text(job_id) for job_id in reply)


def read_nothing(_reply: Any) -> None:
    return None
