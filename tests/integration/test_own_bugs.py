"""A bug of heavyq's own ends the worker, but costs no job: what ran is killed and handed back at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.eventually import eventually
from tests.support.jobs import Jobs

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from heavyq.bullmq.keys import QueueKey
    from heavyq.store.client import Client
    from tests.support.worker import Worker

APP = """
    import time
    from pathlib import Path
    from heavyq import HEAVY, Queue

    q = Queue("q", profile=HEAVY)

    @q.processor
    def run(job):
        Path("ran.txt").write_text(job.id)
        time.sleep(60)
"""

# Breaks the loop of the supervisor once the job runs. There is no switch for it in the product.
BUG = """
import pathlib
from heavyq.worker import control, {module}

def broken(self, *args):
    if pathlib.Path("ran.txt").exists():
        raise KeyError("a bug of our own")
    return whole(self, *args)

whole = {target}
{target} = broken
"""


def broken_worker(run_worker: Callable[..., Worker], folder: Path, module: str, target: str) -> Worker:
    (folder / "sitecustomize.py").write_text(BUG.format(module=module, target=target))
    repository = Path(__file__).resolve().parents[2]
    return run_worker(APP, "-c", "1", env={"PYTHONPATH": f"{folder}:{repository}"})


def handed_back(worker: Worker, client: Client, raw: redis.Redis, q: QueueKey, job_id: str) -> None:
    jobs = Jobs(client, raw, q)
    assert worker.wait(20) == 1
    eventually(lambda: raw.lrange(q.key("wait"), 0, -1) == [job_id.encode()], 2, "it is back in wait")
    assert raw.exists(q.key(f"{job_id}:lock")) == 0
    assert jobs.read(job_id).attempts_made == 0


def test_a_bug_in_the_loop_hands_back_what_ran(
    run_worker: Callable[..., Worker], client: Client, raw: redis.Redis, q: QueueKey, tmp_path: Path
) -> None:
    job_id = Jobs(client, raw, q).add("run")
    worker = broken_worker(run_worker, tmp_path, "control", "control.Control.tick")
    handed_back(worker, client, raw, q, job_id)


def test_a_dead_renewal_thread_hands_back_what_ran(
    run_worker: Callable[..., Worker], client: Client, raw: redis.Redis, q: QueueKey, tmp_path: Path
) -> None:
    job_id = Jobs(client, raw, q).add("run")
    worker = broken_worker(run_worker, tmp_path, "renewal", "renewal.Vouched.due")
    handed_back(worker, client, raw, q, job_id)
    assert "renewal thread died" in worker.log


FORGER = """
    import gc, time
    from heavyq import Queue
    from heavyq.job import channel, wire

    q = Queue("q", remove_on_fail=False, attempts=1)

    def forge(job, kind, head):
        (ours,) = [c for c in gc.get_objects() if isinstance(c, channel.Channel)]
        ours.send(kind, head, b"1")
        time.sleep(30)

    USAGE = {"peak_rss_bytes": 1, "cpu_s": 0.1, "wall_s": 0.1}
    HEADS = [
        (wire.RESULT, {"usage": USAGE, "cpu_total_s": "x"}),
        (wire.RESULT, {"usage": {**USAGE, "cpu_s": []}, "cpu_total_s": 1}),
        (wire.RESULT, {}),
        (wire.FAILURE, {"usage": USAGE, "cpu_total_s": 1, "reason": "exception", "detail": {}}),
        (wire.FAILURE, {"usage": USAGE, "cpu_total_s": 1, "reason": "?", "detail": ""}),
        (b"?", {}),
    ]

    @q.processor("forge")
    def forged(job):
        kind, head = HEADS[job.data["n"]]
        run = int(str(job._send.__self__._run))
        forge(job, kind, {"run": run, "clean": True, **head})

    @q.processor("quick")
    def quick(job):
        return "done"
"""


def test_a_report_that_user_code_has_forged_costs_that_job_alone(
    run_worker: Callable[..., Worker], client: Client, raw: redis.Redis, q: QueueKey
) -> None:
    jobs = Jobs(client, raw, q)
    worker = run_worker(FORGER, "-c", "1")
    for n in range(6):
        forged, quick = jobs.add("forge", {"n": n}), jobs.add("quick")
        assert jobs.wait(forged, "failed").failure["reason"] == "exit"
        assert jobs.result(quick) == "done"
    assert worker.running
