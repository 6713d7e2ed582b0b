"""Both faces of a queue, so that one test holds for the two: threads and asyncio.

Owns an event loop for the asyncio face. Asserts nothing.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

import heavyq

if TYPE_CHECKING:
    from heavyq import Queue

FACES = ("sync", "aio")


class Face:
    """Calls look the same for both: `face(face.of(queue).add({}))`."""

    def __init__(self, name: str) -> None:
        self._runner = asyncio.Runner() if name == "aio" else None

    def of(self, queue: Any) -> Any:
        """Return the queue, or its asyncio face."""
        return queue if self._runner is None else queue.aio

    def handle(self, queue: Queue[Any, Any], job_id: str) -> Any:
        return self.of(queue).handle(job_id)

    def __call__(self, answer: Any) -> Any:
        """Return what a call has answered, awaited if it has to be."""
        if self._runner is None or not inspect.iscoroutine(answer):
            return answer
        return self._runner.run(answer)

    def close(self) -> None:
        if self._runner is not None:
            self._runner.run(heavyq.aclose())
            self._runner.close()
