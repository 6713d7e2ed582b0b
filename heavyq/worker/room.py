"""What a worker has to run in: its container's limit, its cores, and whether children can have kernel groups.

Owns the look around at start, and the memory budget that follows from it. Found once, printed, and not changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from heavyq.bullmq.keys import QueueKey
from heavyq.config import QueueSettings
from heavyq.core import memory
from heavyq.core.memory import in_words
from heavyq.errors import ConfigError
from heavyq.linux import cgroup, procfs
from heavyq.linux.groups import Groups


@dataclass(frozen=True, slots=True)
class Room:
    """Where the worker is. groups: None, and `no_groups` says why, where a child can have no group of its own."""

    container: cgroup.Container
    oom_counter: cgroup.OomCounter
    groups: Groups | None
    no_groups: str
    cores: int


def look_around(pids: Iterable[int], name: str) -> Room:
    """Find out. pids: of this worker's processes so far; they are moved if children get groups. name: the worker's.

    The container and the counter first: what they read must stay those of the group that we were started in.
    """
    container, counter, cores = cgroup.find_container(), cgroup.find_oom_counter(), cgroup.cores()
    groups = Groups.open(pids, name)
    if isinstance(groups, str):
        return Room(container, counter, None, groups, cores)
    return Room(container, counter, groups, "", cores)


def budget_bytes(room: Room, told: int | None, pids: Iterable[int]) -> int:
    """Return what all jobs together may hold. told: --memory-budget, None for auto. pids: what is no job."""
    if told is not None:
        return told
    worker = sum(procfs.charge_bytes(pid) or 0 for pid in pids)
    return memory.auto_budget_bytes(room.container.limit_bytes, worker)


def check_requests(queues: Mapping[QueueKey, QueueSettings], budget: int) -> None:
    """Refuse a queue whose jobs could never be leased here. Raises ConfigError."""
    for key, settings in queues.items():
        if settings.memory_request is not None and settings.memory_request > budget:
            raise ConfigError(
                f"queue {key.name!r}: its memory_request is {in_words(settings.memory_request)}, and all jobs of this "
                f"worker together have {in_words(budget)}: it can never run here; give the worker a larger container "
                f"or --memory-budget, or leave the queue out with -q"
            )


def too_tight(queues: Mapping[QueueKey, QueueSettings], children: int, budget: int) -> str | None:
    """Return what to warn of: jobs that stay within their own limits, and do not fit together."""
    limits = sorted(
        (
            settings.memory_limit
            for settings in queues.values()
            for _ in range(min(children, settings.concurrency or children))
            if settings.memory_limit is not None and settings.memory_request is None  # else it is seen to at each lease
        ),
        reverse=True,
    )[:children]
    if sum(limits) <= budget:
        return None
    who = "a job within its memory_limit" if len(limits) == 1 else f"{len(limits)} jobs within their memory_limit"
    cure = "lower it" if len(limits) == 1 else "lower --concurrency or memory_limit, or set memory_request"
    return (
        f"{who} may hold {in_words(sum(limits))}, and there is room for {in_words(budget)}: jobs may be stopped to "
        f"spare the container; {cure}"
    )


def without_effect(queues: Mapping[QueueKey, QueueSettings]) -> list[str]:
    """Return what to warn of: options that need another one."""
    return [
        f"queue {key.name!r}: memory_rlimit does nothing without a memory_limit"
        for key, settings in queues.items()
        if settings.memory_rlimit and settings.memory_limit is None
    ]
