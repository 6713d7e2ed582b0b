"""A queue as its own parts see it: its key, its client, its types, its defaults.

Owns what `Queue`, the views by job name and the handles share. Decides nothing about a job.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from heavyq.bullmq.keys import QueueKey
from heavyq.config.profiles import STANDARD
from heavyq.queue import connection
from heavyq.queue.declaration import Declaration
from heavyq.queue.outcomes import Outcomes
from heavyq.queue.typed import Types

if TYPE_CHECKING:
    from heavyq.config.profiles import Profile
    from heavyq.store.client import Client


class QueueLink:
    """One queue of this process. prefix: None if the queue names none."""

    def __init__(self, prefix: str | None, name: str) -> None:
        self.prefix = prefix
        self.name = name
        self.declaration = Declaration(name)
        self.named: dict[str, Declaration] = {}
        self._types: dict[str | None, Types] = {}
        self._outcomes = Outcomes()
        self._outcomes_pid = os.getpid()

    def key(self, otherwise: str | None = None) -> QueueKey:
        """Return the queue's qualified name. otherwise: the prefix, if the code names none."""
        return QueueKey(self.prefix or connection.default_prefix(otherwise), self.name)

    def client(self) -> Client:
        """Return this process's client. Raises ConfigError."""
        return connection.client(self.declaration.get("connection"))

    @property
    def profile(self) -> Profile:
        """The queue's profile, else that of `connect()`, else STANDARD."""
        profile: Profile = self.declaration.get("profile") or connection.default_profile() or STANDARD
        return profile

    @property
    def max_payload(self) -> int:
        """The largest payload that an add takes, in bytes."""
        given: int = self.declaration.options.worker.get("max_payload", self.profile.max_payload)
        return given

    def types(self, job_name: str | None = None) -> Types:
        """Return the types of one job name: its own if it has been declared, else the queue's."""
        said = self.named.get(job_name) if job_name is not None else None
        name = None if said is None else job_name
        if name not in self._types:
            declared: Any = said or self.declaration
            label = f"queue {self.name!r}" if name is None else f"job {name!r} of queue {self.name!r}"
            self._types[name] = Types.of(label, declared.get("payload"), declared.get("result"))
        return self._types[name]

    def types_changed(self) -> None:
        """Forget the types that were made; what was declared has grown."""
        self._types = {}

    def outcomes(self) -> Outcomes:
        """Return what is known of the queue's event stream. A forked process starts anew: a lock may be held."""
        if self._outcomes_pid != os.getpid():
            self._outcomes, self._outcomes_pid = Outcomes(), os.getpid()
        return self._outcomes
