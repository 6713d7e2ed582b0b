"""Options given in Python: queues, profiles, one add; what is refused, and in which words."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime, timedelta

import pytest

from heavyq.bullmq import options as wire
from heavyq.bullmq.dedup import Dedup as WireDedup
from heavyq.config import (
    HEAVY,
    LIGHT,
    MEDIUM,
    STANDARD,
    Dedup,
    Keep,
    Profile,
    Rate,
    job_settings,
    read_job_options,
    read_queue_options,
)
from heavyq.errors import BadValue, ConfigError, NotBuiltYet, UnknownOption


def read(**given):
    return read_queue_options(given, where="Queue('videos')")


def one_add(**given):
    return read_job_options(given, where="add()")


# ---- queues


def test_queue_options_are_read_into_seconds_and_bytes():
    found = read(lock_duration="5m", max_payload="2Mi", recycle_rss=None, attempts=5, delay=timedelta(hours=6))
    assert dict(found.worker) == {"lock_duration": 300.0, "max_payload": 2 * 1024**2, "recycle_rss": None}
    assert dict(found.job) == {"attempts": 5, "delay": 21_600.0}


def test_milliseconds_in_a_queue_are_refused_by_name():
    with pytest.raises(BadValue, match=r"Queue\('videos'\): lock_duration: 30000 looks like milliseconds"):
        read(lock_duration=30_000)


@pytest.mark.parametrize("name", ["timeout_grace", "durable"])
def test_what_is_not_built_yet_is_refused_by_name(name):
    with pytest.raises(NotBuiltYet, match=rf"Queue\('videos'\): {name} is not built yet"):
        read(**{name: 5})


def test_what_is_not_built_yet_is_refused_in_add_too():
    with pytest.raises(NotBuiltYet, match="durable is not built yet"):
        one_add(durable=True)


def test_times_a_rate_and_the_numbers_of_metrics_are_read_for_a_queue():
    found = read(timeout="2h", progress_timeout=90, limiter=Rate(10, per="1s"), metrics=60, async_concurrency=5)
    assert found.worker == {
        "timeout": 7200.0,
        "progress_timeout": 90.0,
        "limiter": (10, 1000),
        "metrics": 60,
        "async_concurrency": 5,
    }
    off = {"timeout": None, "progress_timeout": None, "limiter": None, "metrics": None}
    assert read(**off).worker == off


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_are_forked_or_spawned(method):
    assert read(start_method=method).worker == {"start_method": method}


def test_memory_options_are_read_into_bytes_and_a_size_may_be_off():
    given = {"memory_request": "1Gi", "memory_limit": "2G", "on_memory_limit": "retry", "memory_rlimit": True}
    assert read(**given).worker == {**given, "memory_request": 1024**3, "memory_limit": 2_000_000_000}
    off = {"memory_request": None, "memory_limit": None}
    assert read(**off).worker == off


def test_a_request_as_large_as_the_limit_is_taken_and_one_that_stands_alone_too():
    assert read(memory_request="2Gi", memory_limit="2Gi").worker["memory_request"] == 2 * 1024**3
    assert read(memory_request="4Gi", memory_limit=None).worker["memory_limit"] is None
    assert read(memory_request="4Gi").worker == {"memory_request": 4 * 1024**3}


def test_a_request_above_the_limit_is_refused_in_one_line_that_says_what_to_do():
    with pytest.raises(BadValue) as caught:
        read(memory_request="4Gi", memory_limit="2Gi")
    assert str(caught.value) == (
        "Queue('videos'): memory_request 4Gi is above memory_limit 2Gi: a job that uses what it asks for would be "
        "stopped; raise the limit or lower the request"
    )


def test_a_profile_that_comes_to_ask_for_more_than_it_allows_is_refused():
    gpu = HEAVY.replace(name="gpu", memory_request="4Gi", memory_limit="8Gi")
    assert gpu.replace(memory_limit="4Gi").memory_limit == 4 * 1024**3
    for options in ({"memory_limit": "2Gi"}, {"memory_request": "9Gi"}):
        with pytest.raises(BadValue, match=r"profile 'gpu': memory_request .* is above memory_limit"):
            gpu.replace(**options)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("concurrency", 0, "out of range"),
        ("concurrency", True, "no whole number"),
        ("concurrency", "2", "no whole number"),
        ("concurrency", None, "leave it out"),
        ("lock_duration", "1s", "out of range: 2s to 1d"),
        ("nice", 20, "0 to 19"),
        ("oom_score_adj", -1, "0 to 1000"),
        ("attempts", 0, "out of range"),
        ("attempts", 2.5, "no whole number"),
        ("backoff", "1s", 'write fixed\\("60s"\\)'),
        ("remove_on_complete", -1, "neither True, False"),
        ("lifo", 1, "neither true nor false"),
        ("priority", 2_097_152, "0 to 2097151"),
        ("stack_trace_limit", -1, "at least 0"),
        ("memory_limit", 4096, r"4Ki is out of range: at least 16Mi \(a bare number is bytes\)"),
        ("memory_limit", 0, "out of range: at least 16Mi"),
        ("memory_limit", "half", "'half' is no size: write bytes, or text such as"),
        ("memory_request", 1000, "out of range: at least 1Mi"),
        ("on_memory_limit", "kill", "'kill' is not one of: fail, retry"),
        ("memory_rlimit", "yes", "neither true nor false"),
        ("memory_rlimit", 1, "neither true nor false"),
        ("start_method", "forkserver", "'forkserver' is not one of: fork, spawn"),
        ("async_concurrency", 0, "out of range: 1 to 10000"),
        ("timeout", 7_200_000, "looks like milliseconds"),
        ("timeout", 0, "out of range: 100ms to 365d"),
        ("progress_timeout", "0s", "out of range: 100ms to 365d"),
        ("limiter", 10, r'10 is no rate: write Rate\(10, per="1s"\)'),
        ("limiter", "10/1s", "is no rate"),
        ("metrics", True, "no whole number"),
        ("metrics", 0, "out of range: 1 to 100000"),
        ("deduplication", "", "write an id, or Dedup"),
        ("deduplication", 7, "write an id, or Dedup"),
        ("fail_parent_on_failure", 1, "neither true nor false"),
    ],
)
def test_bad_value_is_refused_with_the_reason(name, value, why):
    with pytest.raises(BadValue, match=f"{name}.*{why}"):
        read(**{name: value})


@pytest.mark.parametrize("name", ["job_id", "timestamp", "parent", "telemetry", "omit_context"])
def test_what_belongs_to_one_add_is_no_default_of_a_queue(name):
    with pytest.raises(BadValue, match="belongs to one add"):
        read(**{name: "x"})


@pytest.mark.parametrize("name", ["lock_duration", "memory_request", "limiter", "start_method"])
def test_options_of_a_queue_in_add_are_unknown_and_say_where_they_belong(name):
    with pytest.raises(UnknownOption) as caught:
        one_add(**{name: "5m"})
    assert str(caught.value) == f"add() has no option '{name}': it belongs to the queue, write Queue(..., {name}=...)"


# ---- one add


def test_what_add_says_wins_over_the_queue_and_the_queue_over_the_profile():
    settings = job_settings(HEAVY, read(attempts=7, priority=3).job, one_add(priority=1, delay="5m", lifo=True))
    assert (settings.attempts, settings.priority, settings.delay_ms, settings.lifo) == (7, 1, 300_000, True)
    assert settings.backoff == wire.Backoff("fixed", 60_000, 0.0)
    assert (settings.remove_on_complete.count, settings.remove_on_fail.count) == (100, -1)


def test_a_standard_job_has_the_documented_defaults():
    settings = job_settings(STANDARD, {}, {})
    assert (settings.attempts, settings.backoff) == (3, wire.Backoff("exponential", 1000, 0.0))
    assert (settings.remove_on_complete.count, settings.remove_on_fail.count) == (0, -1)
    assert (settings.delay_ms, settings.priority, settings.lifo, settings.job_id) == (0, 0, False, None)


def test_computed_delay_of_a_day_is_taken_in_add():
    assert one_add(delay=86_400) == {"delay": 86_400}


def test_limits_of_one_add_are_its_jobs_own_and_a_queues_stay_with_the_worker():
    queue = read(timeout="2h", progress_timeout="5m", memory_limit="1Gi")
    plain = job_settings(HEAVY, queue.job, {})
    assert (plain.timeout_ms, plain.progress_timeout_ms, plain.memory_limit) == (None, None, None)
    own = job_settings(HEAVY, queue.job, one_add(timeout=86_400, progress_timeout="90s", memory_limit="2Gi"))
    assert (own.timeout_ms, own.progress_timeout_ms, own.memory_limit) == (86_400_000, 90_000, 2 * 1024**3)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("timeout", None, "None is not a value here; leave it out, and the queue's holds"),
        ("memory_limit", None, "None is not a value here; leave it out, and the queue's holds"),
        ("memory_limit", "1Mi", "1Mi is out of range: at least 16Mi (a bare number is bytes)"),
        ("parent", "p1", "'p1' is no job: give the running one, or the handle that an add returned"),
        ("parent", None, "None is not a value of this option; leave it out for its default"),
        ("telemetry", {}, "{} is no text"),
    ],
)
def test_bad_value_in_an_add_is_refused_with_the_reason(name, value, why):
    with pytest.raises(BadValue) as caught:
        one_add(**{name: value})
    assert str(caught.value) == f"add(): {name}: {why}"


def test_telemetry_is_carried_as_it_is():
    settings = job_settings(STANDARD, {}, one_add(telemetry='{"traceparent":"00-1"}', omit_context=True))
    assert (settings.telemetry, settings.omit_context) == ('{"traceparent":"00-1"}', True)
    assert (job_settings(STANDARD, {}, {}).telemetry, job_settings(STANDARD, {}, {}).omit_context) == (None, False)


def test_parent_is_whatever_names_a_job():
    class Running:
        id = "p1"

    job = Running()
    assert job_settings(STANDARD, {}, one_add(parent=job)).parent is job


# ---- what a failure does to the parent

POLICIES = {
    "fail_parent_on_failure": "fail",
    "continue_parent_on_failure": "continue",
    "ignore_dependency_on_failure": "ignore",
    "remove_dependency_on_failure": "remove",
}


@pytest.mark.parametrize(("name", "policy"), POLICIES.items())
def test_each_policy_is_the_queues_or_one_adds(name, policy):
    assert job_settings(STANDARD, {}, {}).on_failure is None
    assert job_settings(STANDARD, {}, one_add(**{name: True})).on_failure == policy
    assert job_settings(STANDARD, read(**{name: True}).job, {}).on_failure == policy
    assert job_settings(STANDARD.replace(name="x", **{name: True}), {}, {}).on_failure == policy
    assert job_settings(STANDARD, read(**{name: True}).job, one_add(**{name: False})).on_failure is None


def test_an_adds_policy_takes_the_place_of_the_queues():
    queue = read(fail_parent_on_failure=True).job
    assert job_settings(STANDARD, queue, one_add(ignore_dependency_on_failure=True)).on_failure == "ignore"
    assert job_settings(STANDARD, queue, one_add(ignore_dependency_on_failure=False)).on_failure == "fail"


def test_two_policies_are_refused_wherever_they_are_given():
    both = {"remove_dependency_on_failure": True, "fail_parent_on_failure": True}
    words = "fail_parent_on_failure and remove_dependency_on_failure: only one of them can hold"
    for refused in (lambda: read(**both), lambda: one_add(**both), lambda: HEAVY.replace(**both)):
        with pytest.raises(BadValue, match=words):
            refused()
    assert one_add(**both | {"fail_parent_on_failure": False})["remove_dependency_on_failure"]


# ---- deduplication


def test_a_queues_deduplication_holds_until_an_add_names_another():
    queue = read(deduplication=Dedup("all", ttl="5s", extend=True)).job
    assert job_settings(STANDARD, queue, {}).dedup == WireDedup("all", ttl_ms=5000, extend=True)
    assert job_settings(STANDARD, queue, one_add(deduplication="mine")).dedup == WireDedup("mine")
    assert job_settings(STANDARD, {}, {}).dedup is None


def test_timestamp_is_an_aware_moment():
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    assert job_settings(STANDARD, {}, one_add(timestamp=moment)).timestamp_ms == 1_767_312_000_000
    with pytest.raises(BadValue, match="no aware datetime"):
        one_add(timestamp=datetime(2026, 1, 2))  # noqa: DTZ001 - that is the point
    with pytest.raises(BadValue, match="no aware datetime"):
        one_add(timestamp=1_767_312_000_000)


@pytest.mark.parametrize("job_id", ["12", "0", "-3", "a:b", "0:x", "", "wait", "meta", "events", "stalled-check"])
def test_id_that_bullmq_or_the_queue_would_mistake_is_refused(job_id):
    with pytest.raises(BadValue, match="job_id"):
        one_add(job_id=job_id)


@pytest.mark.parametrize("job_id", ["v1", "007", "12a", "waiting", "a-b_c.d", "é"])
def test_other_ids_are_taken(job_id):
    assert one_add(job_id=job_id) == {"job_id": job_id}


# ---- profiles


@pytest.mark.parametrize(
    ("profile", "concurrency", "lock_s", "stalled_s", "attempts"),
    [(STANDARD, 1, 30, 30, 3), (LIGHT, 50, 30, 30, 3), (MEDIUM, 10, 300, 30, 3), (HEAVY, 1, 3600, 300, 2)],
)
def test_profiles_are_as_documented(profile, concurrency, lock_s, stalled_s, attempts):
    assert (profile.concurrency, profile.lock_duration, profile.stalled_interval) == (concurrency, lock_s, stalled_s)
    assert profile.attempts == attempts
    assert profile.remove_on_complete == (Keep(count=100) if profile is HEAVY else True)


def test_replace_changes_what_it_names_and_keeps_the_rest():
    gpu = HEAVY.replace(name="GPU", lock_duration="2h", remove_on_fail=10)
    assert (gpu.name, gpu.lock_duration, gpu.attempts, gpu.remove_on_fail) == ("gpu", 7200.0, 2, 10)
    assert HEAVY.lock_duration == 3600.0
    again = gpu.replace(concurrency=2)  # its two hours are not mistaken for milliseconds
    assert (again.name, again.lock_duration, again.concurrency) == ("gpu", 7200.0, 2)


def test_profile_that_sets_hours_is_replaced_without_complaint():
    long = STANDARD.replace(name="long", lock_duration="12h")
    assert long.replace(nice=0).lock_duration == 43_200


def test_profile_goes_through_json_and_pickle():
    gpu = HEAVY.replace(name="gpu", lock_duration="12h", memory_limit="4Gi", limiter=Rate(2, per="1m"), timeout="1h")
    assert Profile.from_json(json.loads(json.dumps(gpu.to_json()))).worker_options == gpu.worker_options
    assert pickle.loads(pickle.dumps(gpu)) == gpu


def test_profiles_are_frozen():
    with pytest.raises(AttributeError, match="frozen"):
        HEAVY.attempts = 3
    with pytest.raises(AttributeError):
        del HEAVY.name
    with pytest.raises(TypeError):
        HEAVY.worker_options["nice"] = 3


def test_profile_has_no_other_attributes():
    with pytest.raises(AttributeError, match="no option 'lock_durration'"):
        HEAVY.lock_durration  # noqa: B018
    assert not hasattr(HEAVY, "timeout_grace")
    assert (HEAVY.timeout, HEAVY.limiter, HEAVY.async_concurrency) == (None, None, 50)


@pytest.mark.parametrize("name", ["", "all", "a b", "a,b"])
def test_profile_name_that_worker_type_could_not_name_is_refused(name):
    with pytest.raises(ConfigError, match="profile's name"):
        Profile(name)


def test_profile_refuses_what_a_queue_refuses():
    with pytest.raises(NotBuiltYet):
        HEAVY.replace(name="gpu", timeout_grace="2s")
    with pytest.raises(UnknownOption, match="did you mean"):
        Profile("gpu", lockDuration=3)


def test_profiles_compare_by_what_they_hold():
    assert HEAVY.replace() == HEAVY
    assert HEAVY.replace(nice=1) != HEAVY
    assert len({HEAVY, HEAVY.replace()}) == 1
