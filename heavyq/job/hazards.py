"""What imports and @preload hooks may have left in the zygote that a fork does not survive.

Owns the signs by which it is known: Python's own list of threads, the names of native threads, torch's word on CUDA.
Imports no library; looks only at what is loaded. A pool of OpenMP threads leaves no sign: `job.canary` tries it.
"""

from __future__ import annotations

import os
import sys
import threading
import time

# The threads of gRPC's core, as the kernel names them. They stand while a channel or a server is in use, whatever
# library brought it, and end soon after the last is closed.
_GRPC_THREADS = ("grpc_global_tim", "event_engine")
_GRPC_LEAVES_WITHIN_S = 1.0


def warning() -> str | None:
    """Return what may go wrong in children that are forked from this process, None if nothing is known."""
    threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if not threads:
        return None
    return (
        f"threads that the imports or @preload left running: {', '.join(map(repr, threads))}. A forked child has none "
        "of them, and waits for ever for what only they would do: start them in a @child_start function if jobs need "
        "them"
    )


def refusal() -> str | None:
    """Return why no child can be forked from this process, None if nothing is known against it."""
    if _cuda_is_initialised():
        return (
            "CUDA is initialised in the process that children are forked from (torch.cuda.is_initialized()), and no "
            "forked child can use it: touch the GPU in the processor or in a @child_start function, or set "
            'start_method="spawn" on the queues'
        )
    if _grpc_is_live():
        return (
            "a gRPC channel (or server) is open in the process that children are forked from, and a forked child has "
            "none of its threads: open it in the processor or in a @child_start function, close it before the imports "
            'end, or set start_method="spawn" on the queues'
        )
    return None


def _cuda_is_initialised() -> bool:
    asked = getattr(sys.modules.get("torch.cuda"), "is_initialized", None)
    return bool(asked is not None and asked())


def _grpc_is_live() -> bool:
    """Tell whether gRPC's threads stay; those of a channel that was just closed are given a moment to end."""
    deadline = time.monotonic() + _GRPC_LEAVES_WITHIN_S
    while any(name in _GRPC_THREADS for name in _native_threads()):
        if time.monotonic() > deadline:
            return True
        time.sleep(0.01)
    return False


def _native_threads() -> list[str]:
    names = []
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/comm", encoding="utf-8", errors="replace") as f:
                names.append(f.read().rstrip("\n"))
        except OSError:  # it has ended
            continue
    return names
