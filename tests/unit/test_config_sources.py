"""Flags, environment, pyproject.toml: what each may say, who wins, and where a value is said to come from."""

from __future__ import annotations

import json

import pytest

from heavyq.config import (
    HEAVY,
    LIGHT,
    STANDARD,
    children_wanted,
    find_pyproject,
    load_run_settings,
    of_worker_type,
    resolve_queue,
)
from heavyq.errors import BadValue, ConfigError, NotBuiltYet, UnknownOption, UsageError

APP = {"modules": ["app"]}


def project(tmp_path, text):
    path = tmp_path / "pyproject.toml"
    path.write_text(text, encoding="utf-8")
    return path


def load(flags=None, environ=None, pyproject=None, *sets):
    return load_run_settings({**APP, **(flags or {})}, environ or {}, pyproject, sets=sets)


# ---- the worker's own options


def test_defaults_are_the_documented_ones():
    settings = load()
    assert settings.modules == ("app",)
    assert settings.concurrency is None
    assert settings.worker_type is None
    assert settings.redis_url is None
    assert (settings.prefix, settings.drain_timeout_s, settings.failover_after_s) == ("bull", 20.0, 8.0)
    assert (settings.connect_timeout_s, settings.burst, settings.log_format) == (10.0, False, "text")
    assert settings.memory_budget is None
    assert settings.warnings == ()


def test_memory_budget_is_a_size_or_auto_and_a_flag_may_take_it_back(tmp_path):
    path = project(tmp_path, '[tool.heavyq]\nmemory-budget = "6Gi"\n')
    environ = {"HEAVYQ_MEMORY_BUDGET": "2G"}
    told = {"default": load(), "pyproject.toml": load(pyproject=path), "HEAVYQ_MEMORY_BUDGET": load({}, environ, path)}
    told["--memory-budget"] = load({"memory_budget": " Auto "}, environ, path)
    assert [each.memory_budget for each in told.values()] == [None, 6 * 1024**3, 2_000_000_000, None]
    assert [each.origins["memory_budget"] for each in told.values()] == list(told)


def test_flag_wins_over_environment_and_environment_over_pyproject(tmp_path):
    path = project(tmp_path, '[tool.heavyq]\ndrain_timeout = "1s"\nprefix = "p"\nconcurrency = 5\nname = "n"\n')
    environ = {"HEAVYQ_DRAIN_TIMEOUT": "2s", "HEAVYQ_PREFIX": "e"}
    settings = load({"drain_timeout": "3s"}, environ, path)
    assert (settings.drain_timeout_s, settings.prefix, settings.concurrency) == (3.0, "e", 5)
    assert settings.origins["drain_timeout"] == "--drain-timeout"
    assert settings.origins["prefix"] == "HEAVYQ_PREFIX"
    assert settings.origins["concurrency"] == settings.origins["name"] == "pyproject.toml"
    assert settings.origins["burst"] == "default"


def test_redis_comes_from_either_variable_the_own_one_first():
    both = {"HEAVYQ_REDIS": "redis://own", "REDIS_URL": "redis://any"}
    assert load(environ=both).redis_url == "redis://own"
    assert load(environ={"REDIS_URL": "redis://any"}).redis_url == "redis://any"
    assert load({"redis": "unix:///s"}, both).redis_url == "unix:///s"


def test_empty_variable_is_one_that_is_not_set():
    assert load(environ={"HEAVYQ_REDIS": "", "REDIS_URL": " ", "HEAVYQ_NAME": ""}).redis_url is None


def test_failover_may_be_off_and_text_is_understood():
    assert load({"failover_after": "off"}).failover_after_s is None
    assert load(environ={"HEAVYQ_BURST": "yes", "HEAVYQ_LOG_FORMAT": "JSON"}).log_format == "json"
    assert load(environ={"HEAVYQ_BURST": "1"}).burst is True


def test_worker_types_are_lower_case_names_and_all_is_none():
    assert load({"worker_type": "Light,HEAVY"}).worker_type == ("light", "heavy")
    assert load({"worker_type": "all"}).worker_type is None
    assert load(environ={"WORKER_TYPE": "heavy"}).worker_type == ("heavy",)


