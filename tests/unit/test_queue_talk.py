"""Talks and their drivers: both hold the same conversation, and errors are raised where they were asked for."""

from __future__ import annotations

import asyncio
from typing import Any, get_args

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.keys import QueueKey
from heavyq.errors import NoSuchJob, RedisUnavailable
from heavyq.queue import talk
from heavyq.queue.talk import Enter, LastEvent, Pause, RunMany, Talk, adrive, drive, run, run_all
from heavyq.store.aclient import AsyncClient
from heavyq.store.client import Client
from tests.support.eventually import steps

Q = QueueKey("bull", "q")


class Answers:
    """A client that answers in turn what it was given; an exception among it is raised."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)

    def _next(self, *_: Any) -> Any:
        answer = self._answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    run = run_many = last_event_id = pause = enter = _next


class AsyncAnswers(Answers):
    async def _anext(self, *_: Any) -> Any:
        await steps(1)
        return self._next()

    run = run_many = last_event_id = pause = enter = _anext  # type: ignore[assignment]


def both(make: Any, *answers: Any) -> tuple[Any, Any]:
    """Hold a talk by both drivers; return what each has returned or raised."""

    def outcome(hold: Any) -> Any:
        try:
            return hold()
        except Exception as error:
            return repr(error)

    sync: Any = Answers(*answers)
    other: Any = AsyncAnswers(*answers)
    return outcome(lambda: drive(sync, make())), outcome(lambda: asyncio.run(adrive(other, make())))


def test_answers_come_in_turn_and_the_last_word_is_the_result() -> None:
    def conversation() -> Talk[Any]:
        first = yield LastEvent(Q)
        yield Pause(0)
        second = yield from run(ops.find(Q, "1"))
        return first, second

    assert both(conversation, "1-0", None, "job") == (("1-0", "job"), ("1-0", "job"))


def test_a_talk_that_asks_nothing_needs_no_client() -> None:
    def silent() -> Talk[int]:
        return 5
        yield

    assert both(silent) == (5, 5)


def test_an_error_is_raised_where_it_was_asked_for_and_may_be_mended() -> None:
    def patient() -> Talk[Any]:
        try:
            yield LastEvent(Q)
        except RedisUnavailable:
            yield Pause(0)
        return (yield LastEvent(Q))

    assert both(patient, RedisUnavailable("away"), None, "2-0") == ("2-0", "2-0")
    assert both(patient, ValueError("other")) == ("ValueError('other')",) * 2


def test_the_first_error_of_many_is_raised() -> None:
    def many() -> Talk[Any]:
        return run_all([ops.find(Q, "1"), ops.find(Q, "2")])

    assert both(many, [1, NoSuchJob("no 2")]) == ("NoSuchJob('no 2')",) * 2
    assert both(many, [1, 2]) == ([1, 2], [1, 2])


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, asyncio.CancelledError])
def test_a_talk_that_is_interrupted_lets_go_of_its_lock(interrupt: type[BaseException]) -> None:
    released = []

    def locked() -> Talk[None]:
        yield Enter(object())
        try:
            yield LastEvent(Q)
        finally:
            released.append(True)

    client: Any = Answers(None, interrupt())
    with pytest.raises(interrupt):
        drive(client, locked())
    with pytest.raises(interrupt):
        asyncio.run(adrive(AsyncAnswers(None, interrupt()), locked()))  # type: ignore[arg-type]
    assert released == [True, True]


def test_both_clients_answer_every_request() -> None:
    requests = get_args(talk.Request)
    asked: set[str] = set()

    class Seen:
        def __getattr__(self, name: str) -> Any:
            asked.add(name)
            return lambda *_: None

    for request in requests:
        fields = dict.fromkeys(request.__dataclass_fields__)
        request(**fields).ask(Seen())
    assert len(asked) == len(requests)
    for name in asked:
        assert callable(getattr(Client, name))
        assert asyncio.iscoroutinefunction(getattr(AsyncClient, name))


def test_requests_are_plain_values() -> None:
    assert RunMany([]) == RunMany([])
    with pytest.raises(AttributeError):
        Pause(1).seconds = 2  # type: ignore[misc]
