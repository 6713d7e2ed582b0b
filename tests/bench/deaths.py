"""From the death of a child by SIGKILL to the first line of the next job, which waits meanwhile.

In between: the death is noticed, the child is reaped and its channel drained, the job is failed and the next one
leased in one round trip, a child is forked and made ready.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.app import DEATHS
from tests.bench.figures import spread
from tests.support.jobs import lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.figures import Numbers
    from tests.bench.rig import Rig


def measure(rig: Rig, module: str, deaths: int) -> Callable[[], Numbers]:
    """Return the measurement of one round, with what this module imports in the zygote."""

    def one_round() -> Numbers:
        with rig.idle_worker(module, "-c", "1") as (place, _):
            job_ids = place.jobs.add_all([("die", None), ("first-line", None)] * deaths)
            place.jobs.wait(job_ids[-1], timeout_s=60)
            ran_ns = place.returned(job_ids[1::2])
            died_ns = map(int, lines(place.folder / DEATHS))
            return spread([(ran - died) / 1e6 for ran, died in zip(ran_ns, died_ns, strict=True)], "ms")

    return one_round
