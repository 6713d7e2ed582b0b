"""An output that nobody reads: what a terminal stopped by Ctrl-S, or a log collector that hangs, is to a worker."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def output_unread(folder: Path) -> Iterator[None]:
    """Let the first worker that is started in `folder` write to a full pipe that has a reader and is not read.

    Do not look at that worker's log inside: there is none, and reading the pipe would wait for its end.
    """
    log_path = folder / "worker-1.log"  # as the first worker names it once this file is there
    os.mkfifo(log_path)
    reader = os.open(log_path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(os.open(log_path, os.O_WRONLY | os.O_NONBLOCK), "wb", buffering=0) as filling:
        while filling.write(b"x" * 4096):
            pass
    try:
        yield
    finally:
        log_path.unlink()
        os.close(reader)  # whoever still writes is told EPIPE
