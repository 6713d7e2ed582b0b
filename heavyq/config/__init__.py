"""Options: each once, its values from code, flags, environment and pyproject.toml, and where they came from.

    units     durations and sizes          values    Keep, Rate, Dedup, fixed(), ...
    option    one option, one value        table     all of them, each once
    profiles  STANDARD LIGHT MEDIUM HEAVY  jobs      the options of one add
    sources   flags, environment, file     queues    the options of one queue in a worker
    run       the settings of one worker   modules   which modules a worker imports, and importing them
    reference the page of all options

Light on purpose: no Redis, no pydantic, no third-party module.
"""

from __future__ import annotations

from heavyq.config.jobs import JobSettings, job_settings, read_job_options
from heavyq.config.modules import import_modules, text_of, what_was_raised, why_it_does_not_import
from heavyq.config.option import Option
from heavyq.config.profiles import (
    HEAVY,
    LIGHT,
    MEDIUM,
    PROFILES,
    STANDARD,
    CodeOptions,
    Profile,
    read_queue_options,
)
from heavyq.config.queues import QueueSettings, children_wanted, of_worker_type, resolve_queue
from heavyq.config.run import RunSettings, load_run_settings
from heavyq.config.sources import Given, Sources, find_pyproject, wants_traceback
from heavyq.config.table import (
    OPTIONS,
    JobDefaults,
    JobOptions,
    QueueOptions,
    WorkerOptions,
    nearest,
    options,
)
from heavyq.config.units import Duration, Size, format_duration, format_size, parse_duration, parse_size
from heavyq.config.values import Dedup, Keep, Rate, exponential, fixed

__all__ = [
    "HEAVY",
    "LIGHT",
    "MEDIUM",
    "OPTIONS",
    "PROFILES",
    "STANDARD",
    "CodeOptions",
    "Dedup",
    "Duration",
    "Given",
    "JobDefaults",
    "JobOptions",
    "JobSettings",
    "Keep",
    "Option",
    "Profile",
    "QueueOptions",
    "QueueSettings",
    "Rate",
    "RunSettings",
    "Size",
    "Sources",
    "WorkerOptions",
    "children_wanted",
    "exponential",
    "find_pyproject",
    "fixed",
    "format_duration",
    "format_size",
    "import_modules",
    "job_settings",
    "load_run_settings",
    "nearest",
    "of_worker_type",
    "options",
    "parse_duration",
    "parse_size",
    "read_job_options",
    "read_queue_options",
    "resolve_queue",
    "text_of",
    "wants_traceback",
    "what_was_raised",
    "why_it_does_not_import",
]
