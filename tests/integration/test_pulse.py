"""The guard's view of the supervisor's pulse is never half of an old one and half of a new one."""

from __future__ import annotations

import os
import signal

from heavyq.worker.guard import STARTING_LIMIT_S, Pulse


def test_guard_never_reads_a_pulse_that_is_being_written():
    """A limit that reads as 0 for an instant would have the guard kill a worker in good health."""
    pulse = Pulse()
    pulse.set_limit(8.0)
    supervisor = os.fork()
    if supervisor == 0:
        try:
            while True:
                pulse.beat()
                pulse.set_limit(8.0 if pulse.read()[0] % 2 else STARTING_LIMIT_S)
        finally:
            os._exit(1)
    try:
        last = 0
        for _ in range(300_000):
            count, limit_s = pulse.read()
            assert limit_s in {8.0, STARTING_LIMIT_S}
            assert count >= last
            last = count
        assert last > 0
    finally:
        os.kill(supervisor, signal.SIGKILL)
        os.waitpid(supervisor, 0)
