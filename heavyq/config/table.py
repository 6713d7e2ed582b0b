"""Every option of heavyq, each once.

From this table come the command line's flags, the environment's names, the keys of pyproject.toml,
validation, `heavyq config` and the reference page. The typed dicts at the end repeat its names for type
checkers only; a test holds the two together.

Options whose part is not built yet stand here with `built=False`: they are refused by name, never ignored.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Literal, Protocol, TypedDict

from heavyq.bullmq.options import Backoff
from heavyq.config.option import Kind, Option, Scope
from heavyq.config.units import Duration, Size
from heavyq.config.values import Dedup, Keep, Rate, exponential
from heavyq.errors import UnknownOption

MiB: Final = 1024 * 1024
PRIORITY_MAX: Final = 2_097_151
_VALUE_MAX: Final = 512 * MiB  # what one Redis string holds
_TIMEOUT_MAX: Final = 365 * 86400


def _queue(
    name: str, kind: Kind, meaning: str, default: Any = None, *, flag: str | tuple[str, ...] = (), **more: Any
) -> Option:
    flags = (flag,) if isinstance(flag, str) else flag
    return Option(name, kind, "queue", meaning, default, flags=flags, env=(f"HEAVYQ_{name.upper()}",), **more)


def _worker(
    name: str, kind: Kind, meaning: str, default: Any = None, *, flag: str | tuple[str, ...] = (), **more: Any
) -> Option:
    flags = ((flag,) if isinstance(flag, str) else flag) or (f"--{name.replace('_', '-')}",)
    more.setdefault("env", (f"HEAVYQ_{name.upper()}",))
    return Option(name, kind, "worker", meaning, default, flags=flags, **more)


def _job(name: str, kind: Kind, meaning: str, default: Any = None, *, flag: str = "", **more: Any) -> Option:
    return Option(name, kind, "job", meaning, default, flags=(flag,) if flag else (), **more)


_ALL: Final[tuple[Option, ...]] = (
    # ---- queue: how the worker runs a queue's jobs ----
    _queue(
        "concurrency",
        "int",
        "how many of the queue's jobs run at once; on the command line, in the environment and in "
        "pyproject.toml: how many children the worker has, and a queue without a number of its own may use "
        "them all",
        1,
        low=1,
        high=1000,
        flag=("--concurrency", "-c"),
        bullmq="concurrency 1",
    ),
    _queue(
        "lock_duration",
        "duration",
        "how long a lease lives without being renewed; it is renewed long before",
        30.0,
        low=2,
        high=86400,
        bullmq="lockDuration 30000 ms",
    ),
    _queue(
        "stalled_interval",
        "duration",
        "how often the queue is searched for jobs whose lease ran out",
        30.0,
        low=0.5,
        high=86400,
        bullmq="stalledInterval 30000 ms",
    ),
    _queue(
        "max_stalled_count",
        "int",
        "how often a job may lose its worker before it is failed",
        1,
        low=0,
        high=1000,
        bullmq="maxStalledCount 1",
    ),
    _queue(
        "max_started_attempts",
        "int",
        "how often a job may be started in all, for whatever reason, before it is failed",
        low=1,
        may_be_off=True,
        bullmq="maxStartedAttempts none",
    ),
    _queue(
        "max_jobs_per_child",
        "int",
        "after so many jobs a child is replaced",
        low=1,
        may_be_off=True,
        flag="--max-jobs-per-child",
    ),
    _queue(
        "recycle_rss",
        "size",
        "a child that has grown to this much memory of its own is replaced after its job",
        low=MiB,
        may_be_off=True,
        flag="--recycle-rss",
    ),
    _queue("max_child_age", "duration", "a child of this age is replaced after its job", low=1, may_be_off=True),
    _queue(
        "memory_request",
        "size",
        "memory that a job of the queue needs: none is leased while so much of the worker's memory budget is not free",
        low=MiB,
        may_be_off=True,
        flag="--memory-request",
    ),
    _queue(
        "memory_limit",
        "size",
        "memory that a job, with all that it started, may use of its own; a job that is over it is stopped",
        low=16 * MiB,
        may_be_off=True,
        also_per_add=True,
        flag="--memory-limit",
    ),
    _queue(
        "on_memory_limit",
        "choice",
        "what becomes of a job that died of its memory: it has failed, whatever its attempts; or it is retried after "
        "its backoff, without an attempt, and fails when it died so three times",
        "fail",
        choices=("fail", "retry"),
        flag="--on-memory-limit",
    ),
    _queue(
        "memory_rlimit",
        "bool",
        "set RLIMIT_DATA from the memory limit as well, so that an allocation beyond it fails inside the job",
        default=False,
    ),
    _queue("nice", "int", "how far children step back for other processes (nice)", 5, low=0, high=19),
    _queue(
        "oom_score_adj",
        "int",
        "how much sooner the kernel picks a child than the worker when memory runs out; never lowered",
        1000,
        low=0,
        high=1000,
    ),
    _queue(
        "max_payload",
        "size",
        "the largest payload that add takes, as JSON; pass an id instead",
        MiB,
        low=1,
        high=_VALUE_MAX,
    ),
    _queue(
        "max_result",
        "size",
        "the largest result that a processor may return, as JSON",
        MiB,
        low=1,
        high=_VALUE_MAX,
    ),
    _queue(
        "start_method",
        "choice",
        "how a child comes to be: fork, from a process that has imported the modules; or spawn, from one that has "
        "not, and the child imports them itself: slower, and shares no memory, but safe with libraries whose threads "
        "do not outlive a fork",
        "fork",
        choices=("fork", "spawn"),
    ),
    _queue(
        "async_concurrency",
        "int",
        "how many jobs of a queue whose processors are all `async def` share one child",
        50,
        low=1,
        high=10_000,
    ),
    _queue(
        "timeout",
        "duration",
        "how long a job may run; then it is stopped and has failed, as one that raised",
        low=0.1,
        high=_TIMEOUT_MAX,
        may_be_off=True,
        also_per_add=True,
        flag="--timeout",
    ),
    _queue("timeout_grace", "duration", "time for a stopped job to clean up", 10.0, built=False),
    _queue(
        "progress_timeout",
        "duration",
        "how long a job may run without telling of progress; then it is stopped and has failed",
        low=0.1,
        high=_TIMEOUT_MAX,
        may_be_off=True,
        also_per_add=True,
    ),
    _queue(
        "limiter",
        "rate",
        'how many jobs of the queue all workers together start in a time: `Rate(10, per="1s")` in Python, `10/1s` '
        "elsewhere",
        may_be_off=True,
        bullmq="limiter {max, duration ms}, off",
    ),
    _queue(
        "metrics",
        "int",
        "for how many minutes the numbers of jobs that completed and failed in each are kept",
        low=1,
        high=100_000,
        may_be_off=True,
        bullmq="metrics.maxDataPoints minutes, off",
    ),
    # ---- job: they belong to whoever adds ----
    _job(
        "attempts",
        "int",
        "how often a job is run in all before it has failed",
        3,
        low=1,
        high=1_000_000,
        flag="--attempts",
        bullmq="attempts 0 (one run)",
    ),
    _job(
        "backoff",
        "backoff",
        "how long to wait before a retry; None: at once",
        exponential("1s"),
        may_be_off=True,
        bullmq="backoff {type, delay ms, jitter}, none",
    ),
    _job(
        "priority",
        "int",
        "1 is first; a job without priority (0) goes before all that have one",
        0,
        low=0,
        high=PRIORITY_MAX,
        flag="--priority",
        bullmq="priority 0",
    ),
    _job(
        "delay",
        "duration",
        "how long to wait before the job may run",
        0.0,
        low=0,
        flag="--delay",
        bullmq="delay 0 ms",
    ),
    _job(
        "lifo",
        "bool",
        "take the newest first: the job goes to the head of the queue",
        default=False,
        bullmq="lifo false",
    ),
    _job(
        "remove_on_complete",
        "keep",
        "what stays of completed jobs: True is nothing",
        default=True,
        bullmq="removeOnComplete false: true, count, or {count, age s, limit}",
    ),
    _job(
        "remove_on_fail",
        "keep",
        "what stays of failed jobs: False is all",
        default=False,
        bullmq="removeOnFail false: the same",
    ),
    _job(
        "keep_logs",
        "int",
        "how many rows of a job's log are kept",
        low=1,
        may_be_off=True,
        bullmq="keepLogs rows, all",
    ),
    _job(
        "stack_trace_limit",
        "int",
        "how many stack traces of failed attempts are kept",
        low=0,
        may_be_off=True,
        bullmq="stackTraceLimit traces, all",
    ),
    _job(
        "size_limit",
        "size",
        "the largest payload that this add takes, as JSON",
        low=0,
        may_be_off=True,
        bullmq="sizeLimit bytes, none",
    ),
    _job(
        "job_id",
        "id",
        "an id of your own: adding it twice is one job",
        per_add=True,
        flag="--job-id",
        bullmq="jobId, the queue's counter",
    ),
    _job(
        "timestamp",
        "moment",
        "when the job was made; default: now",
        per_add=True,
        bullmq="timestamp ms, now",
    ),
    _job(
        "deduplication",
        "dedup",
        "an id, or `Dedup(id, ttl=...)`: while a job of this id has not ended, an add of another answers with it",
        bullmq="deduplication {id, ttl ms, extend, replace, keepLastIfActive, reschedule}, none",
    ),
    _job(
        "parent",
        "parent",
        "the job that waits for this one: the job that runs, or the handle of an add",
        per_add=True,
        bullmq="parent {id, queue}, none",
    ),
    _job(
        "fail_parent_on_failure",
        "bool",
        "when the job has failed, its parent fails too",
        default=False,
        bullmq="failParentOnFailure false",
    ),
    _job(
        "ignore_dependency_on_failure",
        "bool",
        "when the job has failed, its parent goes on without its result, and can read why",
        default=False,
        bullmq="ignoreDependencyOnFailure false",
    ),
    _job(
        "continue_parent_on_failure",
        "bool",
        "when the job has failed, its parent runs at once, whatever else it waits for, and can read why",
        default=False,
        bullmq="continueParentOnFailure false",
    ),
    _job(
        "remove_dependency_on_failure",
        "bool",
        "when the job has failed, its parent goes on as if it had never been",
        default=False,
        bullmq="removeDependencyOnFailure false",
    ),
    _job(
        "telemetry",
        "text",
        "what a tracer wants to find where the job runs, as text; heavyq only carries it",
        per_add=True,
        bullmq="telemetry.metadata, none",
    ),
    _job(
        "omit_context",
        "bool",
        "tell the other side's tracer to take no context from this job",
        default=False,
        per_add=True,
        bullmq="telemetry.omitContext false",
    ),
    _job("durable", "bool", "wait until a replica has the job", built=False),
    # ---- worker: one `heavyq run` ----
    _worker(
        "modules",
        "names",
        "modules to import; `pkg.*` is all of a package; in pyproject.toml also a table by worker type",
        flag=("MODULE",),
    ),
    _worker("queues", "names", "serve only these of the modules' queues", flag=("--queue", "-q")),
    _worker(
        "worker_type",
        "names",
        "serve only the queues of these profiles, or `all`",
        env=("HEAVYQ_WORKER_TYPE", "WORKER_TYPE"),
    ),
    _worker(
        "redis",
        "url",
        "where Redis is, unless the queues say; without it the embedded server is used, if it is installed",
        env=("HEAVYQ_REDIS", "REDIS_URL"),
        bullmq="connection",
    ),
    _worker(
        "prefix",
        "text",
        "first part of the key names of queues that name none",
        "bull",
        bullmq="prefix bull",
    ),
    _worker(
        "drain_timeout",
        "duration",
        "how long running jobs may go on after TERM or INT before they are stopped and handed back",
        20.0,
        low=0,
    ),
    _worker(
        "failover_after",
        "duration",
        "a worker that stands still so long is killed, so that its jobs run elsewhere; off: after 60 s",
        8.0,
        low=1,
        may_be_off=True,
    ),
    _worker("connect_timeout", "duration", "how long to wait for Redis at start", 10.0, low=0),
    _worker(
        "name",
        "label",
        "the worker's name, shown by BullMQ's lists of workers",
        bullmq="name, none",
    ),
    _worker(
        "memory_budget",
        "size",
        "memory that all jobs of the worker share; auto: most of its container's, less what the worker itself holds",
        low=16 * MiB,
        auto=True,
    ),
    _worker("burst", "bool", "end when nothing is left to do", default=False),
    _worker("log_format", "choice", "text for people, json for machines", "text", choices=("text", "json")),
    _worker(
        "log_level",
        "choice",
        "what is too unimportant to be logged",
        "info",
        choices=("debug", "info", "warning", "error"),
    ),
    _worker("grace", "duration", "time for a stopped job to save its checkpoint", 5.0, built=False),
    _worker("inline", "bool", "one job at a time in this process, for a debugger", default=False, built=False),
    _worker("metrics_port", "text", "where metrics are served", built=False),
    _worker("state_dir", "text", "where results wait that Redis did not take", built=False),
)

OPTIONS: Final[Mapping[str, Option]] = {option.name: option for option in _ALL}


def options(scope: Scope, *, built: bool = True) -> tuple[Option, ...]:
    """Return the options of one scope, in the order of the table."""
    return tuple(option for option in _ALL if option.scope == scope and option.built == built)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean "x"?)` if a known name is close, else nothing. camelCase is understood."""
    snake = re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower().replace("-", "_")
    by_lower = {word.lower(): word for word in known}
    close = difflib.get_close_matches(snake, by_lower, n=1, cutoff=0.6)
    return f' (did you mean "{by_lower[close[0]]}"?)' if close else ""