def test_queue_names_may_be_repeated_or_listed():
    assert load({"queues": ["a", "b,c"]}).queues == ("a", "b", "c")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"drain_timeout": "30000"}, "--drain-timeout: 30000 looks like milliseconds"),
        ({"concurrency": "two"}, "--concurrency: 'two' is no whole number"),
        ({"concurrency": "0"}, "--concurrency: 0 is out of range"),
        ({"recycle_rss": "2g"}, "--recycle-rss: '2g' is no size"),
        ({"log_level": "loud"}, "--log-level: 'loud' is not one of: debug, info"),
        ({"redis": "localhost:6379"}, "--redis: this is no Redis URL"),
        ({"memory_limit": "4"}, "--memory-limit: 4 is out of range: at least 16Mi (a bare number is bytes)"),
        ({"memory_request": "1"}, "--memory-request: 1 is out of range: at least 1Mi"),
        ({"on_memory_limit": "stop"}, "--on-memory-limit: 'stop' is not one of: fail, retry"),
        ({"memory_budget": "off"}, "--memory-budget: 'off' is no size: write bytes, or text such as"),
        ({"memory_budget": "64"}, "--memory-budget: 64 is out of range: at least 16Mi"),
        ({"grace": "2s"}, "--grace is not built yet"),
        ({"inline": True}, "--inline is not built yet"),
        ({"state_dir": "/x"}, "--state-dir is not built yet"),
        ({"failover_after": "0.5s"}, "--failover-after: 500ms is out of range"),
    ],
)
def test_bad_flag_is_a_usage_error_that_names_it(flags, words):
    with pytest.raises(UsageError) as caught:
        load(flags)
    assert str(caught.value).startswith(words)
    assert caught.value.exit_code == 2


def test_bad_variable_is_a_configuration_error_that_names_it():
    with pytest.raises(BadValue, match="HEAVYQ_LOCK_DURATION: 30000 looks like") as caught:
        load(environ={"HEAVYQ_LOCK_DURATION": "30000"})
    assert caught.value.exit_code == 3
    with pytest.raises(BadValue, match="HEAVYQ_MEMORY_RLIMIT: 'maybe' is neither true nor false"):
        load(environ={"HEAVYQ_MEMORY_RLIMIT": "maybe"})
    with pytest.raises(NotBuiltYet, match="HEAVYQ_TIMEOUT_GRACE is not built yet"):
        load(environ={"HEAVYQ_TIMEOUT_GRACE": "1s"})


def test_password_in_a_bad_url_is_not_shown():
    with pytest.raises(ConfigError) as caught:
        load(environ={"HEAVYQ_REDIS": "http://:secret@host"})
    assert "secret" not in str(caught.value)


# ---- the environment's other names


def test_unknown_variable_warns_with_the_nearest_name():
    (warning,) = load(environ={"HEAVYQ_CONCURENCY": "3"}).warnings
    assert "HEAVYQ_CONCURENCY" in warning
    assert "did you mean HEAVYQ_CONCURRENCY?" in warning


def test_variables_of_kubernetes_services_are_ignored():
    made = {
        "HEAVYQ_PORT": "tcp://10.0.0.1:6379",
        "HEAVYQ_PORT_6379_TCP": "tcp://10.0.0.1:6379",
        "HEAVYQ_PORT_6379_TCP_ADDR": "10.0.0.1",
        "HEAVYQ_SERVICE_HOST": "10.0.0.1",
        "HEAVYQ_SERVICE_PORT": "6379",
        "HEAVYQ_SERVICE_PORT_METRICS": "9090",
        "HEAVYQ_METRICS_PORT": "tcp://10.0.0.1:9090",
        "HEAVYQ_METRICS_SERVICE_HOST": "10.0.0.1",
        "HEAVYQ_REDIS_PORT_6379_TCP_PROTO": "tcp",
        "HEAVYQ_REDIS_SERVICE_PORT": "6379",
    }
    assert load(environ=made).warnings == ()


def test_switches_and_foreign_variables_do_not_warn():
    assert load(environ={"HEAVYQ_EMBEDDED": "0", "HEAVYQ_TRACEBACK": "1", "PATH": "/bin"}).warnings == ()


def test_job_option_in_the_environment_is_refused():
    with pytest.raises(ConfigError, match="HEAVYQ_ATTEMPTS: a job's options belong to whoever adds"):
        load(environ={"HEAVYQ_ATTEMPTS": "5"})


# ---- pyproject.toml


