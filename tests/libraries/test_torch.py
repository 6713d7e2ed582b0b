"""Real torch in zygote and child: what hangs a fork is caught and named, and what is said to help does."""

from __future__ import annotations

import os
import signal
import textwrap
from typing import TYPE_CHECKING

import pytest

from heavyq.job import wire
from tests.support import procs

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.jobs import Jobs
    from tests.support.nest import Nest
    from tests.support.worker import Worker

pytestmark = pytest.mark.timeout(120)

MIB = 2**20

TORCH = """
    import os
    import sys

    import torch

    from heavyq import Queue, child_start, preload

    q = Queue("q", **OPTIONS)


    def two_threads():
        torch.set_num_threads(2)
        model = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 1))
        loss = model(torch.ones(512, 512)).sum()
        loss.backward()
        return float((torch.ones(512, 512) @ torch.ones(512, 512)).sum())


    @q.processor("train")
    def train(job):
        return two_threads()


    @q.processor("hoard")
    def hoard(job):
        kept = []
        while True:
            kept.append(torch.ones(job.data["each"] // 4))


    @q.processor("pid")
    def pid(job):
        return os.getpid()


"""
AT_IMPORT = """
    two_threads()
"""
IN_PRELOAD = """
    @preload
    def warm_up():
        two_threads()


"""
SUM = 512.0**3


def module(*parts: str, **options: object) -> str:
    return f"OPTIONS = {options!r}\n" + "".join(map(textwrap.dedent, (TORCH, *parts)))


def test_two_threads_of_torch_in_a_preload_hook_hang_no_child(nest: Callable[..., Nest]) -> None:
    home = nest(module(IN_PRELOAD))
    assert home.check() == (None, "")
    for _ in range(2):
        assert home.child().ready().returned("train") == SUM


def test_two_threads_of_torch_in_module_level_code_are_caught_and_named(nest: Callable[..., Nest]) -> None:
    home = nest(module(AT_IMPORT), canary_s=2.0)
    problem, stack = home.check()
    assert problem is not None
    assert problem.startswith("a forked child hangs in torch (two threads, over 2 s)")
    assert "@preload" in problem
    assert 'start_method="spawn"' in problem
    assert "trials.py" in stack
    assert procs.children(home.zygote.pid) == []


def test_what_the_canary_catches_does_hang_a_child(nest: Callable[..., Nest]) -> None:
    child = nest(module(AT_IMPORT)).child().ready()
    with pytest.raises(AssertionError, match="after 5 s"):
        child.do("train", timeout_s=5.0)
    os.kill(child.pid, signal.SIGKILL)


def test_a_spawned_child_computes_what_hangs_a_forked_one(nest: Callable[..., Nest]) -> None:
    home = nest(module(AT_IMPORT), bare=True)
    child = home.child().ready()
    assert child.returned("train") == SUM
    assert child.returned("pid") == child.pid


def test_an_initialised_cuda_refuses_to_fork(nest: Callable[..., Nest]) -> None:
    """No GPU here: torch's own mark of an initialised CUDA is set, as its lazy initialisation does."""
    home = nest(module("torch.cuda._initialized = True\n"))
    problem, _ = home.check(timeout_s=2.0)
    assert problem is not None
    assert problem.startswith("CUDA is initialised")
    assert 'start_method="spawn"' in problem


def test_torch_that_is_refused_memory_by_the_rlimit_fails_by_memory_limit(nest: Callable[..., Nest]) -> None:
    child = nest(module()).child().ready()
    for each, least in ((MIB, 0.95), (100 * MIB, 0.75), (2**34, 0.0)):
        frame = child.do("hoard", {"each": each}, memory_rlimit=256 * MIB)
        assert frame.kind == wire.FAILURE
        assert frame.head["reason"] == "memory_limit", frame.head
        assert frame.head["evidence"]["limit_of"] == "rlimit"
        assert frame.head["evidence"]["peak_bytes"] >= 256 * MIB * least
        assert "RuntimeError" in frame.head["detail"]
    assert child.returned("train", memory_rlimit=256 * MIB) == SUM


# ---- the whole worker


def test_a_worker_whose_forks_hang_ends_with_3_and_says_why(run_worker: Callable[..., Worker]) -> None:
    worker = run_worker(module(AT_IMPORT), "-c", "1")
    assert worker.wait(60.0) == 3
    said = worker.log_path.read_text()
    assert "a forked child hangs in torch" in said
    assert "@preload" in said
    assert "trials.py" in said  # the stack


def test_the_same_module_serves_when_its_queue_spawns(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    run_worker(module(AT_IMPORT, start_method="spawn"), "-c", "1")
    assert jobs.result(jobs.add("train"), 60.0) == SUM


def test_a_worker_whose_preload_hook_computed_with_two_threads_serves(
    run_worker: Callable[..., Worker], jobs: Jobs
) -> None:
    run_worker(module(IN_PRELOAD), "-c", "1")
    assert jobs.result(jobs.add("train"), 60.0) == SUM
