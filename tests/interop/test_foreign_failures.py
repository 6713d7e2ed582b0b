"""What BullMQ's workers leave when a job fails in an unusual way, as heavyq reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from heavyq.bullmq import ops

if TYPE_CHECKING:
    from tests.interop.node import NodeQueue
    from tests.support.ops import Rig


@pytest.mark.parametrize("thrown", ["just text", {"code": 7}, 7])
def test_a_job_that_threw_no_error_is_read(bull: NodeQueue, ours: Rig, thrown: Any) -> None:
    # conformance: C-075
    job_id = bull.add({"x": 1})
    bull("fetch", token="t")
    bull("failWith", id=job_id, token="t", thrown=thrown)
    job = ours.run(ops.find(ours.q, job_id))
    assert job is not None
    assert (job.state, job.failed_reason, job.failure) == ("failed", "null", None)
    assert job.attempts_made == 1
    assert all(isinstance(trace, str) for trace in job.stacktrace)
