"""What a lease is on the wire: the job that was taken, and the identity that proves it is still ours.

Owns the data that a lease script returns. Decides nothing about runs (see `core.run`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from heavyq.bullmq.keys import QueueKey


@dataclass(frozen=True, slots=True)
class Lease:
    """The identity of one lease: what every write of its holder carries, and what the "ours" test compares.

    token: our lock value, new for every lease. fence: `hq:fence`, grows for ever, below 2**53.
    started: `ats` as the lease left it. processed_on_ms: `processedOn` as the lease wrote it (epoch ms).
    """

    queue: QueueKey
    job_id: str
    token: str
    fence: int
    started: int
    processed_on_ms: int


@dataclass(frozen=True, slots=True)
class LeasedJob:
    """A job that was just taken: its lease, and its hash as raw bytes (never parsed by the supervisor)."""

    lease: Lease
    fields: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class NothingToLease:
    """No job now. next_due_ms: epoch ms at which the earliest delayed job is due, None if there is none."""

    next_due_ms: int | None


@dataclass(frozen=True, slots=True)
class LeaseRefused:
    """The queue may not be leased from: rate limited (wait_ms > 0), or paused or at its concurrency (0)."""

    wait_ms: int


LeaseReply = LeasedJob | NothingToLease | LeaseRefused
