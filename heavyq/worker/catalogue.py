"""What the user's modules declare, as the zygote told it, made into what this worker serves.

Owns the choice of queues and of the one Redis. Sees names and options only; functions stay in the zygote.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.options import Keep
from heavyq.config import Profile, QueueSettings, RunSettings, children_wanted, of_worker_type, resolve_queue
from heavyq.core.child import ChildLimits
from heavyq.core.memory import children_that_fit
from heavyq.errors import ConfigError, UsageError
from heavyq.store import embedded
from heavyq.worker.crew import ChildKind
from heavyq.worker.served import Traits

_Declared = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The queues that this worker serves, with their options; the Redis that holds them; how many children.

    traits: what their functions are.
    capped: the number of children that the queues ask for together, if memory takes fewer of them.
    """

    url: str
    queues: Mapping[QueueKey, QueueSettings]
    traits: Mapping[QueueKey, Traits]
    concurrency: int
    capped: int | None = None


def read_catalogue(raw: _Declared, settings: RunSettings, default_url: str | None, budget_bytes: int) -> Catalogue:
    """Choose the queues and resolve their options.

    default_url: the Redis of queues that name none. budget_bytes: memory for all jobs; it caps the number of children
    that nobody has asked for on the command line.
    Raises ConfigError when there is nothing to serve, or when the queues live in more than one Redis; UsageError
    for a queue or a worker type that is not there.
    """
    chosen = _choose(raw, settings)
    if complaint := settings.options.unknown_queues([q["name"] for q in raw["queues"]]):
        raise UsageError(complaint)
    queues = {
        QueueKey(q["prefix"], q["name"]): resolve_queue(
            q["name"], Profile.from_json(q["profile"]), q["options"], settings.options
        )[0]
        for q in chosen
    }
    traits = {QueueKey(q["prefix"], q["name"]): _traits(q) for q in chosen}
    for key, one in queues.items():
        _refuse_shared(key, one, traits[key])
    wanted = children_wanted(
        settings.concurrency,
        [one for key, one in queues.items() if not traits[key].is_async],
        [one for key, one in queues.items() if traits[key].is_async],
    )
    url = _one_url(chosen, default_url)
    if settings.concurrency is not None:
        return Catalogue(url, queues, traits, wanted)
    needs = [s.memory_request for s in queues.values()]
    fitting = children_that_fit(budget_bytes, min(need for need in needs if need) if all(needs) else None)
    return Catalogue(url, queues, traits, min(wanted, fitting), capped=wanted if fitting < wanted else None)


def _traits(told: _Declared) -> Traits:
    return Traits(
        is_async=bool(told.get("is_async")),
        hooks=frozenset(told.get("hooks", ())),
        strategy=bool(told.get("strategy")),
        **{f"keep_{end}": Keep(*kept) for end, kept in told.get("keep", {}).items()},
    )


def _refuse_shared(key: QueueKey, settings: QueueSettings, traits: Traits) -> None:
    """Refuse what cannot be done to one of several jobs in a process."""
    if traits.is_async and settings.async_concurrency > 1 and settings.memory_rlimit:
        raise ConfigError(
            f"queue {key.name!r}: memory_rlimit cannot hold for jobs that share a child (its processors are `async "
            "def`): set async_concurrency=1, or leave memory_rlimit out"
        )


def kinds_of(queues: Mapping[QueueKey, QueueSettings], traits: Mapping[QueueKey, Traits]) -> dict[QueueKey, ChildKind]:
    """Return the child options of each queue; queues of equal kind use the same children, one after the other.

    Where recycle_rss only follows from the limits, queues with different ones share children too: with the smallest.
    """
    smallest: dict[Hashable, int] = {}
    for s in queues.values():
        if s.recycle_implied and s.recycle_rss is not None:
            smallest[_alike(s)] = min(smallest.get(_alike(s), s.recycle_rss), s.recycle_rss)
    return {
        key: ChildKind(
            nice=s.nice,
            oom_score_adj=s.oom_score_adj,
            limits=ChildLimits(
                s.max_jobs_per_child,
                smallest[_alike(s)] if s.recycle_implied else s.recycle_rss,
                s.max_child_age_s,
            ),
            start_method=s.start_method,
            seats=s.async_concurrency if traits[key].is_async else 1,
            queue=key if traits[key].is_async and s.async_concurrency > 1 else None,
        )
        for key, s in queues.items()
    }


def _alike(s: QueueSettings) -> Hashable:
    return s.nice, s.oom_score_adj, s.max_jobs_per_child, s.max_child_age_s, s.start_method


def _choose(raw: _Declared, settings: RunSettings) -> Sequence[_Declared]:
    queues: Sequence[_Declared] = raw["queues"]
    modules = ", ".join(settings.modules)
    if not queues:
        declared = f" (queues without one: {', '.join(raw['declared'])})" if raw["declared"] else ""
        raise ConfigError(f"no processor in {modules}{declared}; decorate a function with @queue.processor")
    known = [q["name"] for q in queues]
    if unknown := [name for name in settings.queues if name not in known]:
        raise UsageError(f"-q {unknown[0]}: no processor for such a queue in {modules}; known: {', '.join(known)}")
    of_type = of_worker_type(settings.worker_type, {q["name"]: q["profile"]["name"] for q in queues})
    chosen = [q for q in queues if q["name"] in of_type and (not settings.queues or q["name"] in settings.queues)]
    if not chosen:
        types = ", ".join(settings.worker_type or ())
        raise ConfigError(f"{modules}: no queue of worker type {types}; give --worker-type all to serve every queue")
    return chosen


def _one_url(queues: Sequence[_Declared], default_url: str | None) -> str:
    """Return the Redis of all queues: a worker serves one."""
    urls = {q["url"] or default_url for q in queues}
    if len(urls) > 1:
        names = ", ".join(q["name"] for q in queues)
        raise ConfigError(f"the queues {names} live in more than one Redis; start a worker for each, with -q")
    return urls.pop() or embedded.ensure()  # ensure() raises, and says what to set