def test_key_may_have_hyphens(tmp_path):
    assert load(pyproject=project(tmp_path, '[tool.heavyq]\ndrain-timeout = "4s"\n')).drain_timeout_s == 4.0


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("[tool.heavyq]\nconcurency = 2\n", UnknownOption, 'did you mean "concurrency"'),
        ("[tool.heavyq]\nattempts = 2\n", ConfigError, "belong to whoever adds"),
        ("[tool.heavyq]\nlock_duration = 30000\n", BadValue, "lock_duration: 30000 looks like milliseconds"),
        ('[tool.heavyq]\ntimeout_grace = "1s"\n', NotBuiltYet, "timeout_grace is not built yet"),
        ('[tool.heavyq]\nlimiter = "10"\n', BadValue, "limiter: '10' is no rate: write a number of jobs per time"),
        ("[tool.heavyq]\nmodules = 3\n", BadValue, "modules: 3 is no list of names"),
        ("[tool.heavyq]\nmodules = { light = [1] }\n", BadValue, "modules.light"),
        ("[tool]\nheavyq = 3\n", ConfigError, "is no table"),
        ("[tool.heavyq\n", ConfigError, "cannot be read"),
    ],
)
def test_bad_project_file_is_one_error_that_names_it(tmp_path, text, error, words):
    with pytest.raises(error, match=r"pyproject\.toml") as caught:
        load(pyproject=project(tmp_path, text))
    assert words in str(caught.value)
    assert caught.value.exit_code == 3


def test_project_file_without_our_table_says_nothing(tmp_path):
    assert load(pyproject=project(tmp_path, "[project]\nname = 'x'\n")) == load()


def test_nearest_project_file_is_found(tmp_path):
    path = project(tmp_path, "")
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert find_pyproject(tmp_path / "a" / "b") == path


# ---- modules


def modules(flags=None, environ=None, pyproject=None):
    return load_run_settings(flags or {}, environ or {}, pyproject).modules


def test_arguments_win_then_the_project_then_the_environment(tmp_path):
    path = project(tmp_path, '[tool.heavyq]\nmodules = ["of.project"]\n')
    environ = {"HEAVYQ_MODULES": "of.environ, pkg.*"}
    assert modules({"modules": ["of.args"]}, environ, path) == ("of.args",)
    assert modules({}, environ, path) == ("of.project",)
    assert modules({}, environ) == ("of.environ", "pkg.*")


def test_modules_by_type_are_those_of_the_worker(tmp_path):
    path = project(tmp_path, '[tool.heavyq]\nmodules = { light = ["l", "both"], heavy = ["h", "both"] }\n')
    assert modules({"worker_type": "light"}, {}, path) == ("l", "both")
    assert modules({}, {"WORKER_TYPE": "heavy"}, path) == ("h", "both")
    assert modules({}, {}, path) == ("l", "both", "h")
    with pytest.raises(UsageError, match=r"--worker-type heavvy: .*did you mean .heavy.*it has: heavy, light"):
        modules({"worker_type": "heavvy"}, {}, path)


def test_no_module_anywhere_is_a_clear_error():
    with pytest.raises(ConfigError, match="no module to work with") as caught:
        modules()
    assert caught.value.exit_code == 3
    assert load_run_settings({}, {}, None, need_modules=False).modules == ()


# ---- one queue's options


def resolved(settings, code=None, profile=HEAVY, name="videos"):
    return resolve_queue(name, profile, code or {}, settings.options)


def test_each_source_of_a_queue_option_wins_over_those_below(tmp_path):
    path = project(
        tmp_path, "[tool.heavyq]\nnice = 1\nmax_jobs_per_child = 1\nlock_duration = '1m'\nmax_stalled_count = 9\n"
    )
    environ = {"HEAVYQ_NICE": "2", "HEAVYQ_MAX_JOBS_PER_CHILD": "2", "HEAVYQ_LOCK_DURATION": "2m"}
    settings = load({"max_jobs_per_child": "3"}, environ, path, "videos.nice=5", "videos.oom-score-adj=500")
    found, where = resolved(settings, {"nice": 4, "lock_duration": 240.0})
    assert (found.nice, where["nice"].where) == (5, "--set videos.nice")
    assert (found.oom_score_adj, where["oom_score_adj"].where) == (500, "--set videos.oom_score_adj")
    assert (found.lock_duration_s, where["lock_duration"].where) == (240.0, "Queue('videos')")
    assert (found.max_jobs_per_child, where["max_jobs_per_child"].where) == (3, "--max-jobs-per-child")
    assert (found.max_stalled_count, where["max_stalled_count"].where) == (9, "pyproject.toml")
    assert (found.stalled_interval_s, where["stalled_interval"].where) == (300.0, "profile heavy")
    assert (found.max_payload, where["max_payload"].where) == (1024**2, "default")
    other, _ = resolved(settings, name="emails")
    assert (other.nice, other.lock_duration_s) == (2, 120.0)


