"""The functions of `@queue.on(...)`: called one after the other, each on its own.

Owns that none of them can fail anything but itself: what it raises goes to the log. Sends no frame.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

from heavyq.job.around import Run, is_async
from heavyq.job.event import JobEvent
from heavyq.queue import registry

LIMIT_S = 30.0

_log = logging.getLogger("heavyq")
_Function = Callable[[JobEvent], Any]


def call(head: Mapping[str, Any], parts: Mapping[bytes, bytes], run: Run) -> None:
    """Call the functions in this thread; the supervisor ends the process if they take too long. run: for async ones."""
    for function, event in _due(head, parts):
        try:
            value = function(event)
            if inspect.iscoroutine(value):
                run(value)
        except BaseException:  # noqa: BLE001 - whatever a hook raises is not the job's
            _failed(function, event)


async def acall(head: Mapping[str, Any], parts: Mapping[bytes, bytes], limit_s: float = LIMIT_S) -> None:
    """Call the functions on the loop; plain ones in a thread, so that jobs go on beside them.

    limit_s: for all of them. A thread cannot be ended: of one that takes too long only the waiting is, and the
    child does not count as clean.
    """
    import asyncio

    until_s = asyncio.get_running_loop().time() + limit_s
    for function, event in _due(head, parts):
        try:
            async with asyncio.timeout_at(until_s):
                if is_async(function):
                    await function(event)
                elif inspect.iscoroutine(value := await asyncio.to_thread(function, event)):
                    await value
        except TimeoutError:
            _failed(function, event, f": its event's {limit_s:g} s are over")
        except BaseException:  # noqa: BLE001 - as above; nobody cancels this task but us
            _failed(function, event)


def _due(head: Mapping[str, Any], parts: Mapping[bytes, bytes]) -> list[tuple[_Function, JobEvent]]:
    """Return the functions of the event, each with one of its own: a function may change the data that it gets."""
    queue = registry.queue_of(head["prefix"], head["queue"])
    functions = queue.hooks.get(head["event"], ())
    return [(function, JobEvent.read(queue, head, parts)) for function in functions]


def _failed(function: _Function, event: JobEvent, more: str = "") -> None:
    name = getattr(function, "__qualname__", repr(function))
    _log.exception("@on(%r) %s failed%s", event.name, name, more)
