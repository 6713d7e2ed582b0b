"""Every error that heavyq raises, in one tree; the branch says who must act.

HeavyqError
 ├─ UsageError            whoever typed the command: exit 2
 ├─ ConfigError           whoever wrote the configuration or the module: exit 3
 │   ├─ UnknownOption         an option that does not exist (a TypeError too)
 │   ├─ BadValue              a value that an option does not take (a ValueError too)
 │   └─ NotBuiltYet           an option or value whose part is not built yet
 ├─ RedisError            the operator
 │   ├─ RedisUnavailable      no answer; nothing is known of what was sent
 │   │   └─ AddUnknown            an add without an answer: it may have happened
 │   ├─ RedisRefused          the password or user is wrong (exit 4 at start)
 │   └─ RedisReplyError       the server answered with an error that no retry mends
 ├─ JobError              the caller of the queue
 │   ├─ PayloadError          the payload does not fit its type
 │   ├─ PayloadTooLarge       pass an id, fetch in the processor
 │   ├─ JobFailed             result(): the job failed for good
 │   ├─ ResultGone            result(): the job was removed and its event trimmed
 │   ├─ NoSuchJob             the id is not in the queue
 │   ├─ NoSuchParent          the job named as parent is not there
 │   ├─ HasAnotherParent      the job is the child of another one already
 │   ├─ WrongState            what was asked cannot be done to a job that is where it is
 │   └─ Unreadable            a field of the stored job is not what BullMQ writes there
 ├─ NotInJobProcess       user code: the job API used in a process that the job forked, or after the job
 └─ ProtocolError         us: a bug in heavyq, please report it
"""

from __future__ import annotations


class HeavyqError(Exception):
    """Root of all of heavyq's errors. `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(HeavyqError):
    """A command, option or value that cannot be taken. Nothing was done."""

    exit_code = 2


class ConfigError(HeavyqError):
    """The configuration or the user's module is wrong; the worker cannot start."""

    exit_code = 3


class UnknownOption(ConfigError, TypeError):  # noqa: N818 - as below
    """An option of that name does not exist; the message names the nearest one."""


class BadValue(ConfigError, ValueError):  # noqa: N818 - as below
    """A value that the option does not take. Nothing was done."""


class NotBuiltYet(ConfigError):  # noqa: N818 - a state
    """The option or value exists in the design, and its part is not built yet: refused, never ignored."""


class RedisError(HeavyqError):
    """Something is wrong between heavyq and Redis."""

    exit_code = 4


class RedisUnavailable(RedisError):  # noqa: N818 - a state, and a public name
    """No answer from Redis (or it says that it cannot serve now). What was sent may have happened.

    nothing_happened: True if nothing was sent, as no connection could be made, or if all of it was discarded.
    """

    nothing_happened = False


class AddUnknown(RedisUnavailable):
    """An add had no answer: the job may be in the queue. Pass a `job_id` to make it safe to repeat."""


class RedisRefused(RedisError):  # noqa: N818 - as above
    """Redis refused the credentials."""


class RedisReplyError(RedisError):
    """Redis answered with an error that repeating the command does not mend."""


class JobError(HeavyqError):
    """About one job: the caller of the queue must act."""


class PayloadError(JobError):
    """The payload does not fit the queue's payload type. Nothing was added."""


class PayloadTooLarge(JobError):  # noqa: N818 - a contract name
    """The payload's JSON is over `max_payload`. Nothing was added."""


class JobFailed(JobError):  # noqa: N818 - a contract name
    """Raised by `result()` when the job failed for good.

    `reason` is one of the reasons of `heavyq.core.outcome.Reason` ("exception" when another worker wrote it).
    """

    def __init__(self, job_id: str, message: str, reason: str = "exception") -> None:
        super().__init__(f"job {job_id} failed ({reason}): {message}")
        self.job_id, self.message, self.reason = job_id, message, reason


class ResultGone(JobError):  # noqa: N818 - a contract name
    """The job was removed and its completion is no longer in the event stream."""


class NoSuchJob(JobError):  # noqa: N818 - reads as what it is
    """The queue has no job of that id."""


class NoSuchParent(JobError):  # noqa: N818 - as above
    """The job that was named as parent does not exist. Nothing was added."""


class HasAnotherParent(JobError):  # noqa: N818 - as above
    """A job of that id is the child of another, living parent. Nothing was changed."""


class WrongState(JobError):  # noqa: N818 - as above
    """What was asked cannot be done to a job in its present state. Nothing was changed.

    state: BullMQ's word for where it is, "locked" while a worker has it, "scheduled" for a scheduler's next job.
    """

    def __init__(self, job_id: str, state: str, message: str) -> None:
        super().__init__(message)
        self.job_id, self.state = job_id, state


class Unreadable(JobError):  # noqa: N818 - reads as what it is
    """A field of a stored job cannot be read: whoever added the job must act. Never retried.

    field: its name on the wire, such as `opts.attempts`. why: one line.
    """

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field} cannot be read: {why}")
        self.field, self.why = field, why


class NotInJobProcess(HeavyqError):  # noqa: N818 - a contract name
    """The job API was used in a process that the job forked, or by a thread after the job was over.

    Send the value back to the job's own process; wait for the thread.
    """


class ProtocolError(HeavyqError):
    """A part of heavyq broke its own rules: a bug. The worker ends rather than go on."""
