"""The operations on a queue: one verb, one module (arguments and reply) beside one Lua script.

`client.run(ops.lease(queue, ...))` runs one. The verbs of a lease's holder take the `Lease`, the others the queue.
"""

from heavyq.bullmq.ops.add import Added, add
from heavyq.bullmq.ops.checkpoint import checkpoint
from heavyq.bullmq.ops.common import Settled
from heavyq.bullmq.ops.complete import complete
from heavyq.bullmq.ops.counts import Counts, counts
from heavyq.bullmq.ops.delay import delay
from heavyq.bullmq.ops.fail import fail
from heavyq.bullmq.ops.find import find
from heavyq.bullmq.ops.hand_back import hand_back
from heavyq.bullmq.ops.lease import lease
from heavyq.bullmq.ops.log import log
from heavyq.bullmq.ops.logs import LogPage, logs
from heavyq.bullmq.ops.open_queue import open_queue
from heavyq.bullmq.ops.page import PAGE_MAX, STATES, State, page
from heavyq.bullmq.ops.progress import progress
from heavyq.bullmq.ops.renew import renew
from heavyq.bullmq.ops.retry import retry
from heavyq.bullmq.ops.sweep import sweep
from heavyq.bullmq.ops.wake import wake

__all__ = [
    "PAGE_MAX",
    "STATES",
    "Added",
    "Counts",
    "LogPage",
    "Settled",
    "State",
    "add",
    "checkpoint",
    "complete",
    "counts",
    "delay",
    "fail",
    "find",
    "hand_back",
    "lease",
    "log",
    "logs",
    "open_queue",
    "page",
    "progress",
    "renew",
    "retry",
    "sweep",
    "wake",
]