def test_queue_without_a_number_of_its_own_may_use_all_children():
    settings = load({"concurrency": "4"})
    assert resolved(settings)[0].concurrency is None
    assert resolved(settings, {"concurrency": 2})[0].concurrency == 2
    assert resolved(load({"concurrency": "4"}, None, None, "videos.concurrency=3"))[0].concurrency == 3


def test_without_the_flag_the_profiles_number_holds():
    settings = load()
    heavy, light = resolved(settings)[0], resolved(settings, profile=LIGHT)[0]
    assert (heavy.concurrency, light.concurrency) == (1, 50)
    assert children_wanted(settings.concurrency, [heavy, light]) == 51
    assert children_wanted(2, [heavy, light]) == 2


def test_jobs_that_share_children_need_fewer_of_them():
    heavy = resolved(load())[0]
    light = resolved(load(), {"async_concurrency": 20}, LIGHT)[0]
    assert children_wanted(None, [heavy], [light]) == 1 + 3
    assert children_wanted(None, [], [heavy]) == 1
    assert children_wanted(2, [heavy], [light]) == 2


def test_times_rates_and_numbers_come_from_every_source(tmp_path):
    path = project(tmp_path, '[tool.heavyq]\nlimiter = "10/1s"\nmetrics = 30\nasync_concurrency = 8\n')
    settings = load({"timeout": "2h"}, {"HEAVYQ_PROGRESS_TIMEOUT": "5m", "HEAVYQ_METRICS": "60"}, path, "a.timeout=off")
    found, where = resolved(settings)
    assert (found.timeout_s, found.progress_timeout_s) == (7200.0, 300.0)
    assert (found.limiter, found.metrics_points, found.async_concurrency) == ((10, 1000), 60, 8)
    assert where["timeout"].where == "--timeout"
    assert where["metrics"].where == "HEAVYQ_METRICS"
    assert where["limiter"].where == "pyproject.toml"
    assert resolved(settings, name="a")[0].timeout_s is None
    told_by_a_zygote = json.loads(json.dumps({"limiter": (2, 60_000)}))
    assert resolved(settings, told_by_a_zygote)[0].limiter == (2, 60_000)


def test_without_a_word_nothing_is_timed_limited_or_counted():
    found, _ = resolved(load())
    assert (found.timeout_s, found.progress_timeout_s, found.limiter, found.metrics_points) == (None,) * 4
    assert found.async_concurrency == 50


def test_set_may_turn_an_option_off():
    settings = load({"recycle_rss": "2Gi"}, None, None, "videos.recycle_rss=off")
    assert resolved(settings)[0].recycle_rss is None
    assert resolved(settings, name="emails")[0].recycle_rss == 2 * 1024**3


def test_memory_options_come_from_every_source_and_say_which(tmp_path):
    path = project(tmp_path, '[tool.heavyq]\nmemory_rlimit = true\nmemory_request = "1Gi"\n')
    environ = {"HEAVYQ_START_METHOD": "Spawn", "HEAVYQ_MEMORY_REQUEST": "2Gi"}
    flags = {"memory_limit": "8Gi", "on_memory_limit": "retry"}
    settings = load(flags, environ, path, "videos.memory_limit=off", "videos.memory-rlimit=no")
    found, where = resolved(settings, {"on_memory_limit": "fail"})
    assert (found.memory_request, where["memory_request"].where) == (2 * 1024**3, "HEAVYQ_MEMORY_REQUEST")
    assert (found.memory_limit, where["memory_limit"].where) == (None, "--set videos.memory_limit")
    assert (found.on_memory_limit, where["on_memory_limit"].where) == ("fail", "Queue('videos')")
    assert (found.memory_rlimit, where["memory_rlimit"].where) == (False, "--set videos.memory_rlimit")
    assert (found.start_method, where["start_method"].where) == ("spawn", "HEAVYQ_START_METHOD")
    other, where = resolved(settings, profile=HEAVY.replace(name="gpu", memory_limit="1Ti"), name="emails")
    assert (other.memory_limit, where["memory_limit"].where) == (8 * 1024**3, "--memory-limit")
    assert (other.on_memory_limit, where["on_memory_limit"].where) == ("retry", "--on-memory-limit")
    assert (other.memory_rlimit, where["memory_rlimit"].where) == (True, "pyproject.toml")


