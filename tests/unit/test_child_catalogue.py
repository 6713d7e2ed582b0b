"""`job.catalogue`: what the supervisor is told of async processors and hooks, and what is refused at once."""

from __future__ import annotations

import functools
import json
from contextlib import asynccontextmanager, contextmanager

import pytest

from heavyq import Queue, around_job, child_start, child_stop
from heavyq.errors import ConfigError
from heavyq.job.catalogue import catalogue, runs_async
from heavyq.queue import registry
from tests.support.fresh import forget_declarations


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    forget_declarations(monkeypatch)


async def works(job): ...


def plain(job): ...


async def generates(job):
    yield


class Callable:
    async def __call__(self, job): ...


def described(*processors):
    q = Queue("q")
    for n, processor in enumerate(processors):
        q.processor(f"n{n}")(processor)
    (told,) = json.loads(json.dumps(catalogue("bull")))["queues"]
    return told


@pytest.mark.parametrize(
    ("processors", "is_async"),
    [
        ([works], True),
        ([works, functools.partial(works), Callable()], True),
        ([plain], False),
        ([works, plain], False),  # its children have one seat each, and a loop when they need one
    ],
)
def test_queue_is_async_when_all_its_processors_are(processors, is_async):
    assert described(*processors)["is_async"] is is_async
    assert runs_async() is (works in processors)


def test_hooks_and_strategy_are_told_by_name():
    q = Queue("q")
    q.on("failed", "completed")(plain)
    q.backoff_strategy(lambda attempts_made, kind, error, job: 1)
    told = described(plain)
    assert (told["hooks"], told["strategy"]) == (["completed", "failed"], True)


def test_queue_without_hooks_says_so():
    told = described(plain)
    assert (told["hooks"], told["strategy"]) == ([], False)


@pytest.mark.parametrize("declare", [child_start, child_stop])
def test_child_hooks_may_be_async(declare):
    @declare
    async def hook(): ...

    assert described(plain)["is_async"] is False
    assert runs_async()


@pytest.mark.parametrize(
    ("declare", "why"),
    [
        (lambda: Queue("q").processor(generates), r"generates \(a processor of queue q\) is an async generator"),
        (lambda: child_start(functools.partial(generates, None)), r"\(a hook\) is an async generator"),
        (lambda: Queue("q").on("failed")(generates), r"generates \(a hook of queue q\) is an async generator"),
        (lambda: Queue("q").backoff_strategy(works), r"\(the backoff strategy of queue q\) is `async def`"),
        (lambda: around_job(generates), r"generates \(@around_job\) makes no context manager"),
        (lambda: around_job(works), r"works \(@around_job\) is `async def`"),
    ],
)
def test_what_would_do_nothing_is_refused(declare, why):
    Queue("q").processor("x")(plain)
    declare()
    with pytest.raises(ConfigError, match=why):
        catalogue("bull")


def test_around_job_takes_managers_of_both_kinds_and_keeps_their_order():
    @around_job
    @contextmanager
    def first(job):
        yield

    @around_job
    @asynccontextmanager
    async def second(job):
        yield

    Queue("q").processor(plain)
    catalogue("bull")
    assert registry.around_hooks == [first, second]


def test_managers_of_one_name_in_two_modules_are_two():
    text = "@around_job\n@contextmanager\ndef traced(job):\n    yield\n"
    for file in ("a.py", "b.py", "a.py"):
        exec(compile(text, file, "exec"), {"around_job": around_job, "contextmanager": contextmanager})
    assert len(registry.around_hooks) == 2
