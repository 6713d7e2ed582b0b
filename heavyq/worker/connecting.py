"""The thread that finds out whether Redis answers, while the supervisor's loop goes on.

Owns how long it is tried, and what is said when it does not answer. It ends with the first answer.
"""

from __future__ import annotations

from collections.abc import Callable

from heavyq.errors import HeavyqError, RedisUnavailable
from heavyq.linux.clock import monotonic_s
from heavyq.store.client import Client
from heavyq.store.connect import check_server
from heavyq.worker.part import Inbox, Part

_PAUSE_S = 0.2


class Connect(Part):
    """Finds out whether Redis answers, without holding up the loop. Calls `found` with None or with what is wrong."""

    def __init__(
        self,
        make_client: Callable[[], Client],
        limit_s: float,
        found: Callable[[HeavyqError | None], None],
        inbox: Inbox,
        died: Callable[[Part, BaseException], None],
    ) -> None:
        super().__init__("connect", inbox, died)
        self._make_client, self._limit_s, self._found = make_client, limit_s, found

    def work(self) -> None:
        deadline_s = monotonic_s() + self._limit_s
        while (problem := self._try()) is not None:
            if not isinstance(problem, RedisUnavailable):
                break
            if monotonic_s() >= deadline_s:
                problem = RedisUnavailable(
                    f"redis did not answer within {self._limit_s:g} s: {problem}; is it running, and is --redis right?"
                )
                break
            if self.stopping.wait(_PAUSE_S):
                return
        self.inbox.post(self._found, problem)

    def _try(self) -> HeavyqError | None:
        try:
            client = self._make_client()
            client.ping()  # what the server refuses of the connection itself, such as a database it does not have
            check_server(client)
            client.close()
        except HeavyqError as error:
            return error
        return None
