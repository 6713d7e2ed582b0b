"""The operations on a queue: one verb, one module (arguments and reply) beside one Lua script.

`client.run(ops.lease(queue, ...))` runs one. The verbs of a lease's holder take the `Lease`, the others the queue.
"""

from heavyq.bullmq.ops.add import Added, add
from heavyq.bullmq.ops.add_log import add_log
from heavyq.bullmq.ops.cancel import Cancelled, cancel
from heavyq.bullmq.ops.change_delay import change_delay
from heavyq.bullmq.ops.change_priority import change_priority
from heavyq.bullmq.ops.checkpoint import checkpoint
from heavyq.bullmq.ops.children import Children, children
from heavyq.bullmq.ops.clean import CLEAN_MAX, CLEANABLE, clean
from heavyq.bullmq.ops.clear_logs import clear_logs
from heavyq.bullmq.ops.close_flow import close_flow
from heavyq.bullmq.ops.common import Settled
from heavyq.bullmq.ops.complete import complete
from heavyq.bullmq.ops.counts import Counts, counts
from heavyq.bullmq.ops.delay import delay
from heavyq.bullmq.ops.detach import detach
from heavyq.bullmq.ops.drain import drain
from heavyq.bullmq.ops.emit import emit
from heavyq.bullmq.ops.end_rate_limit import end_rate_limit
from heavyq.bullmq.ops.fail import fail
from heavyq.bullmq.ops.find import find
from heavyq.bullmq.ops.hand_back import hand_back
from heavyq.bullmq.ops.lease import lease
from heavyq.bullmq.ops.log import log
from heavyq.bullmq.ops.logs import LogPage, logs
from heavyq.bullmq.ops.meta import Meta, meta
from heavyq.bullmq.ops.metrics import Metrics, metrics
from heavyq.bullmq.ops.next_iteration import next_iteration
from heavyq.bullmq.ops.obliterate import obliterate
from heavyq.bullmq.ops.open_queue import open_queue
from heavyq.bullmq.ops.page import PAGE_MAX, STATES, State, page
from heavyq.bullmq.ops.pause import pause
from heavyq.bullmq.ops.priority_counts import priority_counts
from heavyq.bullmq.ops.progress import progress
from heavyq.bullmq.ops.promote import promote
from heavyq.bullmq.ops.promote_jobs import PROMOTE_MAX, promote_jobs
from heavyq.bullmq.ops.rate_limit import rate_limit
from heavyq.bullmq.ops.rate_limit_ttl import rate_limit_ttl
from heavyq.bullmq.ops.remove import remove
from heavyq.bullmq.ops.remove_pending_children import remove_pending_children
from heavyq.bullmq.ops.renew import Renewed, renew
from heavyq.bullmq.ops.reprocess import reprocess
from heavyq.bullmq.ops.resume import resume
from heavyq.bullmq.ops.retry import retry
from heavyq.bullmq.ops.retry_jobs import RETRY_MAX, retry_jobs
from heavyq.bullmq.ops.schedule import Scheduled, schedule
from heavyq.bullmq.ops.scheduler import scheduler
from heavyq.bullmq.ops.schedulers import Scheduler, schedulers
from heavyq.bullmq.ops.set_concurrency import set_concurrency
from heavyq.bullmq.ops.set_rate_limit import set_rate_limit
from heavyq.bullmq.ops.sweep import sweep
from heavyq.bullmq.ops.unschedule import unschedule
from heavyq.bullmq.ops.update_data import update_data
from heavyq.bullmq.ops.wait_children import wait_children
from heavyq.bullmq.ops.wake import wake

__all__ = [
    "CLEANABLE",
    "CLEAN_MAX",
    "PAGE_MAX",
    "PROMOTE_MAX",
    "RETRY_MAX",
    "STATES",
    "Added",
    "Cancelled",
    "Children",
    "Counts",
    "LogPage",
    "Meta",
    "Metrics",
    "Renewed",
    "Scheduled",
    "Scheduler",
    "Settled",
    "State",
    "add",
    "add_log",
    "cancel",
    "change_delay",
    "change_priority",
    "checkpoint",
    "children",
    "clean",
    "clear_logs",
    "close_flow",
    "complete",
    "counts",
    "delay",
    "detach",
    "drain",
    "emit",
    "end_rate_limit",
    "fail",
    "find",
    "hand_back",
    "lease",
    "log",
    "logs",
    "meta",
    "metrics",
    "next_iteration",
    "obliterate",
    "open_queue",
    "page",
    "pause",
    "priority_counts",
    "progress",
    "promote",
    "promote_jobs",
    "rate_limit",
    "rate_limit_ttl",
    "remove",
    "remove_pending_children",
    "renew",
    "reprocess",
    "resume",
    "retry",
    "retry_jobs",
    "schedule",
    "scheduler",
    "schedulers",
    "set_concurrency",
    "set_rate_limit",
    "sweep",
    "unschedule",
    "update_data",
    "wait_children",
    "wake",
]
