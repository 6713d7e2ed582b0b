"""The options of one job, resolved: what this add says, then the queue's defaults, then the profile's.

Owns that order, for producers. The worker takes no part: a job carries the options of whoever added it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heavyq.config.table import OPTIONS, find_option
from heavyq.config.values import keep_on_wire

if TYPE_CHECKING:
    from collections.abc import Mapping

    from heavyq.bullmq.options import Backoff
    from heavyq.bullmq.options import Keep as WireKeep
    from heavyq.config.profiles import Profile


@dataclass(frozen=True, slots=True)
class JobSettings:
    """Every option of one add, in the units of the wire. `max_payload` holds beside size_limit."""

    attempts: int
    backoff: Backoff | None
    priority: int
    delay_ms: int
    lifo: bool
    remove_on_complete: WireKeep
    remove_on_fail: WireKeep
    keep_logs: int | None
    stack_trace_limit: int | None
    size_limit: int | None
    job_id: str | None
    timestamp_ms: int | None


def read_job_options(given: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Read the options of one add. A bare number of seconds may be large here: it is often a computed one.

    where: `add()` or the like, for messages.
    Raises UnknownOption (a TypeError), BadValue (a ValueError), NotBuiltYet.
    """
    read: dict[str, Any] = {}
    for name, value in given.items():
        pending = OPTIONS.get(name)
        if pending is not None and not pending.built:
            pending.read(value, label=f"{where}: {name}")  # timeout and its kin too, which a job may not carry yet
        option = find_option(name, "job", where=where)
        read[name] = option.read(value, label=f"{where}: {name}", bare_ok=True)
    return read


def job_settings(profile: Profile, queue_defaults: Mapping[str, Any], one_add: Mapping[str, Any]) -> JobSettings:
    """Resolve the options of one add.

    queue_defaults: `CodeOptions.job` of the queue. one_add: from `read_job_options`.
    """

    def value(name: str) -> Any:
        for source in (one_add, queue_defaults, profile.job_options):
            if name in source:
                return source[name]
        return OPTIONS[name].default

    timestamp = value("timestamp")
    return JobSettings(
        attempts=value("attempts"),
        backoff=value("backoff"),
        priority=value("priority"),
        delay_ms=round(value("delay") * 1000),
        lifo=value("lifo"),
        remove_on_complete=keep_on_wire(value("remove_on_complete")),
        remove_on_fail=keep_on_wire(value("remove_on_fail")),
        keep_logs=value("keep_logs"),
        stack_trace_limit=value("stack_trace_limit"),
        size_limit=value("size_limit"),
        job_id=value("job_id"),
        timestamp_ms=None if timestamp is None else round(timestamp.timestamp() * 1000),
    )
