"""The frames between supervisor, zygote and children: which kinds there are and what they carry.

Owns the letters and the fields; `linux.frames` owns the bytes. Shared by both ends so that they cannot differ.
"""

from __future__ import annotations

import struct

from heavyq.bullmq.job_hash import CHECKPOINT as CHECKPOINT_FIELD

# supervisor -> zygote
# head: {modules, redis_url, prefix, nofile, bare, canary_s}; bare: import nothing of the user's; canary_s: may be left
# out, see `job.canary`
CONFIGURE = b"C"
FORK = b"F"  # head: {child, slot, workdir, nice, oom_score_adj, group}; two descriptors come with it: socket, log pipe
CHECK = b"H"  # prove by a throw-away child that a fork of this zygote can work

# zygote (or a middle process) -> supervisor
CATALOGUE = b"K"  # head: {}; body: JSON, see `job.catalogue`; an empty object from a bare zygote
CHECKED = b"D"  # head: {problem, warning}, each null when there is none; body: text of the problem's stack
BROKEN = b"B"  # head: {error}; body: traceback text. The zygote ends after it
FORKED = b"N"  # head: {child, pid}
NOT_FORKED = b"E"  # head: {child, error}

# supervisor -> child
JOB = b"J"  # head: {run, queue, prefix, id, fence, made, max_result, memory_rlimit}; parts: see JOB_PARTS
EXIT = b"Q"

# child -> supervisor
READY = b"R"  # born and hooks run, or: cleaned up after a job. head: {whole}
NOT_READY = b"X"  # head: {error}; body: traceback text. The child ends after it
RESULT = b"r"  # head: {run, clean, usage, cpu_total_s}; body: the result's JSON
FAILURE = b"f"  # head: {run, clean, usage, cpu_total_s, reason, detail, evidence}; body: traceback text
PROGRESS = b"p"  # body: the run, then JSON
LOG = b"l"  # body: the run, then one row of text
CHECKPOINT = b"c"  # body: the run, then JSON

JOB_PARTS = (b"name", b"data", b"opts", b"timestamp", b"progress", CHECKPOINT_FIELD.encode())

_RUN = struct.Struct("!Q")


def with_run(run: int, body: bytes) -> bytes:
    """Put the run's number before a body: a thread that a job left behind must not write into the next one."""
    return _RUN.pack(run) + body


def split_run(body: bytes) -> tuple[int, bytes]:
    """Take apart what `with_run` put together."""
    return _RUN.unpack_from(body)[0], body[_RUN.size :]
