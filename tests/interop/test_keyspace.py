"""The oracle: the same steps, taken by BullMQ and by heavyq's operations, leave the same keyspace.

Each step of a `Twins` compares; a test fails at the first step after which the two differ, and says where.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.interop.twins import Twins
    from tests.support.ops import Rig


def test_jobs_run_in_the_order_they_were_added(twins: Twins) -> None:
    # conformance: C-013 C-031 C-032 C-048 C-050 C-175
    for number in range(3):
        twins.add({"n": number}, name=f"n{number}")
        twins.later(1)
    for number in range(3):
        held = twins.fetch()
        assert held.id == str(number + 1)
        twins.complete(held, {"ok": number})
        twins.later(1)
    assert twins.try_fetch() is None


@pytest.mark.parametrize("data", [None, {}, [], 'text "quoted" é ☃ 😀 /', 0, 1.5, True, {"a": {"b": [None, 1]}}])
def test_payload_and_result_of_any_json(twins: Twins, data: object) -> None:
    # conformance: C-022 C-045
    twins.add(data)
    twins.complete(twins.fetch(), data)


def test_every_option_is_stored_under_bullmqs_name(twins: Twins) -> None:
    twins.add(attempts=5, backoff={"type": "exponential", "delay": 1000, "jitter": 0.5}, keepLogs=7, stackTraceLimit=3)
    twins.add(removeOnComplete=True, removeOnFail=False, backoff=1500)
    twins.add(removeOnComplete=10, removeOnFail={"count": 5, "age": 3600, "limit": 100})
    twins.add(timestamp=1_700_000_000_000, delay=500, priority=9)
    twins.add(jobId="mine", lifo=True)


def test_lifo_runs_next(twins: Twins) -> None:
    # conformance: C-014
    for number in range(3):
        twins.add({"n": number})
    last = twins.add(lifo=True)
    assert twins.fetch().id == last


def test_priorities_in_order_and_first_come_first_served_inside_one(twins: Twins) -> None:
    # conformance: C-031 C-049
    for priority in (5, 1, 5, 2_097_151, 1, 0):
        options: dict[str, Any] = {"priority": priority} if priority else {}
        twins.add({"n": priority}, **options)
        twins.later(1)
    order = []
    while held := twins.try_fetch():
        order.append(held.id)
        twins.complete(held)
    assert order == ["6", "2", "5", "1", "3", "4"]


def test_markers_are_set_again_after_they_were_popped(twins: Twins) -> None:
    twins.add(attempts=3)
    assert twins.pop_markers() == [(b"0", 0.0)]
    held = twins.fetch()  # for the next idle worker, though nothing waits
    assert twins.pop_markers() == [(b"0", 0.0)]
    twins.fail(held)
    assert twins.pop_markers() == [(b"0", 0.0)]
    twins.delay(twins.fetch(), 50)
    twins.pop_markers()
    twins.add(delay=70)  # the marker is of the earliest of them
    assert twins.pop_markers() == [(b"1", float(twins.ours.now + 50))]
    twins.later(60)
    twins.complete(twins.fetch())
    twins.pop_markers()
    assert twins.try_fetch() is None
    assert twins.pop_markers() == []


def test_custom_ids_and_duplicates(twins: Twins) -> None:
    # conformance: C-019
    twins.add({"n": 1}, jobId="one")
    twins.add({"n": 2}, jobId="one")  # waits already
    twins.add({"n": 3})
    held = twins.fetch()
    twins.add({"n": 4}, jobId="one")  # is active
    twins.complete(held)
    twins.add({"n": 5}, jobId="one")  # is completed


def test_ids_and_names_of_any_text(twins: Twins) -> None:
    twins.add(jobId="é ☃ 1", name="")
    twins.add_by_node(jobId="a:b:c", name='né\n"')  # heavyq gives no such id, and runs it
    for _ in range(2):
        held = twins.fetch()
        twins.log(held, "")
        twins.complete(held)


def test_delayed_jobs_come_due(twins: Twins) -> None:
    # conformance: C-039
    twins.add(delay=1000)
    twins.add(delay=500, priority=3)
    twins.add(delay=500)
    twins.add(delay=500, lifo=True)
    assert twins.try_fetch() is None
    twins.later(499)
    assert twins.try_fetch() is None
    twins.later(1)
    assert [twins.fetch().id for _ in range(3)] == ["3", "4", "2"]
    assert twins.try_fetch() is None
    twins.later(10_000)
    assert twins.fetch().id == "1"


def test_delayed_jobs_of_one_millisecond_keep_their_order(twins: Twins) -> None:
    # conformance: C-028
    for number in range(5):
        twins.add({"n": number}, delay=100)
    twins.add(delay=99)
    twins.later(200)
    assert [twins.fetch().id for _ in range(6)] == ["6", "1", "2", "3", "4", "5"]


def test_timestamp_of_the_producer_is_the_base_of_its_delay(twins: Twins) -> None:
    # conformance: C-025
    twins.add(timestamp=twins.ours.now - 400, delay=500)
    twins.later(100)
    twins.complete(twins.fetch())


def test_final_failure_without_attempts(twins: Twins) -> None:
    # conformance: C-066
    twins.add()
    twins.later(5)
    held = twins.fetch()
    twins.later(5)
    twins.fail(held, 'no more "tries" é')


@pytest.mark.parametrize("attempts", [0, 1, 2, 3])
def test_retries_at_once_until_the_last(twins: Twins, attempts: int) -> None:
    # conformance: C-067
    twins.add(attempts=attempts)
    twins.add()  # a neighbour, before which a retry does not run
    runs = 0
    while held := twins.try_fetch():
        twins.later(1)
        if held.id == "1":
            runs += 1
            twins.fail(held, f"try {runs}")
        else:
            twins.complete(held)
    assert runs == max(attempts, 1)


def test_retry_of_lifo_and_prioritized_jobs(twins: Twins) -> None:
    # conformance: C-067 C-068
    twins.add()
    twins.add(attempts=2, lifo=True)
    twins.fail(twins.fetch())
    assert twins.fetch().id == "2"
    assert twins.fetch().id == "1"
    twins.add(attempts=2, priority=4)
    twins.add(priority=4)
    twins.fail(twins.fetch())
    assert twins.fetch().id == "4"
    assert twins.fetch().id == "3"


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        ({"type": "fixed", "delay": 300}, [300, 300, 300]),
        ({"type": "exponential", "delay": 100}, [100, 200, 400]),
        (250, [250, 250, 250]),
        ({"type": "fixed", "delay": 0}, [0, 0, 0]),
    ],
)
def test_backoff(twins: Twins, backoff: object, delays: list[int]) -> None:
    # conformance: C-069 C-070
    twins.add(attempts=4, backoff=backoff, priority=2)
    for delay_ms in delays:
        twins.fail(twins.fetch())
        if delay_ms:
            twins.later(delay_ms - 1)
            assert twins.try_fetch() is None
            twins.later(1)
    twins.fail(twins.fetch())
    assert twins.try_fetch() is None


def test_stack_traces_are_kept_to_their_limit(twins: Twins) -> None:
    # conformance: C-064 C-065
    limits: list[dict[str, Any]] = [{}, {"stackTraceLimit": 2}, {"stackTraceLimit": 0}]
    for limit in limits:
        twins.add(attempts=3, **limit)
        for run in range(3):
            twins.fail(twins.fetch(), f"run {run}")


def test_unrecoverable_failure_ignores_the_attempts_left(twins: Twins) -> None:
    # conformance: C-074
    twins.add(attempts=5, backoff={"type": "fixed", "delay": 1000})
    twins.fail(twins.fetch(), "never", unrecoverable=True)


def test_due_jobs_are_promoted_by_a_retry(twins: Twins) -> None:
    twins.add(attempts=2)
    held = twins.fetch()
    twins.add(delay=10)
    twins.later(50)
    twins.fail(held)
    assert [twins.fetch().id, twins.fetch().id] == ["2", "1"]


def test_move_to_delayed_burns_no_attempt(twins: Twins) -> None:
    # conformance: C-076
    twins.add(attempts=2)
    twins.delay(twins.fetch(), 700)
    twins.later(700)
    twins.fail(twins.fetch())
    twins.complete(twins.fetch())


def test_hand_back_goes_to_the_head_and_burns_no_attempt(twins: Twins) -> None:
    # conformance: C-077
    twins.add()
    twins.add()
    twins.hand_back(twins.fetch())
    held = twins.fetch()
    assert held.id == "1"
    twins.complete(held)


def test_hand_back_of_a_prioritized_job_goes_before_its_priority(twins: Twins) -> None:
    # conformance: C-077
    for _ in range(2):
        twins.add(priority=3)
    held = twins.fetch()
    twins.hand_back(held, but="marker")  # D15: BullMQ sets none
    assert twins.ours.zset("marker") == {"0": 0}
    assert twins.fetch().id == "1"


def test_progress_and_logs(twins: Twins) -> None:
    # conformance: C-060 C-061
    twins.add(keepLogs=2)
    held = twins.fetch()
    for value in (0, 12.5, 100, "half", {"frame": 3, "of": {"x": [1]}}, True):
        twins.progress(held, value)
    for row in ("one", "two é ☃", "three"):
        twins.log(held, row)
    twins.complete(held)


def test_retention_by_count(twins: Twins) -> None:
    # conformance: C-054
    for _ in range(5):
        twins.add(removeOnComplete=2, removeOnFail=1)
    for number in range(5):
        held = twins.fetch()
        twins.later(10)
        if number % 2:
            twins.fail(held)
        else:
            twins.complete(held, number)
    assert list(twins.ours.zset("completed")) == ["3", "5"]
    assert list(twins.ours.zset("failed")) == ["4"]


def test_retention_keeps_nothing(twins: Twins) -> None:
    # conformance: C-053
    twins.add(removeOnComplete=True, removeOnFail=True)
    held = twins.fetch()
    twins.log(held, "a row")
    twins.complete(held, "done")
    twins.add(removeOnComplete=True, removeOnFail=True, attempts=2)
    twins.fail(twins.fetch())
    twins.fail(twins.fetch())
    assert not twins.ours.exists("1")
    assert not twins.ours.exists("2")


def test_retention_by_age(twins: Twins) -> None:
    # conformance: C-055
    for _ in range(4):
        twins.add(removeOnComplete={"age": 10, "limit": 1000})
    for _ in range(4):
        twins.complete(twins.fetch())
        twins.later(4000)
    assert list(twins.ours.zset("completed")) == ["2", "3", "4"]


def test_retention_by_age_and_count(twins: Twins) -> None:
    for _ in range(5):
        twins.add(removeOnComplete={"age": 10, "count": 2, "limit": 1000})
    for pause_ms in (1000, 1000, 1000, 20_000, 0):
        twins.complete(twins.fetch())
        twins.later(pause_ms)
    assert list(twins.ours.zset("completed")) == ["5"]


def test_renewal_clears_the_suspicion(twins: Twins) -> None:
    # conformance: C-091
    twins.add()
    held = twins.fetch()
    twins.sweep()
    twins.extend(held, 60_000)
    twins.sweep()
    twins.complete(held)


def test_stalled_job_goes_back_at_the_second_look(twins: Twins) -> None:
    twins.add()
    twins.add()
    held = twins.fetch()
    twins.sweep()
    twins.expire_lock(held)
    twins.pop_markers()
    twins.sweep()
    assert twins.pop_markers() == [(b"0", 0.0)]
    again = twins.fetch()
    assert again.id == held.id
    twins.complete(again)


def test_stalled_prioritized_job_runs_next(twins: Twins) -> None:
    # conformance: C-089
    twins.add(priority=5)
    held = twins.fetch()
    twins.add(priority=1)
    twins.expire_lock(held)
    twins.sweep()
    twins.sweep()
    assert twins.fetch().id == held.id


@pytest.mark.parametrize("options", [{}, {"attempts": 3}, {"removeOnFail": True}])
def test_job_that_stalls_too_often_is_failed_by_who_fetches_it(twins: Twins, options: dict[str, Any]) -> None:
    twins.add(**options)
    for _ in range(2):
        held = twins.fetch()
        twins.sweep()
        twins.expire_lock(held)
        twins.sweep()
        twins.later(10)
    assert twins.try_fetch() is None
    if "removeOnFail" not in options:
        assert twins.ours.field("1", "failedReason") == "job stalled more than allowable limit"


def test_stall_check_of_the_first_stall_when_none_is_allowed(twins: Twins) -> None:
    twins.add()
    twins.expire_lock(twins.fetch())
    twins.sweep(max_stalled_count=0)
    twins.sweep(max_stalled_count=0)
    assert twins.try_fetch() is None
    assert list(twins.ours.zset("failed")) == ["1"]


def test_paused_queue_takes_jobs_but_starts_none(twins: Twins) -> None:
    # conformance: C-098 C-099 C-104
    twins.meta(version=f"bullmq:{twins.bull.node.version}")
    twins.add(attempts=2)
    held = twins.fetch()
    twins.add()
    twins.both("pause")
    twins.add()
    twins.add(priority=2)
    twins.add(delay=100)
    twins.add(lifo=True)
    twins.later(200)
    assert twins.try_fetch() is None  # promotes all the same
    twins.fail(held)
    twins.both("resume")
    assert [twins.fetch().id for _ in range(6)] == ["6", "2", "3", "5", "1", "4"]


def test_hand_back_and_stall_into_a_paused_queue(twins: Twins) -> None:
    # conformance: C-094
    twins.meta(version=f"bullmq:{twins.bull.node.version}")
    for _ in range(3):
        twins.add()
    handed, stalled = twins.fetch(), twins.fetch()
    twins.sweep()
    twins.both("pause")
    twins.hand_back(handed)
    twins.expire_lock(stalled)
    twins.sweep()
    twins.both("resume")
    assert [twins.fetch().id for _ in range(3)] == ["2", "1", "3"]


def test_global_concurrency_is_kept(twins: Twins) -> None:
    twins.both("setConcurrency", limit=1)
    twins.add()
    twins.add()
    held = twins.fetch()
    assert twins.try_fetch() is None
    twins.fail(held)
    assert twins.fetch().id == "2"


def test_global_rate_limit_is_counted(twins: Twins) -> None:
    twins.both("setRateLimit", max=2, ms=60_000)
    for _ in range(4):
        twins.add(attempts=2)
    held = twins.fetch()
    twins.fetch()
    assert twins.try_fetch() is None
    twins.add(delay=10)
    twins.later(10)
    twins.pop_markers()
    assert twins.try_fetch() is None  # promotes all the same
    assert twins.pop_markers() == [(b"0", 0.0)]
    twins.fail(held)
    for side in (twins.ours, twins.theirs):
        side.raw.delete(side.key("limiter"))  # the window is over
    twins.later(60_000)
    assert twins.fetch().id == "3"


def test_limit_of_the_event_stream_is_the_queues(twins: Twins) -> None:
    # conformance: C-058
    twins.meta(**{"opts.maxLenEvents": "50"})
    for _ in range(60):
        twins.add()
    twins.complete(twins.fetch())
    assert twins.ours.field("meta", "opts.maxLenEvents") == "50"


@pytest.mark.parametrize(
    "kept", [{}, {"priority": 2}, {"delay": 50}, {"lifo": True}, {"jobId": "own"}, {"attempts": 2}]
)
def test_the_last_add_of_a_deduplication_id_is_kept_while_its_owner_runs(twins: Twins, kept: dict[str, Any]) -> None:
    # conformance: C-120
    last = {"id": "d", "keepLastIfActive": True}
    twins.add_by_node({"n": 1}, deduplication=last)
    twins.add()
    twins.add_by_node({"n": 2}, deduplication=last)  # its owner only waits: refused for good
    held = twins.fetch()
    twins.add_by_node({"n": 3}, deduplication=last)
    twins.add_by_node({"n": 4}, name="the last", deduplication=last, **kept)
    twins.later(10)
    twins.fail(held, "once", unrecoverable=True)
    twins.later(100)
    ran = []
    while following := twins.try_fetch():
        twins.later(1)
        ran.append(following.job.fields[b"data"])
        twins.complete(following)
    assert set(ran) == {b"{}", b'{"n":4}'}
    assert len(ran) == 2
    assert not twins.ours.exists("de:d")
    assert not twins.ours.exists("dn:d")


def test_deduplication_with_a_time_to_live_outlives_its_job(twins: Twins) -> None:
    twins.add_by_node(deduplication={"id": "t", "ttl": 60_000}, removeOnComplete=True)
    twins.complete(twins.fetch())
    twins.add_by_node(deduplication={"id": "t", "ttl": 60_000})
    assert twins.try_fetch() is None
    assert twins.ours.text("de:t") == "1"


def test_a_deduplication_id_is_kept_through_retries(twins: Twins) -> None:
    # conformance: C-114
    twins.add_by_node(attempts=2, deduplication={"id": "d"})
    twins.fail(twins.fetch())
    twins.add_by_node(deduplication={"id": "d"})
    twins.fail(twins.fetch())
    twins.add_by_node(deduplication={"id": "d"})
    assert twins.fetch().id == "3"


def test_an_add_kept_for_an_owner_that_does_not_keep(twins: Twins) -> None:
    twins.add_by_node({"n": 1}, deduplication={"id": "d"})
    held = twins.fetch()
    twins.add_by_node({"n": 2}, deduplication={"id": "d", "keepLastIfActive": True})
    twins.complete(held)
    assert twins.fetch().job.fields[b"data"] == b'{"n":2}'


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 2, "removeOnComplete": 0, "removeOnFail": 0},
        {"attempts": 3, "backoff": 200, "removeOnComplete": False, "removeOnFail": 1},
        {"attempts": 2, "backoff": {"type": "exponential", "delay": 50}, "removeOnFail": {"count": 1}},
        {"attempts": 2, "lifo": True, "removeOnComplete": {"age": 5}, "stackTraceLimit": 1, "keepLogs": 1},
        {"attempts": 2, "priority": 7, "failParentOnFailure": False, "telemetry": {"metadata": "{}"}},
        {"attempts": 2, "delay": 100, "sizeLimit": 10_000, "jobId": "own"},
        {"attempts": 2, "deduplication": {"id": "d"}},
    ],
)
def test_options_as_node_stores_them_are_acted_on_alike(twins: Twins, options: dict[str, Any]) -> None:
    for _ in range(1 if {"jobId", "deduplication"} & options.keys() else 3):
        twins.add_by_node({"x": [1, None]}, **options)
    for number in range(20):
        twins.later(100)
        if (held := twins.try_fetch()) is None:
            continue
        twins.log(held, "one")
        twins.log(held, "two")
        twins.fail(held, f"run {number}") if number < 6 else twins.complete(held, number)
    assert not twins.ours.exists("active")
    assert not twins.ours.exists("wait")


SPOILERS: dict[str, Callable[[Rig], object]] = {
    "a field": lambda rig: rig.raw.hset(rig.key("1"), "priority", "1"),
    "a payload": lambda rig: rig.raw.hset(rig.key("1"), "data", '{"n": 2}'),
    "a score": lambda rig: rig.raw.zadd(rig.key("marker"), {"0": 1}),
    "an event": lambda rig: rig.raw.xadd(rig.key("events"), {"event": "waiting", "jobId": "1"}),
    "a list": lambda rig: rig.raw.lpush(rig.key("wait"), "2"),
    "a key": lambda rig: rig.raw.sadd(rig.key("stalled"), "1"),
    "a type": lambda rig: (rig.raw.delete(rig.key("1:lock")), rig.raw.lpush(rig.key("1:lock"), "hq:w1:1")),
    "a time to live": lambda rig: rig.raw.persist(rig.key("1:lock")),
}


@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=[name.replace(" ", "-") for name in SPOILERS])
def test_the_oracle_sees(twins: Twins, spoil: Callable[[Rig], object]) -> None:
    twins.add({"n": 1})
    twins.fetch()
    spoil(twins.ours)
    with pytest.raises(AssertionError, match="BullMQ"):
        twins.check()