def find_option(name: str, *scopes: Scope, where: str) -> Option:
    """Return the option of that name. where: who names it, for the message (`Queue('videos')`).

    Raises UnknownOption with the nearest name.
    """
    option = OPTIONS.get(name)
    if option is None or not _belongs(option, scopes):
        known = [o.name for o in _ALL if o.built and _belongs(o, scopes)]
        of_queue = option is not None and option.scope == "queue"
        hint = f": it belongs to the queue, write Queue(..., {name}=...)" if of_queue else nearest(name, known)
        raise UnknownOption(f"{where} has no option {name!r}{hint}")
    return option


def _belongs(option: Option, scopes: tuple[Scope, ...]) -> bool:
    return option.scope in scopes or (option.also_per_add and "job" in scopes)


# ---- the same names for type checkers ---------------------------------------------------------------------


class AJob(Protocol):
    """What names a job: the `Job` that runs, or a handle."""

    @property
    def id(self) -> str: ...


class WorkerOptions(TypedDict, total=False):
    """How the worker runs a queue's jobs."""

    concurrency: int
    lock_duration: Duration
    stalled_interval: Duration
    max_stalled_count: int
    max_started_attempts: int | None
    max_jobs_per_child: int | None
    recycle_rss: Size | None
    max_child_age: Duration | None
    memory_request: Size | None
    memory_limit: Size | None
    on_memory_limit: Literal["fail", "retry"]
    memory_rlimit: bool
    nice: int
    oom_score_adj: int
    max_payload: Size
    max_result: Size
    start_method: Literal["fork", "spawn"]
    async_concurrency: int
    timeout: Duration | None
    progress_timeout: Duration | None
    limiter: Rate | None
    metrics: int | None


class JobDefaults(TypedDict, total=False):
    """Job options that a queue or a profile may preset."""

    attempts: int
    backoff: Backoff | None
    priority: int
    delay: Duration
    lifo: bool
    remove_on_complete: bool | int | Keep
    remove_on_fail: bool | int | Keep
    keep_logs: int | None
    stack_trace_limit: int | None
    size_limit: Size | None
    deduplication: str | Dedup
    fail_parent_on_failure: bool
    ignore_dependency_on_failure: bool
    continue_parent_on_failure: bool
    remove_dependency_on_failure: bool


class JobOptions(JobDefaults, total=False):
    """Options of one add."""

    job_id: str
    timestamp: datetime
    parent: AJob
    telemetry: str
    omit_context: bool
    timeout: Duration
    progress_timeout: Duration
    memory_limit: Size


class QueueOptions(WorkerOptions, JobDefaults, total=False):
    """What `Queue(...)` and a profile take."""
