"""The options of one queue in a worker, resolved, and where each value came from.

Owns the order: `--set`, then `Queue(...)` in code, then flag, environment, pyproject.toml, then the profile,
then the default. Driven by the supervisor, with what the zygote's catalogue says, and by `heavyq config`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Literal

from heavyq.config.profiles import PROFILES, Profile, unfit_memory
from heavyq.config.sources import Given, Sources
from heavyq.config.table import nearest, options
from heavyq.core.memory import implied_recycle_bytes
from heavyq.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from heavyq.config.option import Option


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """How a worker runs one queue's jobs. Times in seconds, sizes in bytes; None is off.

    A concurrency of None may use all the worker's children. recycle_implied: recycle_rss follows from the memory_limit.
    limiter: how many jobs may start, in how many milliseconds. metrics_points: for how many minutes counts are kept.
    """

    concurrency: int | None
    lock_duration_s: float
    stalled_interval_s: float
    max_stalled_count: int
    max_started_attempts: int | None
    max_jobs_per_child: int | None
    recycle_rss: int | None
    recycle_implied: bool
    max_child_age_s: float | None
    memory_request: int | None
    memory_limit: int | None
    on_memory_limit: Literal["fail", "retry"]
    memory_rlimit: bool
    nice: int
    oom_score_adj: int
    max_payload: int
    max_result: int
    start_method: Literal["fork", "spawn"]
    async_concurrency: int
    timeout_s: float | None
    progress_timeout_s: float | None
    limiter: tuple[int, int] | None
    metrics_points: int | None


def resolve_queue(
    name: str, profile: Profile, code_options: Mapping[str, object], sources: Sources
) -> tuple[QueueSettings, dict[str, Given]]:
    """Resolve the worker options of one queue.

    code_options: `CodeOptions.worker` of the queue, as read. Returns the settings, and per option value
    and origin. Raises UsageError or ConfigError for a memory_request above the memory_limit.
    """
    found = {option.name: _resolve(option, name, profile, code_options, sources) for option in options("queue")}
    _check_memory(name, found)
    implied = found["memory_limit"].value is not None and found["recycle_rss"].where == "default"
    if implied:
        found["recycle_rss"] = Given(implied_recycle_bytes(found["memory_limit"].value), "memory_limit / 8")
    limiter = found["limiter"].value  # a list if it came from a zygote
    settings = QueueSettings(
        concurrency=found["concurrency"].value,
        lock_duration_s=found["lock_duration"].value,
        stalled_interval_s=found["stalled_interval"].value,
        max_stalled_count=found["max_stalled_count"].value,
        max_started_attempts=found["max_started_attempts"].value,
        max_jobs_per_child=found["max_jobs_per_child"].value,
        recycle_rss=found["recycle_rss"].value,
        recycle_implied=implied,
        max_child_age_s=found["max_child_age"].value,
        memory_request=found["memory_request"].value,
        memory_limit=found["memory_limit"].value,
        on_memory_limit=found["on_memory_limit"].value,
        memory_rlimit=found["memory_rlimit"].value,
        nice=found["nice"].value,
        oom_score_adj=found["oom_score_adj"].value,
        max_payload=found["max_payload"].value,
        max_result=found["max_result"].value,
        start_method=found["start_method"].value,
        async_concurrency=found["async_concurrency"].value,
        timeout_s=found["timeout"].value,
        progress_timeout_s=found["progress_timeout"].value,
        limiter=None if limiter is None else (limiter[0], limiter[1]),
        metrics_points=found["metrics"].value,
    )
    return settings, found


def _resolve(
    option: Option, queue: str, profile: Profile, code_options: Mapping[str, object], sources: Sources
) -> Given:
    own = sources.per_queue.get(queue, {})
    if option.name in own:
        return own[option.name]
    if option.name in code_options:
        return Given(code_options[option.name], f"Queue({queue!r})")
    if option.name in sources.given:
        given = sources.given[option.name]
        # the worker's number of children: a queue without a number of its own may use them all
        return Given(None, given.where) if option.name == "concurrency" else given
    if option.name in profile.worker_options:
        return Given(profile.worker_options[option.name], f"profile {profile.name}")
    return Given(option.default, "default")


def _check_memory(queue: str, found: Mapping[str, Given]) -> None:
    names = ("memory_request", "recycle_rss", "memory_limit")
    why = unfit_memory(*(found[name].value for name in names))
    if why is not None:
        named = [name for name in names if name in why]
        typed = any(found[name].where.startswith("--") for name in named)
        origins = ", ".join(f"{name}: {found[name].where}" for name in named)
        raise (UsageError if typed else ConfigError)(f"queue {queue!r}: {why} ({origins})")


def children_wanted(
    concurrency: int | None, queues: Iterable[QueueSettings], asynchronous: Iterable[QueueSettings] = ()
) -> int:
    """Return how many children a worker may have.

    concurrency: the worker's `--concurrency`. Without it every queue may run as many jobs as it says. asynchronous:
    the queues, not among the others, whose jobs share children, `async_concurrency` in each.
    """
    alone = sum(queue.concurrency or 0 for queue in queues)
    shared = sum(ceil((queue.concurrency or 0) / queue.async_concurrency) for queue in asynchronous)
    return concurrency or max(1, alone + shared)


def of_worker_type(wanted: tuple[str, ...] | None, profile_of: Mapping[str, str]) -> tuple[str, ...]:
    """Return the queues that a worker of these types serves.

    wanted: profile names, None or "all" for every queue. profile_of: the profile's name of each queue.
    Raises UsageError for a type that no profile has.
    """
    if wanted is None or "all" in wanted:
        return tuple(profile_of)
    known = {profile.name for profile in PROFILES} | set(profile_of.values())
    for kind in wanted:
        if kind not in known:
            raise UsageError(
                f"--worker-type {kind}: no such type{nearest(kind, known)}; known: {', '.join(sorted(known))}"
            )
    return tuple(queue for queue, profile in profile_of.items() if profile in wanted)
