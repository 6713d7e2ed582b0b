"""A queue as its own parts see it: its key, its clients, its types, its defaults.

Owns what `Queue`, its async face, the views by job name and the handles share. Decides nothing about a job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from heavyq.bullmq.keys import QueueKey
from heavyq.config.profiles import STANDARD
from heavyq.queue import connection
from heavyq.queue.declaration import Declaration
from heavyq.queue.outcomes import Outcomes
from heavyq.queue.talk import Talk, adrive, drive
from heavyq.queue.typed import Types

if TYPE_CHECKING:
    from heavyq.config.profiles import Profile
    from heavyq.store.aclient import AsyncClient
    from heavyq.store.client import Client

T = TypeVar("T")


class QueueLink:
    """One queue of this process. prefix: None if the queue names none."""

    def __init__(self, prefix: str | None, name: str) -> None:
        self.prefix = prefix
        self.name = name
        self.declaration = Declaration(name)
        self.named: dict[str, Declaration] = {}
        self._types: dict[str | None, Types] = {}
        self._outcomes: WeakKeyDictionary[Client | AsyncClient, Outcomes] = WeakKeyDictionary()

    def key(self, otherwise: str | None = None) -> QueueKey:
        """Return the queue's qualified name. otherwise: the prefix, if the code names none."""
        return QueueKey(self.prefix or connection.default_prefix(otherwise), self.name)

    def client(self) -> Client:
        """Return this process's client. Raises ConfigError."""
        return connection.client(self.declaration.get("connection"))

    async def aclient(self) -> AsyncClient:
        """Return the running event loop's client. Raises ConfigError."""
        return await connection.aclient(self.declaration.get("connection"))

    def drive(self, talk: Talk[T]) -> T:
        """Hold a conversation with the queue's Redis, in this thread."""
        return drive(self.client(), talk)

    async def adrive(self, talk: Talk[T]) -> T:
        """Hold a conversation with the queue's Redis, in this task."""
        return await adrive(await self.aclient(), talk)

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
        types = self._types.get(name)
        if types is None:  # kept in hand: another thread may forget them meanwhile
            declared: Any = said or self.declaration
            label = f"queue {self.name!r}" if name is None else f"job {name!r} of queue {self.name!r}"
            types = self._types[name] = Types.of(label, declared.get("payload"), declared.get("result"))
        return types

    def types_changed(self) -> None:
        """Forget the types that were made; what was declared has grown."""
        self._types = {}

    def outcomes(self, client: Client | AsyncClient) -> Outcomes:
        """Return what a client has read of the queue's event stream."""
        known = self._outcomes.get(client)
        if known is None:
            known = self._outcomes.setdefault(client, Outcomes(client.new_lock()))
        return known
