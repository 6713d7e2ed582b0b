"""What the user's modules declared, in plain JSON: how the supervisor, which never imports them, knows of it.

Owns the catalogue's fields on the zygote's side (`worker.catalogue` reads them), and the refusal of what cannot be
served. Runs no user code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from heavyq.errors import ConfigError
from heavyq.queue import registry


def catalogue(prefix: str) -> dict[str, Any]:
    """Describe what the modules declared, in plain JSON: queues with a processor, their options, their connections.

    Raises ConfigError for a declaration that this worker cannot serve.
    """
    queues = []
    for queue in registry.queues():
        if not queue.processors:
            continue
        for processor in queue.processors.values():
            processor.payload_codec.check_type()  # made here once, so that no child has to
            processor.result_codec.check_type()
            _refuse_async(processor.function, f"a processor of queue {queue.name}")
        queues.append(
            {
                "name": queue.name,
                "prefix": queue.key(prefix).prefix,
                "profile": queue.profile.to_json(),
                "options": dict(queue.code_options),
                "url": queue.connection_url,
                "processors": [name for name in queue.processors if name is not None],
            }
        )
    hooks = (registry.preload_hooks, registry.canary_hooks, registry.child_start_hooks, registry.child_stop_hooks)
    for hook in (hook for some in hooks for hook in some):
        _refuse_async(hook, "a hook")
    return {"queues": queues, "declared": [q.name for q in registry.queues()]}


def _refuse_async(function: Callable[..., Any], what: str) -> None:
    for called in (function, type(function).__call__):
        if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
            name = getattr(function, "__qualname__", type(function).__qualname__)
            raise ConfigError(f"{name} ({what}) is `async def`: not built yet; use `def`")
