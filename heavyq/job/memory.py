"""Memory of the process that user code runs in: giving back what is free, and the limit around one job.

Owns malloc_trim, RLIMIT_DATA, and the evidence that a job failed at that limit. It never calls a failure one of memory
without it: an exception that was raised far below the limit stays what it is.
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

from heavyq.core.memory import in_words
from heavyq.core.outcome import Failure
from heavyq.linux import procfs

GROWN_MUCH_BYTES = 32 * 2**20
_NEAR = 0.9  # of the limit in use when anything was raised
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
class Met:
    """That a job met its limit: what it held of its room. refused: the error itself tells of memory not given."""

    used_bytes: int
    room_bytes: int
    refused: bool


class DataLimit:
    """Soft RLIMIT_DATA around one job: what it has now, plus the job's room. Its subprocesses inherit it.

    room_bytes: None for no limit.
    """

    def __init__(self, room_bytes: int | None) -> None:
        self.room_bytes = room_bytes
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
        """End it; may be called twice. What we do after an error must not meet the limit itself."""
        if self._before is not None:
            before, self._before = self._before, None
            resource.setrlimit(resource.RLIMIT_DATA, before)

    def met_by(self, error: BaseException) -> Met | None:
        """Lift the limit; tell whether it is what the error comes from, None if nothing shows it.

        To be asked while the error's frames still hold what they held. Only private writable memory is evidence: the
        peak of resident memory counts files that are mapped, so it speaks only where an allocation was refused.
        """
        if self._before is None or self.room_bytes is None:
            return None
        self.lift()
        held = max(0, procfs.data_bytes() - self._data_bytes)
        refused = [asked for one in _chain(error) if (asked := _refused(one)) is not None]
        if not refused:
            return self._met(held, _NEAR, refused=False)
        if held + max(refused) > self.room_bytes:
            return self._met(held, 0.0, refused=True)
        peak = min(procfs.peak_rss_bytes() - self._peak_bytes, self.room_bytes)  # it may have let go meanwhile
        return self._met(max(held, peak), _NEAR_REFUSED, refused=True)

    def _met(self, used_bytes: int, near: float, *, refused: bool) -> Met | None:
        assert self.room_bytes is not None
        return Met(used_bytes, self.room_bytes, refused) if used_bytes >= self.room_bytes * near else None


def at_its_limit(met: Met, error: str, stack: str) -> Failure:
    """Word the failure of a job that met its RLIMIT_DATA. error: what it raised, one line."""
    used, room = in_words(met.used_bytes), in_words(met.room_bytes)
    if met.refused:
        why = f"the kernel refused it memory (memory_rlimit): it held {used}, its limit is {room}; it raised {error}"
    else:
        why = f"it raised {error}, when it held {used} and could have no more than {room} (memory_rlimit)"
    evidence = {"peak_bytes": met.used_bytes, "limit_bytes": met.room_bytes, "limit_of": "rlimit"}
    return Failure("memory_limit", why, stack=stack, evidence=evidence)


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
