"""`JobEvent`: what a function of `@queue.on(...)` gets. Its names are a contract with user code.

Owns the reading of a HOOK frame into it. Runs nothing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from heavyq.bullmq.job_hash import RETURNVALUE
from heavyq.core.outcome import Failure

if TYPE_CHECKING:
    from heavyq.queue.queue import Queue


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that has happened to a job.

    name: `completed`; `failed`, for good; `retrying`, a run has failed and another will follow; `stalled`, its worker
    was lost. job_id, job_name, queue_name: text. attempts_made: BullMQ's count. at: when, aware UTC. data: the payload
    in its type, None if it does not fit it. result: of a completed job, in its type. failure: why the run ended so.
    """

    name: Literal["completed", "failed", "retrying", "stalled"]
    job_id: str
    job_name: str
    queue_name: str
    attempts_made: int
    at: datetime
    data: Any = None
    result: Any = None
    failure: Failure | None = None

    @classmethod
    def read(cls, queue: Queue[Any, Any], head: Mapping[str, Any], parts: Mapping[bytes, bytes]) -> JobEvent:
        """Read a HOOK frame. What was stored by others, and fits no type, is left out."""
        name = parts[b"name"].decode("utf-8", "replace")
        processor = queue.processor_of(name)
        payload = queue.payload_codec if processor is None else processor.payload_codec
        result = queue.result_codec if processor is None else processor.result_codec
        data = value = None
        with contextlib.suppress(BaseException):  # a validator of the user's may raise anything, SystemExit too
            data = payload.decode(parts[b"data"])
        if head["event"] == "completed":
            with contextlib.suppress(BaseException):  # as above
                value = result.decode(parts[RETURNVALUE] or b"null")
        return cls(
            name=head["event"],
            job_id=head["id"],
            job_name=name,
            queue_name=head["queue"],
            attempts_made=head["made"],
            at=datetime.fromtimestamp(head["at_ms"] / 1000, tz=UTC),
            data=data,
            result=value,
            failure=_failure(parts[b"failure"]),
        )


def _failure(raw: bytes) -> Failure | None:
    """Read what `Failure.to_json` wrote, perhaps a newer or an older one."""
    try:
        told = json.loads(raw)
        known = {field.name: told[field.name] for field in fields(Failure) if field.name in told}
        known["last_logs"] = tuple(known.get("last_logs") or ())
        return Failure(**known)
    except (ValueError, TypeError, RecursionError):
        return None
