"""Arguments of a wrong type: one line that names the argument, by both faces, and nothing is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import heavyq
from heavyq import BadValue, Flow, Queue
from tests.support.faces import FACES, Face
from tests.support.fresh import forget_declarations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Face]:
    forget_declarations(monkeypatch)
    face = Face(request.param)
    yield face
    face.close()
    heavyq.close()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda q: q.handle(5), "a job's id in queue 'v' is text, and not 5: write '5'"),
        (lambda q: q.get_job(None), "get_job(): the job's id is text, and not None"),
        (lambda q: q.get_scheduler(5), "get_scheduler(): the scheduler's id is text"),
        (lambda q: q.remove_scheduler(5), "remove_scheduler(): the scheduler's id is text"),
        (lambda q: q.handle("1").log(5), "log(): the row is text"),
        (lambda q: q.handle("1").log("x", keep="5"), "log(): keep is a whole number, 0 or more, or None; not '5'"),
        (lambda q: q.handle("1").clear_logs(keep=-1), "clear_logs(): keep is a whole number"),
        (lambda q: q.handle("1").logs("a"), "logs(): start is a whole number; not 'a'"),
        (lambda q: q.handle("1").cancel(None), "cancel(): the reason is text, and not None"),
        (lambda q: q.handle("1").change_priority("1"), "change_priority(): priority"),
        (lambda q: q.handle("1").children_values("q"), "children_values(): queue is a Queue"),
        (lambda q: q.emit("mine", {"a": 1}), "emit(): the field 'a' is text, and not 1: write '1'"),
        (lambda q: q.emit("mine", None), "emit(): fields is a dict of texts"),
        (lambda q: q.add_bulk([("p", {}, None)]), "add_bulk to queue 'v', job 0: its options are a dict"),
        (lambda q: q.add_bulk(None), "add_bulk to queue 'v': jobs is a list"),
        (lambda q: q.set_global_concurrency("4"), "set_global_concurrency(): limit is a whole number, 1 or more"),
        (lambda q: q.rate_limit_ttl("3"), "rate_limit_ttl(): most is a whole number"),
        (lambda q: q.priority_counts("1"), "priority_counts(): a priority is a whole number"),
        (lambda q: q.jobs(limit=None), "jobs(): limit is a whole number, 0 or more; not None"),
        (lambda q: q.jobs(offset="1"), "jobs(): offset is a whole number"),
        (lambda q: q.schedulers(limit=None), "schedulers(): limit is a whole number"),
        (lambda q: q.clean("failed", limit="1"), "clean(): limit is a whole number, 0 or more, or None"),
        (lambda q: q.metrics("failed", start="x"), "metrics(): start is a whole number"),
        (lambda q: q.upsert_scheduler(5, every=5), "upsert_scheduler(5) of queue 'v': the scheduler's id is text"),
        (lambda q: q.upsert_scheduler("a", every=5, limit="3"), "upsert_scheduler('a') of queue 'v': limit is a whole"),
        (lambda q: q.upsert_scheduler("a", cron=5), "upsert_scheduler('a') of queue 'v': cron is text"),
        (lambda q: q.upsert_scheduler("a", cron="* * * * *", tz=5), "upsert_scheduler('a') of queue 'v': tz is text"),
        (
            lambda q: q.upsert_scheduler("a", every=5, name=7),
            "upsert_scheduler('a') of queue 'v': the name of its jobs",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line_that_names_the_argument(
    face: Face, call: Callable[[Any], Any], words: str
) -> None:
    queue = face.of(Queue("v", connection="redis://127.0.0.1:1/0"))  # nobody listens there
    with pytest.raises(BadValue) as caught:
        face(call(queue))
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_a_flow_s_children_are_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_declarations(monkeypatch)
    with pytest.raises(BadValue, match="children is a list of flows, and not None"):
        Flow(Queue("v"), {}, children=None)  # type: ignore[call-overload]
