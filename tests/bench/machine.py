"""On what the numbers were taken. Names no path and no host."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import redis

    from tests.bench.figures import Numbers

_REPOSITORY = Path(__file__).resolve().parents[2]


def describe(server: redis.Redis) -> Numbers:
    """Return the facts about this machine, its Python and its server."""
    info: Any = server.info("server")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "valkey": info.get("valkey_version") or info["redis_version"],
        "load_average_before": load(),
    }


def load() -> float:
    """Return the load average of the last minute."""
    return round(os.getloadavg()[0], 2)


def commit() -> str:
    """Return the commit that is measured, with a plus if files differ from it; "unknown" outside of git."""
    try:
        words = ["git", "-C", str(_REPOSITORY), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
