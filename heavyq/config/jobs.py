"""The options of one job, resolved: what this add says, then the queue's defaults, then the profile's.

Owns that order, for producers. The worker takes no part: a job carries the options of whoever added it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heavyq.config.policies import POLICIES, check_policies
from heavyq.config.table import OPTIONS, find_option
from heavyq.config.values import dedup_on_wire, keep_on_wire
from heavyq.errors import BadValue

if TYPE_CHECKING:
    from heavyq.bullmq.dedup import Dedup
    from heavyq.bullmq.options import Backoff
    from heavyq.bullmq.options import Keep as WireKeep
    from heavyq.bullmq.parent import OnFailure
    from heavyq.config.profiles import Profile


@dataclass(frozen=True, slots=True)
class JobSettings:
    """Every option of one add, in the units of the wire. `max_payload` holds beside size_limit.

    parent: what the add was given; the queue makes a reference of it. on_failure: what the job's final failure does to
    its parent. timeout_ms, progress_timeout_ms, memory_limit: of this add alone; None leaves it to the worker's queue.
    """

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
    dedup: Dedup | None
    parent: Any
    on_failure: OnFailure | None
    telemetry: str | None
    omit_context: bool
    timeout_ms: int | None
    progress_timeout_ms: int | None
    memory_limit: int | None


def read_job_options(given: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Read the options of one add. A bare number of seconds may be large here: it is often a computed one.

    where: `add()` or the like, for messages.
    Raises UnknownOption (a TypeError), BadValue (a ValueError), NotBuiltYet.
    """
    read: dict[str, Any] = {}
    for name, value in given.items():
        option = find_option(name, "job", where=where)
        if option.also_per_add and value is None:
            raise BadValue(f"{where}: {name}: None is not a value here; leave it out, and the queue's holds")
        read[name] = option.read(value, label=f"{where}: {name}", bare_ok=True)
    check_policies(read, where)
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

    timestamp, dedup = value("timestamp"), value("deduplication")
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
        dedup=None if dedup is None else dedup_on_wire(dedup),
        parent=value("parent"),
        on_failure=_on_failure(one_add, queue_defaults, profile.job_options),
        telemetry=value("telemetry"),
        omit_context=value("omit_context"),
        timeout_ms=_ms(one_add.get("timeout")),
        progress_timeout_ms=_ms(one_add.get("progress_timeout")),
        memory_limit=one_add.get("memory_limit"),
    )


def _on_failure(*levels: Mapping[str, Any]) -> OnFailure | None:
    """Return the policy of the first level that sets one. False there switches off what a later level sets."""
    off: set[str] = set()
    for level in levels:
        for name, policy in POLICIES.items():
            if level.get(name) and name not in off:
                return policy
        off.update(name for name in POLICIES if level.get(name) is False)
    return None


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