def test_without_a_word_no_memory_option_does_anything():
    found, _ = resolved(load())
    assert (found.memory_request, found.memory_limit) == (None, None)
    assert (found.on_memory_limit, found.memory_rlimit, found.start_method) == ("fail", False, "fork")


@pytest.mark.parametrize(
    ("flags", "environ", "sets", "error", "origins"),
    [
        ({"memory_limit": "1Gi"}, {}, (), UsageError, "memory_request: Queue('videos'), memory_limit: --memory-limit"),
        (
            {"memory_limit": "8Gi"},
            {},
            ("videos.memory_limit=1Gi",),
            UsageError,
            "memory_request: Queue('videos'), memory_limit: --set videos.memory_limit",
        ),
        (
            {},
            {"HEAVYQ_MEMORY_LIMIT": "1Gi"},
            (),
            ConfigError,
            "memory_request: Queue('videos'), memory_limit: HEAVYQ_MEMORY_LIMIT",
        ),
        ({}, {}, (), ConfigError, "memory_request: Queue('videos'), memory_limit: profile small"),
    ],
)
def test_request_above_a_limit_that_was_given_elsewhere_names_both_places(flags, environ, sets, error, origins):
    small = HEAVY.replace(name="small", memory_limit="1Gi")
    settings = load(flags, environ, None, *sets)
    with pytest.raises(error) as caught:
        resolved(settings, {"memory_request": 2 * 1024**3}, small)
    assert str(caught.value) == (
        "queue 'videos': memory_request 2Gi is above memory_limit 1Gi: a job that uses what it asks for would be "
        f"stopped; raise the limit or lower the request ({origins})"
    )


def test_queue_names_with_dots_can_be_set():
    found, _ = resolved(load({}, None, None, "shop.videos.nice=7"), name="shop.videos")
    assert found.nice == 7


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nice=3", "write QUEUE.OPTION=VALUE"),
        ("videos.nice", "write QUEUE.OPTION=VALUE"),
        ("videos.nicce=3", 'did you mean "nice"'),
        ("videos.attempts=3", "belong to whoever adds"),
        ("videos.lock_duration=30000", "looks like milliseconds"),
        ("videos.timeout_grace=1s", "is not built yet"),
        ("videos.limiter=fast", "'fast' is no rate"),
        ("videos.drain_timeout=1h", "has no option"),
    ],
)
def test_bad_set_is_a_usage_error(text, words):
    with pytest.raises(UsageError, match="--set") as caught:
        load({}, None, None, text)
    assert words in str(caught.value)


def test_set_for_a_queue_that_is_not_there_is_told():
    options = load({}, None, None, "vidoes.nice=3").options
    assert options.unknown_queues(["videos", "vidoes"]) is None
    message = options.unknown_queues(["videos", "emails"])
    assert message is not None
    assert "vidoes" in message
    assert 'did you mean "videos"' in message
    assert "emails, videos" in message


# ---- worker types


PROFILE_OF = {"videos": "heavy", "emails": "light", "models": "gpu"}


def test_a_worker_type_serves_the_queues_of_its_profile():
    assert of_worker_type(("heavy",), PROFILE_OF) == ("videos",)
    assert of_worker_type(("light", "gpu"), PROFILE_OF) == ("emails", "models")
    assert of_worker_type(None, PROFILE_OF) == of_worker_type(("all",), PROFILE_OF) == tuple(PROFILE_OF)
    assert of_worker_type(("medium",), PROFILE_OF) == ()


def test_an_unknown_worker_type_lists_the_known():
    with pytest.raises(UsageError, match=r"gpuu.*did you mean .gpu.*known: gpu, heavy, light, medium, standard"):
        of_worker_type(("gpuu",), PROFILE_OF)


def test_standard_is_a_profile_like_the_others():
    assert resolved(load(), profile=STANDARD)[0].lock_duration_s == 30.0
