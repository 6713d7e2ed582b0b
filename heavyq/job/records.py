"""Log records made in a job carry the job's fields: `job_id`, `queue`, `job_name`, `attempt`.

Owns these fields and where the running job's are found: in the context (an async child runs many), else in the
process (a child of one seat; the threads that a job starts have a context of their own).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final

_NO_JOB: Final[Mapping[str, Any]] = {"job_id": None, "queue": None, "job_name": None, "attempt": None}
_of_context: Final[ContextVar[Mapping[str, Any] | None]] = ContextVar("heavyq_job_fields", default=None)
_of_process: Mapping[str, Any] | None = None


def fields_of(head: Mapping[str, Any], parts: Mapping[bytes, bytes]) -> Mapping[str, Any]:
    """Return the fields of a run, or of what is done about a job after it. head, parts: of its frame."""
    name = parts[b"name"].decode("utf-8", "replace")
    attempt = head["made"] + 1 if "event" not in head else max(1, head["made"])
    return {"job_id": head["id"], "queue": head["queue"], "job_name": name, "attempt": attempt}


def in_context(fields: Mapping[str, Any]) -> None:
    """Let the records of this context carry these fields, and those of the contexts that are copied from it."""
    _of_context.set(fields)


@contextlib.contextmanager
def in_process(fields: Mapping[str, Any]) -> Iterator[None]:
    """Let every record of this process carry these fields."""
    global _of_process  # noqa: PLW0603 - one job at a time, and log records are made anywhere
    _of_process = fields
    try:
        yield
    finally:
        _of_process = None


def tell_records() -> None:
    """Give records the fields from now on; add a handler only where there is none."""
    make = logging.getLogRecordFactory()

    def with_job(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        for field, value in (_of_context.get() or _of_process or _NO_JOB).items():
            setattr(record, field, value)
        return record

    logging.setLogRecordFactory(with_job)
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
