"""The frames between supervisor, zygote and children: which kinds there are and what they carry.

Owns the letters and the fields; `linux.frames` owns the bytes. Shared by both ends so that they cannot differ.
"""

from __future__ import annotations

import struct

from heavyq.bullmq.job_hash import CHECKPOINT as CHECKPOINT_FIELD
from heavyq.bullmq.job_hash import PARENT_KEY, RETURNVALUE

# supervisor -> zygote
# head: {modules, redis_url, prefix, nofile, bare, canary_s}; bare: import nothing of the user's; canary_s: may be left
# out, see `job.canary`
CONFIGURE = b"C"
# head: {child, slot, workdir, nice, oom_score_adj, group, seats}; seats: jobs at once; of more than one, each is a task
# of one event loop. Two descriptors come with it: socket, log pipe
FORK = b"F"
CHECK = b"H"  # prove by a throw-away child that a fork of this zygote can work

# zygote (or a middle process) -> supervisor
CATALOGUE = b"K"  # head: {}; body: JSON, see `job.catalogue`; an empty object from a bare zygote
CHECKED = b"D"  # head: {problem, warning}, each null when there is none; body: text of the problem's stack
BROKEN = b"B"  # head: {error}; body: traceback text. The zygote ends after it
FORKED = b"N"  # head: {child, pid}
NOT_FORKED = b"E"  # head: {child, error}

# supervisor -> child
# head: {run, queue, prefix, id, fence, made, started, parent_key, max_result, memory_rlimit}; parts: see JOB_PARTS.
# started: BullMQ's `ats`; parent_key: null if it has none
JOB = b"J"
# to a child of several seats: cancel a job's task. head: {run, why}. TOLD answers at once, STOPPED or RESULT in the end
STOP = b"S"
HOOK = b"O"  # run the queue's @on functions. head: {run, queue, prefix, id, event, made, at_ms}; parts: see HOOK_PARTS
EXIT = b"Q"  # finish what runs, take nothing more, end

# child -> supervisor
READY = b"R"  # born and hooks run, or: cleaned up after a job. head: {whole}
NOT_READY = b"X"  # head: {error}; body: traceback text. The child ends after it
RESULT = b"r"  # head: {run, clean, usage, cpu_total_s}; body: the result's JSON
# head: {run, clean, usage, cpu_total_s, reason, detail, evidence, final, retry_ms}; body: traceback text.
# final: the job said that no retry mends it. retry_ms: when the job, or the queue's backoff strategy, wants the retry;
# -1: never; null: nothing was said
FAILURE = b"f"
# The run ended and is no failure. head: {run, clean, usage, cpu_total_s, what, delay_ms}; what: one of LATER_KINDS
LATER = b"z"
TOLD = b"t"  # a STOP was read: the child's loop goes round. head: {run}. Also for a run that is over
STOPPED = b"s"  # the task of a job that was to stop has ended without a result. head: {run, clean, usage, cpu_total_s}
HOOKED = b"o"  # the functions of a HOOK are through. head: {run, clean, cpu_total_s}
PROGRESS = b"p"  # body: the run, then JSON
LOG = b"l"  # body: the run, then one row of text
CHECKPOINT = b"c"  # body: the run, then JSON

JOB_PARTS = (
    b"name",
    b"data",
    b"opts",
    b"timestamp",
    b"progress",
    CHECKPOINT_FIELD.encode(),
    PARENT_KEY,
    b"parent",
)
HOOK_PARTS = (*JOB_PARTS, RETURNVALUE, b"failure")  # failure: as `core.outcome.Failure.to_json` writes it

REPORTS = frozenset({RESULT, FAILURE, LATER, STOPPED})  # each ends a run
LATER_KINDS = ("snooze", "rate_limited", "children")  # the last: delay_ms is 0

_RUN = struct.Struct("!Q")


def with_run(run: int, body: bytes) -> bytes:
    """Put the run's number before a body: a thread that a job left behind must not write into the next one."""
    return _RUN.pack(run) + body


def split_run(body: bytes) -> tuple[int, bytes]:
    """Take apart what `with_run` put together."""
    return _RUN.unpack_from(body)[0], body[_RUN.size :]
