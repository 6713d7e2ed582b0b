"""What the canary tries: two threads in each loaded library that is known to hang, then the user's hooks.

Owns these operations. Looks in the zygote only at what is loaded; imports, and runs, in the canary.

GNU OpenMP keeps its threads in a pool of the thread that first used them. Made in the main thread at import, the pool
is dead in every forked child, and the child's first operation of two threads waits for it for ever, in C: no exception,
no signal helps. A count of threads does not tell (OpenBLAS has some and survives a fork), so it is tried.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from heavyq.queue import registry

OPENMP = "OpenMP"


@dataclass(frozen=True, slots=True)
class Trial:
    """One thing to try. name: for people. needs: a module that is imported first. is_hook: it is the user's."""

    name: str
    run: Callable[[], object]
    needs: str | None = None
    is_hook: bool = False


def trials() -> list[Trial]:
    """Return what is to be tried in a child of this process."""
    found = [trial for library, trial in _LIBRARIES.items() if library in sys.modules]
    found += [Trial(f"{OPENMP} ({path})", partial(_two_threads, path)) for path in _gnu_openmp()]
    hooks = [Trial(f"@canary {getattr(h, '__qualname__', h)}", h, is_hook=True) for h in registry.canary_hooks]
    return found + hooks


def _torch() -> None:
    import torch

    torch.set_num_threads(2)
    with torch.no_grad():
        square = torch.ones((512, 512), device="cpu", dtype=torch.float32)
        (square @ square).add_(square)


def _scikit_learn() -> None:
    import numpy as np
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    points = np.random.default_rng(0).random((1024, 4))  # four chunks of its parallel loop
    with threadpool_limits(2, user_api="openmp"):
        KMeans(2, n_init=1, max_iter=2).fit(points)


_LIBRARIES = {
    "torch": Trial("torch", _torch, needs="torch"),
    "sklearn": Trial("scikit-learn", _scikit_learn, needs="sklearn.cluster"),
}


def _gnu_openmp() -> list[str]:
    """Return the files of GNU OpenMP that are loaded: of torch and scikit-learn, of LightGBM, of any other."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        return sorted(set(re.findall(r"(/\S*/libgomp[^/\s]*)$", maps.read(), re.MULTILINE)))


def _two_threads(path: str) -> None:
    """Enter a parallel region of two threads that does nothing, in one OpenMP library. The hang is in the entering."""
    harmless = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p)
    ctypes.CDLL(path).GOMP_parallel(harmless, None, 2, 0)
