"""The Redis that a command looks into, and the words for what is not there.

Owns how a command finds its queue and its job. Reads only.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.ops.counts import Counts, counts
from heavyq.bullmq.ops.find import find
from heavyq.cli import say
from heavyq.config import OPTIONS, RunSettings, find_pyproject, load_run_settings, nearest
from heavyq.errors import JobError, NoSuchJob, UsageError
from heavyq.queue import connection

if TYPE_CHECKING:
    from heavyq.bullmq.job_hash import JobRecord
    from heavyq.store.client import Client


class Place:
    """One Redis and one prefix."""

    def __init__(self, settings: RunSettings) -> None:
        connection.set_worker_default(settings.redis_url, settings.prefix)
        self.client: Client = connection.client(None)
        self.prefix = settings.prefix

    def key(self, queue: str) -> QueueKey:
        return QueueKey(self.prefix, check_queue_name(queue))

    def queue_names(self) -> list[str]:
        return [key.name for key in self.client.scan_queues(self.prefix)]

    def counts(self, queue: str) -> Counts:
        """Return a queue's counts. Raises JobError if there is no such queue."""
        found = self.client.run(counts(self.key(queue)))
        if not any(found.by_state().values()):
            self._must_exist(queue)
        return found

    def job(self, queue: str, job_id: str) -> JobRecord:
        """Return a job. Raises NoSuchJob, or JobError if there is no such queue."""
        record = self.client.run(find(self.key(queue), job_id))
        if record is None:
            self._must_exist(queue)
            raise NoSuchJob(f"queue {queue} has no job {job_id} (it may have completed and been removed)")
        return record

    def _must_exist(self, queue: str) -> None:
        """Look through the keyspace, only where nothing was found: an empty queue is one that exists."""
        names = self.queue_names()
        if queue not in names:
            raise JobError(f"there is no queue {queue} under the prefix {self.prefix}{nearest(queue, names)}")


def check_queue_name(queue: str) -> str:
    """Return a queue's name as it was typed. Raises UsageError for what is none."""
    if not queue or ":" in queue:
        raise UsageError(f'{queue!r} is no queue name: it is not empty and has no ":"')
    return queue


def read_place(redis: str | None, prefix: str | None) -> Place:
    """Find the Redis that a command means: flag, environment, pyproject.toml, embedded server."""
    return Place(place_settings({"redis": redis, "prefix": prefix}))


def place_settings(flags: dict[str, Any]) -> RunSettings:
    """Read what a command needs of the settings; say the warnings. A worker's type says nothing here."""
    environ = {name: value for name, value in os.environ.items() if name not in OPTIONS["worker_type"].env}
    settings = load_run_settings(flags, environ, find_pyproject(Path.cwd()), need_modules=False)
    for warning in settings.warnings:
        say.warning(warning)
    return settings
