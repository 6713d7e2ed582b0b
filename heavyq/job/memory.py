"""Memory of the process that user code runs in: giving back what is free, and the limit around one job.

Owns malloc_trim, RLIMIT_DATA, and the evidence that a job failed at that limit. It never calls a failure one of memory
without it: only an allocation that was refused is, and only if the figures bear it out.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import re
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from heavyq.core.memory import in_words
from heavyq.core.outcome import Failure
from heavyq.linux import procfs

GROWN_MUCH_BYTES = 32 * 2**20
_NEAR = 0.9  # of the limit in use when anything was raised: told beside it
_NEAR_REFUSED = 0.5  # of it when an allocation was refused: a dict that grows asks for twice its size at once
_CHAIN_MAX = 16
_TORCH_ASKED = re.compile(r"can't allocate memory: you tried to allocate (\d+) bytes")
_libc = ctypes.CDLL(None)


def give_back() -> None:
    """Return what malloc holds and nobody uses to the kernel. 25 us a MiB that is given back, else some us.

    malloc keeps freed pieces for later; a job that made many small arrays leaves hundreds of MiB so. Harmless where the
    C library has no malloc_trim (musl).
    """
    with contextlib.suppress(AttributeError):
        _libc.malloc_trim(0)


class Held:
    """The anonymous memory that this process holds between jobs."""

    def __init__(self) -> None:
        self._bytes = procfs.peak_and_anon_bytes()[1]

    def after_job(self, now_bytes: int) -> None:
        """Drop a job's garbage and give its memory back if there is much, so that only a true leak looks like one.

        now_bytes: what the process holds. Garbage in cycles counts as grown until it is collected.
        """
        if now_bytes - self._bytes >= GROWN_MUCH_BYTES:
            gc.collect()
            give_back()
            now_bytes = procfs.peak_and_anon_bytes()[1]
        self._bytes = now_bytes


@dataclass(frozen=True, slots=True)
class Used:
    """What a job held of its room when it raised.

    refused: the error tells of memory that was not given. proved: the figures bear that out.
    """

    used_bytes: int
    room_bytes: int
    refused: bool
    proved: bool

    @property
    def evidence(self) -> dict[str, Any]:
        return {"peak_bytes": self.used_bytes, "limit_bytes": self.room_bytes, "limit_of": "rlimit"}


class DataLimit:
    """Soft RLIMIT_DATA around one job: what it has now, plus the job's room. Its subprocesses inherit it.

    room_bytes: None for no limit. stuck: it could not be lifted, so this process must take no other job.
    """

    def __init__(self, room_bytes: int | None) -> None:
        self.room_bytes = room_bytes
        self.stuck = False
        self._before: tuple[int, int] | None = None
        self._data_bytes = self._peak_bytes = 0

    def set(self) -> None:
        """Begin. The peak of resident memory must have been reset."""
        if self.room_bytes is None:
            return
        before = soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        self._data_bytes, self._peak_bytes = procfs.data_bytes(), procfs.peak_rss_bytes()
        if not self._data_bytes:  # no /proc: a limit counted from nothing would be far too low
            return
        wanted = self._data_bytes + self.room_bytes
        smallest = min([wanted, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)])
        resource.setrlimit(resource.RLIMIT_DATA, (smallest, hard))
        self._before = before

    def lift(self) -> None:
        """End it; may be called twice. What we do after an error must not meet the limit itself. Never raises."""
        if self._before is None:
            return
        before, self._before = self._before, None
        try:
            resource.setrlimit(resource.RLIMIT_DATA, before)
        except (ValueError, OSError):  # the job has lowered its hard limit, and who is not root cannot raise it again
            self.stuck = True
            with contextlib.suppress(ValueError, OSError):
                hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
                resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))

    def used_at(self, error: BaseException) -> Used | None:
        """Lift the limit; return what a reader of the error must know of it, None if it had nothing to do with it.

        To be asked while the error's frames still hold what they held. Only private writable memory is evidence: the
        peak of resident memory counts files that are mapped, so it speaks only where an allocation was refused.
        """
        if self._before is None or self.room_bytes is None:
            return None
        self.lift()
        held = max(0, procfs.data_bytes() - self._data_bytes)
        refused = [asked for one in _chain(error) if (asked := _refused(one)) is not None]
        if not refused:
            near = held >= self.room_bytes * _NEAR
            return Used(held, self.room_bytes, refused=False, proved=False) if near else None
        if held + max(refused) > self.room_bytes:
            return Used(held, self.room_bytes, refused=True, proved=True)
        peak = min(procfs.peak_rss_bytes() - self._peak_bytes, self.room_bytes)  # it may have let go meanwhile
        used = max(held, peak)
        return Used(used, self.room_bytes, refused=True, proved=used >= self.room_bytes * _NEAR_REFUSED)


def at_its_limit(used: Used, error: str, stack: str) -> Failure:
    """Word the failure of a job that was refused memory by its RLIMIT_DATA. error: what it raised, one line."""
    held, room = in_words(used.used_bytes), in_words(used.room_bytes)
    why = f"the kernel refused it memory (memory_rlimit): it held {held}, its limit is {room}; it raised {error}"
    return Failure("memory_limit", why, stack=stack, evidence=used.evidence)


def beside_its_limit(used: Used, detail: str, stack: str) -> Failure:
    """Word an exception of a job, of which it is not known that the RLIMIT_DATA is its cause, with how near it was.

    Some libraries have no word for memory that was refused; and most errors of a job that held much are its own.
    """
    held, room = in_words(used.used_bytes), in_words(used.room_bytes)
    why = f"{detail} (memory_rlimit: {room}, {held} held)"
    return Failure("exception", why, stack=stack, evidence=None if used.refused else used.evidence)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came from, as far as it is told."""
    one: BaseException | None = error
    for _ in range(_CHAIN_MAX):
        if one is None:
            return
        yield one
        one = one.__cause__ or one.__context__


def _refused(error: BaseException) -> int | None:
    """Return how many bytes an error says were refused, 0 if it tells no size; None if it tells of no such thing."""
    if isinstance(error, MemoryError):
        size = getattr(error, "_total_size", 0)  # numpy's
        return size if isinstance(size, int) else 0
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return 0
    if isinstance(error, RuntimeError):
        with contextlib.suppress(Exception):  # its __str__ may be the user's
            text = str(error)
            if found := _TORCH_ASKED.search(text):
                return int(found[1])
            if "can't allocate memory" in text or "can't start new thread" in text:
                return 0
    return None
