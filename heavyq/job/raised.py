"""What a processor raises to say how its run should end: the names are a contract with user code.

Owns these exceptions and how they are found in what a job raised. Runs nothing, decides nothing about retries.
"""

from __future__ import annotations

from heavyq.config.units import Duration, format_duration, parse_duration


class Unrecoverable(Exception):  # noqa: N818 - these names are a contract, and most are no errors
    """Fail the job for good: no retry will mend it."""


class Snooze(Exception):  # noqa: N818 - as above
    """Put the job back to `delayed`; it runs again from its start, and no attempt is burnt.

    delay: how long, at least. Raises BadValue for what is no duration.
    """

    def __init__(self, delay: Duration) -> None:
        super().__init__(delay)
        self.delay_ms = _milliseconds(delay)


class RateLimited(Exception):  # noqa: N818 - as above
    """Put the job back to the head of the queue, and let no job of the queue begin for this long.

    For the answer "too many requests" of what the jobs call. No attempt is burnt. delay: how long, at least 1 ms.
    Raises BadValue for what is no duration.
    """

    def __init__(self, delay: Duration) -> None:
        super().__init__(delay)
        self.delay_ms = max(1, _milliseconds(delay))


class WaitForChildren(Exception):  # noqa: N818 - as above
    """Wait for the children that the job has added; when they are done it runs again from its start.

    No attempt is burnt. If none is pending, it runs again at once: look at `job.children_values()` first.
    """


class RetryAfter(Exception):  # noqa: N818 - as above
    """Fail this attempt, and run the next one this much later, whatever the job's backoff says.

    delay: how long. message: why the attempt failed. After the last attempt it is a plain failure.
    Raises BadValue for what is no duration.
    """

    def __init__(self, delay: Duration, message: str = "") -> None:
        self.delay_ms = _milliseconds(delay)
        super().__init__(message or f"retry after {format_duration(self.delay_ms / 1000)}")


Raised = Unrecoverable | Snooze | RateLimited | WaitForChildren | RetryAfter


def said_by(error: BaseException) -> Raised | None:
    """Return what a job's exception says about its run, None for an ordinary one.

    A TaskGroup wraps what a task raised: a group of one counts as what it holds.
    """
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, Raised) else None


def _milliseconds(delay: Duration) -> int:
    return round(parse_duration(delay, bare_ok=True) * 1000)
