"""heavyq: the Python worker for heavy BullMQ jobs, and its producers.

The public names. Each is imported when it is first asked for: `import heavyq` itself loads no Redis client, no
pydantic and no part of the worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heavyq.bullmq.clients import ClientInfo
    from heavyq.config.profiles import HEAVY, LIGHT, MEDIUM, STANDARD, Profile
    from heavyq.config.values import Dedup, Keep, Rate, custom, exponential, fixed
    from heavyq.core.outcome import Failure, Usage
    from heavyq.errors import (
        AddUnknown,
        BadValue,
        ConfigError,
        HasAnotherParent,
        HeavyqError,
        JobError,
        JobFailed,
        NoSuchJob,
        NoSuchParent,
        NotBuiltYet,
        NotInJobProcess,
        PayloadError,
        PayloadTooLarge,
        RedisError,
        RedisRefused,
        RedisReplyError,
        RedisUnavailable,
        ResultGone,
        UnknownOption,
        WrongState,
    )
    from heavyq.job.context import Job
    from heavyq.job.event import JobEvent
    from heavyq.job.raised import RateLimited, RetryAfter, Snooze, Unrecoverable, WaitForChildren
    from heavyq.queue.ahandle import AsyncJobHandle
    from heavyq.queue.aqueue import AsyncQueue
    from heavyq.queue.connection import aclose, close, connect
    from heavyq.queue.flow import AsyncFlow, AsyncFlowNode, Flow, FlowNode
    from heavyq.queue.handle import JobHandle
    from heavyq.queue.model import Model
    from heavyq.queue.named import AsyncNamedQueue, NamedQueue
    from heavyq.queue.operating import Metrics, Settings
    from heavyq.queue.queue import Queue
    from heavyq.queue.registry import around_job, canary, child_start, child_stop, preload
    from heavyq.queue.scheduling import Scheduler
    from heavyq.queue.stream import Event

    __version__: str

__all__ = [
    "HEAVY",
    "LIGHT",
    "MEDIUM",
    "STANDARD",
    "AddUnknown",
    "AsyncFlow",
    "AsyncFlowNode",
    "AsyncJobHandle",
    "AsyncNamedQueue",
    "AsyncQueue",
    "BadValue",
    "ClientInfo",
    "ConfigError",
    "Dedup",
    "Event",
    "Failure",
    "Flow",
    "FlowNode",
    "HasAnotherParent",
    "HeavyqError",
    "Job",
    "JobError",
    "JobEvent",
    "JobFailed",
    "JobHandle",
    "Keep",
    "Metrics",
    "Model",
    "NamedQueue",
    "NoSuchJob",
    "NoSuchParent",
    "NotBuiltYet",
    "NotInJobProcess",
    "PayloadError",
    "PayloadTooLarge",
    "Profile",
    "Queue",
    "Rate",
    "RateLimited",
    "RedisError",
    "RedisRefused",
    "RedisReplyError",
    "RedisUnavailable",
    "ResultGone",
    "RetryAfter",
    "Scheduler",
    "Settings",
    "Snooze",
    "UnknownOption",
    "Unrecoverable",
    "Usage",
    "WaitForChildren",
    "WrongState",
    "aclose",
    "around_job",
    "canary",
    "child_start",
    "child_stop",
    "close",
    "connect",
    "custom",
    "exponential",
    "fixed",
    "preload",
]

if not TYPE_CHECKING:  # type checkers would take any name at all for one that `__getattr__` knows
    _MODULES = {
        "heavyq.bullmq.clients": ("ClientInfo",),
        "heavyq.config.profiles": ("HEAVY", "LIGHT", "MEDIUM", "STANDARD", "Profile"),
        "heavyq.config.values": ("Dedup", "Keep", "Rate", "custom", "exponential", "fixed"),
        "heavyq.core.outcome": ("Failure", "Usage"),
        "heavyq.job.context": ("Job",),
        "heavyq.job.event": ("JobEvent",),
        "heavyq.job.raised": ("RateLimited", "RetryAfter", "Snooze", "Unrecoverable", "WaitForChildren"),
        "heavyq.queue.ahandle": ("AsyncJobHandle",),
        "heavyq.queue.aqueue": ("AsyncQueue",),
        "heavyq.queue.connection": ("aclose", "close", "connect"),
        "heavyq.queue.flow": ("AsyncFlow", "AsyncFlowNode", "Flow", "FlowNode"),
        "heavyq.queue.handle": ("JobHandle",),
        "heavyq.queue.model": ("Model",),
        "heavyq.queue.named": ("AsyncNamedQueue", "NamedQueue"),
        "heavyq.queue.operating": ("Metrics", "Settings"),
        "heavyq.queue.queue": ("Queue",),
        "heavyq.queue.registry": ("around_job", "canary", "child_start", "child_stop", "preload"),
        "heavyq.queue.scheduling": ("Scheduler",),
        "heavyq.queue.stream": ("Event",),
    }
    _HOME = {name: module for module, names in _MODULES.items() for name in names}

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name == "__version__":
            from importlib.metadata import version

            return version("heavyq")
        home = _HOME.get(name, "heavyq.errors" if name in __all__ else None)
        if home is None:
            raise AttributeError(f"module 'heavyq' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(home), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
