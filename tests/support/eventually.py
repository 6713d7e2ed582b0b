"""Wait for something to become true. The only place in the tests that sleeps."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_FIRST_PAUSE_S = 0.002
_LAST_PAUSE_S = 0.05


def eventually(fn: Callable[[], T], timeout_s: float = 5.0, what: str = "") -> T:
    """Call `fn` until it returns something true, and return that. An AssertionError in it means "not yet".

    Raises AssertionError after `timeout_s`, with `what` and the last value (or the last assertion's text).
    """
    deadline = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    while True:
        last: object
        try:
            last = value = fn()
            if value:
                return value
        except AssertionError as not_yet:
            last = not_yet
        if time.monotonic() > deadline:
            name = what or getattr(fn, "__name__", "it")
            raise AssertionError(f"after {timeout_s:g} s: {name}: last seen {last!r}")
        time.sleep(pause_s)
        pause_s = min(_LAST_PAUSE_S, pause_s * 1.5)


async def aeventually(fn: Callable[[], object], timeout_s: float = 5.0, what: str = "") -> None:
    """Call `fn` until it returns something true, or something to await that is true; the loop goes on meanwhile."""
    deadline = time.monotonic() + timeout_s
    while True:
        last = fn()
        if inspect.isawaitable(last):
            last = await last
        if last:
            return
        assert time.monotonic() < deadline, f"after {timeout_s:g} s: {what}: last seen {last!r}"
        await asyncio.sleep(0.005)


async def steps(n: int) -> None:
    """Let the event loop go `n` rounds."""
    for _ in range(n):
        await asyncio.sleep(0)


def always(fn: Callable[[], object], for_s: float, what: str = "") -> None:
    """Check that `fn` stays true for `for_s` seconds."""
    deadline = time.monotonic() + for_s
    while time.monotonic() < deadline:
        value = fn()
        assert value, f"{what or getattr(fn, '__name__', 'it')} was {value!r}"
        time.sleep(0.02)


def let_pass(seconds: float, why: str) -> None:
    """Let time go by where nothing can be watched; `why` says what is given the time."""
    assert why
    time.sleep(seconds)
