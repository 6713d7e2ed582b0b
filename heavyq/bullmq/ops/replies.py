"""What the scripts of an operator's verbs reply, as `common.read_settled` is for those of a lease's holder.

Owns the words for a job that is not where the verb needs it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from heavyq.bullmq.ops.common import to_text
from heavyq.errors import NoSuchJob, WrongState

if TYPE_CHECKING:
    from collections.abc import Callable


def read_done(job_id: str, refusal: str) -> Callable[[Any], None]:
    """Return a reader of 'done', 'gone', or the state that the job is in instead of the one it needs.

    refusal: what cannot be done to it, "promote" for example.
    """
    return partial(_read_done, job_id, refusal)


def _read_done(job_id: str, refusal: str, reply: Any) -> None:
    if reply == b"done":
        return
    if reply == b"gone":
        raise NoSuchJob(f"there is no job {job_id}")
    state = to_text(reply)
    raise WrongState(job_id, state, f"cannot {refusal} job {job_id}: it is {state}")


def read_count(reply: Any) -> int:
    """Read how many jobs the script did something to."""
    return int(reply)


def read_more(reply: Any) -> bool:
    """Read whether there is more to do: the script is to be called again."""
    return bool(reply == 1)
