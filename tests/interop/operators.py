"""What an operator does to a pair of twin queues: by BullMQ to one, by heavyq's operations to the other.

Every step compares the two, as those of `Twins` do. `but` names a key that differs on purpose.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from heavyq.bullmq import ops
from heavyq.errors import JobError
from tests.interop.node import NodeError

if TYPE_CHECKING:
    from heavyq.bullmq.op import Op
    from tests.interop.twins import Twins


class Operator:
    """Acts on both of the twins' queues."""

    def __init__(self, twins: Twins) -> None:
        self.twins = twins
        self.q = twins.ours.q

    def pause(self) -> None:
        self._step("pause", ops.pause(self.q))

    def resume(self, *, but: str = "") -> None:
        self._step("resume", ops.resume(self.q), but=but)

    def remove(self, job_id: str, *, children: bool = True, but: str = "") -> Any:
        op = ops.remove(self.q, job_id, children=children, now_ms=self._now)
        return self._step("removeJob", op, id=job_id, children=children, but=but, answers={True: 1, False: 0})

    def remove_pending(self, job_id: str) -> None:
        op = ops.remove_pending_children(self.q, job_id, self._now)
        self._step("removePending", op, id=job_id)

    def reprocess(self, job_id: str, state: Literal["failed", "completed"], *, reset: bool = False) -> None:
        opts = {"resetAttemptsMade": True, "resetAttemptsStarted": True} if reset else {}
        op = ops.reprocess(self.q, job_id, state=state, reset_attempts=reset)
        self._step("reprocess", op, id=job_id, state=state, opts=opts)

    def promote(self, job_id: str) -> None:
        self._step("promote", ops.promote(self.q, job_id), id=job_id)

    def change_delay(self, job_id: str, ms: int) -> None:
        self._step("changeDelay", ops.change_delay(self.q, job_id, delay_ms=ms, now_ms=self._now), id=job_id, ms=ms)

    def change_priority(self, job_id: str, priority: int, *, lifo: bool = False, but: str = "") -> None:
        op = ops.change_priority(self.q, job_id, priority=priority, lifo=lifo)
        self._step("changePriority", op, id=job_id, opts={"priority": priority, "lifo": lifo}, but=but)

    def update_data(self, job_id: str, data: Any) -> None:
        self._step("updateData", ops.update_data(self.q, job_id, json.dumps(data).encode()), id=job_id, data=data)

    def add_log(self, job_id: str, row: str, *, keep: int | None = None) -> None:
        op = ops.add_log(self.q, job_id, row, keep=keep)
        self._step("addLog", op, id=job_id, row=row, keep=keep, reply=True)

    def clear_logs(self, job_id: str, *, keep: int | None = None) -> None:
        self._step("clearLogs", ops.clear_logs(self.q, job_id, keep=keep), id=job_id, keep=keep)

    def drain(self, *, delayed: bool = False, but: str = "") -> None:
        self._step("drain", ops.drain(self.q, delayed=delayed, now_ms=self._now), delayed=delayed, but=but)

    def clean(self, state: str, *, grace_ms: int = 0, limit: int = 0, named: str = "", but: str = "") -> list[str]:
        """Clean both. named: BullMQ's name for the state, where it has another."""
        named = named or {"waiting": "wait"}.get(state, state)
        op = ops.clean(self.q, state=state, grace_ms=grace_ms, limit=limit, now_ms=self._now)
        theirs = self.twins.bull("clean", grace=grace_ms, limit=limit, state=named)
        ours = list(self.twins.ours.run(op))
        self.twins.compare(f"clean {state} {grace_ms} {limit}", ours, theirs, but=but)
        return ours

    def obliterate(self, *, force: bool = False, but: str = "") -> None:
        self._step("obliterateQueue", ops.obliterate(self.q, force=force), force=force, but=but)

    def retry_jobs(self, state: Literal["failed", "completed"] = "failed", *, count: int = 1000, **more: int) -> None:
        opts: dict[str, Any] = {"state": state, "count": count}
        if "until_ms" in more:
            opts["timestamp"] = more["until_ms"]
        self.twins.bull("retryJobs", opts=opts)
        while self.twins.ours.run(ops.retry_jobs(self.q, state=state, count=count, **more)):
            pass
        self.twins.compare(f"retry jobs {opts}")

    def promote_jobs(self, *, count: int = 1000) -> None:
        self.twins.bull("promoteJobs", opts={"count": count})
        while self.twins.ours.run(ops.promote_jobs(self.q, count=count)):
            pass
        self.twins.compare("promote jobs")

    def set_concurrency(self, limit: int | None) -> None:
        do = ("setConcurrency", {"limit": limit}) if limit else ("removeConcurrency", {})
        self._step(do[0], ops.set_concurrency(self.q, limit), **do[1])

    def set_rate_limit(self, most: int | None, ms: int = 0) -> None:
        do = ("setRateLimit", {"max": most, "ms": ms}) if most else ("removeRateLimit", {})
        self._step(do[0], ops.set_rate_limit(self.q, most, ms), **do[1])

    def rate_limit(self, ms: int) -> None:
        self._step("rateLimit", ops.rate_limit(self.q, ms), ms=ms)

    def end_rate_limit(self) -> None:
        self._step("endRateLimit", ops.end_rate_limit(self.q))

    @property
    def _now(self) -> int:
        return self.twins.ours.now

    def _step(
        self,
        do: str,
        op: Op[Any],
        *,
        but: str = "",
        reply: bool = False,
        answers: dict[Any, Any] | None = None,
        **arguments: Any,
    ) -> Any:
        """Do it on both sides; a refusal must be one on both."""
        try:
            theirs, their_refusal = self.twins.bull(do, **arguments), ""
        except NodeError as error:
            theirs, their_refusal = None, str(error).splitlines()[0]
        told, our_refusal = None, None
        try:
            told = self.twins.ours.run(op)
        except JobError as error:
            our_refusal = error
        if our_refusal or their_refusal:
            self.twins.compare(f"{do} {arguments}, refused: {our_refusal} / {their_refusal}", but=but)
            assert our_refusal, f"only BullMQ refuses to {do}: {their_refusal}"
            assert their_refusal, f"only heavyq refuses to {do}: {our_refusal}"
            raise our_refusal
        ours = answers[told] if answers else told
        compared = (ours, theirs) if reply or answers else ()
        self.twins.compare(f"{do} {arguments}", *compared, but=but)
        return told
