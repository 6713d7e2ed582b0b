"""The reading verbs on a real Valkey: counts, find, page, logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from heavyq.bullmq import ops
from heavyq.bullmq.ops.counts import Counts
from heavyq.bullmq.options import WireOptions, pack_options
from heavyq.errors import RedisReplyError, UsageError
from tests.support.ops import NOW_MS, Rig

if TYPE_CHECKING:
    import redis

    from heavyq.bullmq.keys import QueueKey
    from heavyq.store.client import Client

LISTS = ("waiting", "active")
SETS = ("delayed", "prioritized", "waiting-children", "completed", "failed")


@pytest.fixture
def rig(client: Client, raw: redis.Redis, q: QueueKey) -> Rig:
    return Rig(client, raw, q)


def put(rig: Rig, state: str, job_id: str, score: float = 0) -> None:
    """Put a job where another client would have left it."""
    rig.raw.hset(rig.key(job_id), mapping={"name": f"n-{job_id}", "data": "{}", "timestamp": "5"})
    if state in {"wait", "paused", "active"}:
        rig.raw.lpush(rig.key(state), job_id)
    else:
        rig.raw.zadd(rig.key(state), {job_id: score})


def ids(rig: Rig, state: str, offset: int = 0, limit: int = 100, *, newest_first: bool = False) -> list[str]:
    page = rig.run(ops.page(rig.q, state, offset=offset, limit=limit, newest_first=newest_first))
    assert all(job.state == state for job in page)
    assert all(job.name == f"n-{job.id}" for job in page)
    return [job.id for job in page]


# -- counts


def test_a_queue_that_does_not_exist_has_no_jobs(rig: Rig) -> None:
    assert rig.run(ops.counts(rig.q)) == Counts(False, 0, 0, 0, 0, 0, 0, 0)
    assert rig.dump() == {}


def test_every_state_is_counted(rig: Rig) -> None:
    for n, state in enumerate((*LISTS, *SETS), 1):
        for i in range(n):
            put(rig, "wait" if state == "waiting" else state, f"{state}-{i}")
    counts = rig.run(ops.counts(rig.q))
    assert counts == Counts(
        paused=False, waiting=1, active=2, delayed=3, prioritized=4, waiting_children=5, completed=6, failed=7
    )
    assert list(counts.by_state().items()) == [
        ("waiting", 1),
        ("active", 2),
        ("delayed", 3),
        ("prioritized", 4),
        ("waiting-children", 5),
        ("completed", 6),
        ("failed", 7),
    ]
    assert set(counts.by_state()) == set(ops.STATES)


def test_what_bullmq_5_keeps_in_paused_is_waiting_too(rig: Rig) -> None:
    put(rig, "wait", "a")
    put(rig, "paused", "b")
    rig.meta(paused=1)
    counts = rig.run(ops.counts(rig.q))
    assert (counts.waiting, counts.paused) == (2, True)


# -- find


@pytest.mark.parametrize("state", ["wait", "paused", "active", *SETS])
def test_a_job_is_found_in_every_state(rig: Rig, state: str) -> None:
    for other in ("a", "b"):
        put(rig, state, other)
    job = rig.run(ops.find(rig.q, "a"))
    assert job is not None
    assert (job.id, job.name, job.state) == ("a", "n-a", "waiting" if state in {"wait", "paused"} else state)


def test_a_job_that_lies_nowhere_is_unknown(rig: Rig) -> None:
    rig.raw.hset(rig.key("a"), mapping={"name": "n", "data": "{}", "timestamp": "5"})
    job = rig.run(ops.find(rig.q, "a"))
    assert job is not None
    assert job.state == "unknown"


def test_what_is_no_job_is_not_found(rig: Rig) -> None:
    put(rig, "wait", "a")
    rig.meta(version="bullmq:5.81.5")
    rig.raw.hset(rig.key("repeat:nightly"), mapping={"name": "tick", "every": "60000", "ic": "1", "data": "{}"})
    rig.raw.hset(rig.key("metrics:completed"), mapping={"count": "3"})
    rig.raw.lpush(rig.key("wait"), "no-hash")
    rig.raw.set(rig.key("text"), "x")
    for job_id in ("b", "", "meta", "wait", "id", "repeat:nightly", "metrics:completed", "no-hash", "text"):
        assert rig.run(ops.find(rig.q, job_id)) is None, job_id


def test_a_scheduler_s_job_is_found(rig: Rig) -> None:
    put(rig, "delayed", "repeat:nightly:1700000000000", 1.0)
    job = rig.run(ops.find(rig.q, "repeat:nightly:1700000000000"))
    assert job is not None
    assert job.state == "delayed"


def test_a_job_is_whole_at_every_step_of_its_life(rig: Rig) -> None:
    opts = pack_options(attempts=2, priority=3)
    job_id = rig.add("video", data=b'{"v":1}', opts=opts, priority=3)
    waiting = rig.run(ops.find(rig.q, job_id))
    assert waiting is not None
    assert (waiting.state, waiting.name, waiting.data, waiting.opts) == (
        "prioritized",
        "video",
        b'{"v":1}',
        WireOptions.read(opts),
    )
    assert (waiting.timestamp_ms, waiting.priority, waiting.attempts_started) == (NOW_MS, 3, 0)
    assert waiting.processed_on_ms is waiting.finished_on_ms is waiting.failed_reason is None

    lease = rig.lease(worker_name="wk1")
    rig.run(ops.progress(lease, b'{"done":0.5}'))
    rig.run(ops.checkpoint(lease, b'{"frame":3}'))
    active = rig.run(ops.find(rig.q, job_id))
    assert active is not None
    assert (active.state, active.worker_name, active.attempts_started, active.attempts_made) == ("active", "wk1", 1, 0)
    assert (active.progress, active.checkpoint, active.processed_on_ms) == (b'{"done":0.5}', b'{"frame":3}', rig.now)

    assert rig.settle("delay", lease, failure=b'{"ats":1,"reason":"signal","signal":9}') == "settled"
    delayed = rig.run(ops.find(rig.q, job_id))
    assert delayed is not None
    assert (delayed.state, delayed.delay_ms, delayed.attempts_made) == ("delayed", 1000, 1)
    assert (delayed.failed_reason, delayed.stacktrace) == ("boom", ("E: boom",))
    assert delayed.failure == {"reason": "signal", "signal": 9}
    assert delayed.checkpoint == b'{"frame":3}'

    rig.now += 1000
    assert rig.settle("complete", rig.lease(), usage=b'{"ats":2,"wall_s":1.5}') == "settled"
    completed = rig.run(ops.find(rig.q, job_id))
    assert completed is not None
    assert (completed.state, completed.returnvalue, completed.finished_on_ms) == ("completed", b'{"ok":true}', rig.now)
    assert (completed.attempts_made, completed.attempts_started) == (2, 2)
    assert (completed.usage, completed.failure, completed.checkpoint) == ({"wall_s": 1.5}, None, None)


def test_ids_that_are_no_unicode_go_there_and_back(rig: Rig) -> None:
    odd = b"caf\xe9"
    rig.raw.hset(rig.key("").encode() + odd, mapping={"name": b"\xe9", "data": "{}"})
    rig.raw.lpush(rig.key("wait"), odd)
    [job] = rig.run(ops.page(rig.q, "waiting", offset=0, limit=10, newest_first=True))
    assert job.name == "\N{REPLACEMENT CHARACTER}"
    found = rig.run(ops.find(rig.q, job.id))
    assert found is not None
    assert found.state == "waiting"


# -- pages


@pytest.mark.parametrize("state", LISTS)
def test_lists_run_from_the_right(rig: Rig, state: str) -> None:
    for job_id in "abcde":
        put(rig, "wait" if state == "waiting" else state, job_id)
    assert ids(rig, state) == list("abcde")
    assert ids(rig, state, newest_first=True) == list("edcba")
    assert ids(rig, state, 1, 2) == ["b", "c"]
    assert ids(rig, state, 1, 2, newest_first=True) == ["d", "c"]
    assert ids(rig, state, 4, 9) == ["e"]
    assert ids(rig, state, 5, 9) == ids(rig, state, 99, 9) == ids(rig, state, 0, 0) == []
    assert ids(rig, state, 5, 9, newest_first=True) == ids(rig, state, 0, 0, newest_first=True) == []


@pytest.mark.parametrize("state", SETS)
def test_sets_are_in_order_of_score(rig: Rig, state: str) -> None:
    for score, job_id in enumerate("abcde"):
        put(rig, state, job_id, score)
    assert ids(rig, state) == list("abcde")
    assert ids(rig, state, newest_first=True) == list("edcba")
    assert ids(rig, state, 1, 2) == ["b", "c"]
    assert ids(rig, state, 1, 2, newest_first=True) == ["d", "c"]
    assert ids(rig, state, 4, 9) == ["e"]
    assert ids(rig, state, 5, 9) == ids(rig, state, 0, 0) == []


def test_wait_and_paused_are_one_list_as_a_resume_leaves_them(rig: Rig) -> None:
    for job_id in "abc":
        put(rig, "paused", job_id)
    for job_id in "de":
        put(rig, "wait", job_id)
    whole = list("abcde")
    for offset in range(7):
        for limit in range(7):
            assert ids(rig, "waiting", offset, limit) == whole[offset : offset + limit]
            assert ids(rig, "waiting", offset, limit, newest_first=True) == whole[::-1][offset : offset + limit]
    # The order is the one in which they will run.
    resumed = rig.list("wait") + rig.list("paused")
    assert resumed[::-1] == whole


def test_pages_cover_a_state_without_gap_or_double(rig: Rig) -> None:
    expected = [rig.add(f"n-{n}", job_id=f"j{n}") for n in range(25)]
    seen = []
    for offset in range(0, 30, 4):
        page = rig.run(ops.page(rig.q, "waiting", offset=offset, limit=4, newest_first=False))
        seen += [job.id for job in page]
    assert seen == expected


def test_the_order_of_waiting_is_the_order_of_running(rig: Rig) -> None:
    for n in range(4):
        rig.add(f"n-{n}", job_id=f"{n}x")
    rig.add("lifo", job_id="next", lifo=True)
    page = rig.run(ops.page(rig.q, "waiting", offset=0, limit=10, newest_first=False))
    assert [job.id for job in page] == [rig.lease().job_id for _ in page]


def test_the_order_of_prioritized_is_the_order_of_running(rig: Rig) -> None:
    for priority in (5, 1, 5, 3):
        rig.add("n", priority=priority)
    page = rig.run(ops.page(rig.q, "prioritized", offset=0, limit=10, newest_first=False))
    assert [job.priority for job in page] == [1, 3, 5, 5]
    assert [job.id for job in page] == [rig.lease().job_id for _ in page]


def test_an_id_whose_job_is_gone_is_left_out(rig: Rig) -> None:
    for job_id in "abc":
        put(rig, "wait", job_id)
        put(rig, "failed", f"{job_id}{job_id}", 1)
    rig.raw.delete(rig.key("b"), rig.key("bb"))
    assert ids(rig, "waiting") == ["a", "c"]
    assert ids(rig, "failed") == ["aa", "cc"]


def test_a_page_writes_nothing(rig: Rig) -> None:
    for job_id in "abc":
        put(rig, "wait", job_id)
    before = rig.dump()
    for state in ops.STATES:
        ids(rig, state)
    rig.run(ops.find(rig.q, "a"))
    rig.run(ops.counts(rig.q))
    rig.run(ops.logs(rig.q, "a"))
    assert rig.dump() == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"state": "paused"},
        {"state": "wait"},
        {"state": ""},
        {"state": "meta"},
        {"offset": -1},
        {"limit": -1},
        {"limit": ops.PAGE_MAX + 1},
    ],
)
def test_a_page_that_cannot_be_is_refused(rig: Rig, wrong: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"state": "waiting", "offset": 0, "limit": 1, "newest_first": True, **wrong}
    with pytest.raises(UsageError):
        ops.page(rig.q, asked.pop("state"), **asked)


def test_the_largest_page_is_read(rig: Rig) -> None:
    pipeline = rig.raw.pipeline(transaction=False)
    for n in range(ops.PAGE_MAX + 5):
        pipeline.hset(rig.key(f"j{n}"), mapping={"name": f"n-j{n}", "data": "{}"})
        pipeline.lpush(rig.key("wait"), f"j{n}")
    pipeline.execute()
    assert len(ids(rig, "waiting", 0, ops.PAGE_MAX)) == ops.PAGE_MAX
    assert ids(rig, "waiting", ops.PAGE_MAX, ops.PAGE_MAX) == [f"j{ops.PAGE_MAX + n}" for n in range(5)]


def test_a_structure_of_another_kind_is_an_error_not_an_empty_queue(rig: Rig) -> None:
    rig.raw.set(rig.key("wait"), "no list")
    with pytest.raises(RedisReplyError):
        rig.run(ops.page(rig.q, "waiting", offset=0, limit=1, newest_first=True))


# -- logs


def test_rows_are_read_oldest_first(rig: Rig) -> None:
    job_id = rig.add()
    lease = rig.lease()
    rig.run(ops.log(lease, [f"row {n}" for n in range(5)], keep=None))
    assert rig.run(ops.logs(rig.q, job_id)).rows == tuple(f"row {n}" for n in range(5))
    assert rig.run(ops.logs(rig.q, job_id, start=1, stop=2)) == ops.LogPage(("row 1", "row 2"), 5)
    assert rig.run(ops.logs(rig.q, job_id, start=-2, stop=-1)).rows == ("row 3", "row 4")
    assert rig.run(ops.logs(rig.q, job_id, start=5, stop=9)) == ops.LogPage((), 5)


def test_no_job_has_no_log(rig: Rig) -> None:
    assert rig.run(ops.logs(rig.q, "nobody")) == ops.LogPage((), 0)


def test_rows_that_are_no_unicode_are_readable(rig: Rig) -> None:
    rig.raw.rpush(rig.key("1:logs"), b"caf\xe9")
    assert rig.run(ops.logs(rig.q, "1")).rows == ("caf\N{REPLACEMENT CHARACTER}",)
