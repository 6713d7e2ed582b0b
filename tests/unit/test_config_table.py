"""The table of options: complete, consistent, and the source of the reference page."""

from __future__ import annotations

from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from heavyq.config import OPTIONS, JobDefaults, JobOptions, QueueOptions, WorkerOptions, nearest, options, table
from heavyq.config.queues import QueueSettings
from heavyq.config.reference import page
from heavyq.config.table import find_option
from heavyq.errors import UnknownOption

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "options.md"


def test_every_default_is_a_value_of_its_option():
    for scope in ("queue", "job", "worker"):
        for option in options(scope):
            if option.default is not None:
                assert option.read(option.default, label=option.name) == option.default


def test_no_flag_and_no_variable_belongs_to_two_options():
    flags = [flag for option in OPTIONS.values() for flag in option.flags]
    variables = [variable for option in OPTIONS.values() for variable in option.env]
    assert len(flags) == len(set(flags))
    assert len(variables) == len(set(variables))


def test_typed_dicts_have_the_options_of_the_table_and_no_other():
    built_jobs = (*options("job"), *(o for o in options("queue") if o.also_per_add))
    assert set(get_type_hints(WorkerOptions)) == {o.name for o in options("queue")}
    assert set(get_type_hints(JobDefaults)) == {o.name for o in options("job") if not o.per_add}
    assert set(get_type_hints(JobOptions)) == {o.name for o in built_jobs}
    assert set(get_type_hints(QueueOptions)) == set(get_type_hints(WorkerOptions)) | set(get_type_hints(JobDefaults))


def test_options_that_may_be_off_are_typed_so():
    for typed in (WorkerOptions, JobOptions):
        for name, hint in get_type_hints(typed).items():
            # one add may leave a queue's limit as it is, and not lift it
            may_be_off = OPTIONS[name].may_be_off and not (typed is JobOptions and OPTIONS[name].also_per_add)
            assert (type(None) in getattr(hint, "__args__", ())) == may_be_off, name


def test_queue_settings_have_every_queue_option():
    plain = {name.removesuffix("_s").removesuffix("_points") for name in QueueSettings.__dataclass_fields__}
    assert plain == {o.name for o in options("queue")} | {"recycle_implied"}


def test_choices_are_typed_as_what_they_are():
    for option in options("queue"):
        if option.kind == "choice":
            assert get_args(get_type_hints(WorkerOptions)[option.name]) == option.choices
            assert get_args(get_type_hints(QueueSettings)[option.name]) == option.choices


@pytest.mark.parametrize(
    ("name", "meant"),
    [("lockDuration", "lock_duration"), ("concurency", "concurrency"), ("removeOnComplete", "remove_on_complete")],
)
def test_unknown_option_names_the_nearest_one(name, meant):
    with pytest.raises(UnknownOption, match=f'did you mean "{meant}"') as caught:
        find_option(name, "queue", "job", where="Queue('videos')")
    assert isinstance(caught.value, TypeError)


def test_a_name_near_to_none_gets_no_suggestion():
    assert nearest("xyzzy", OPTIONS) == ""


def test_committed_reference_page_is_the_generated_one():
    assert REFERENCE.read_text(encoding="utf-8") == page(), (
        "run: python -m heavyq.config.reference > docs/reference/options.md"
    )


def test_reference_page_names_every_option():
    text = page()
    assert all(f"| `{name}` |" in text for name in OPTIONS)


def test_reference_page_stands_ours_beside_bullmqs_with_their_units():
    table = page().partition("## Profiles")[0]
    rows = {row.split("`")[1]: [cell.strip() for cell in row.split("|")] for row in table.splitlines() if "| `" in row}
    assert rows["lock_duration"][5] == "`lockDuration` 30000 ms"
    assert rows["limiter"][5] == "`limiter` {max, duration ms}, off"
    assert rows["job_id"][5] == "`jobId`, the queue's counter"
    assert rows["memory_limit"][5] == ""
    assert rows["memory_limit"][6].endswith("(also for one add)")


def test_priority_reaches_as_far_as_bullmqs():
    assert table.PRIORITY_MAX == 2**21 - 1
