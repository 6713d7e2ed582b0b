"""The user's modules, imported into a short-lived command to learn what queues they declare.

Owns that nothing they print gets into the command's answer. The worker imports them in its zygote instead.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from typing import TYPE_CHECKING

from heavyq.config import import_modules, wants_traceback, why_it_does_not_import
from heavyq.errors import ConfigError
from heavyq.queue import connection, registry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from heavyq.config import RunSettings
    from heavyq.queue.queue import Queue


def declared_queues(settings: RunSettings) -> Mapping[str, Queue[Any, Any]]:
    """Import the modules that are configured; return the queues they declare, by name.

    Raises ConfigError: which import failed, and where.
    """
    connection.set_worker_default(settings.redis_url, settings.prefix)
    try:
        with _stdout_to_stderr():
            import_modules(settings.modules)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may raise anything, SystemExit too
        if wants_traceback(os.environ):
            traceback.print_exception(error)
        why = why_it_does_not_import(error, settings.modules)
        raise ConfigError(f"cannot import {', '.join(settings.modules)}: {why}") from error
    return {queue.name: queue for queue in registry.queues()}


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send what C code prints to stderr too: the descriptor moves, not only Python's stream."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
