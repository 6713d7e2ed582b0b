"""Memory in a child: RLIMIT_DATA around a job, its evidence, and what is given back after it. Real allocations."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from heavyq.job import wire
from tests.support.nest import Nest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from heavyq.linux.frames import Frame
    from tests.support.nest import Bird

pytestmark = pytest.mark.timeout(90)

MIB = 2**20
LIMIT = 256 * MIB

APP = """
    import ctypes
    import json
    import mmap
    import random
    import resource
    import subprocess
    import sys
    import threading
    from pathlib import Path

    import numpy as np

    from heavyq import Queue

    MIB = 2**20
    q = Queue("q")
    kept = []


    @q.processor("bytes")
    def some_bytes(job):
        pieces = []
        while True:
            pieces.append(bytes(job.data["each"]))


    @q.processor("ints")
    def ints(job):
        numbers = []
        while True:
            numbers.append(len(numbers) * 1000)


    @q.processor("dict")
    def grow_dict(job):
        numbers = {}
        while True:
            numbers[len(numbers)] = None


    @q.processor("json")
    def parse(job):
        return len(json.loads("[" + ",".join('{"a": [1.5, 2.5]}' for _ in range(2_000_000)) + "]"))


    @q.processor("concat")
    def concat(job):
        text = b"x" * MIB
        while True:
            text += text


    @q.processor("numpy")
    def arrays(job):
        pieces = []
        while True:
            pieces.append(np.ones(job.data["each"] // 8))


    @q.processor("empty")
    def reserved(job):
        pieces = []
        while True:
            pieces.append(np.empty(10 * MIB // 8))


    @q.processor("once")
    def at_once(job):
        return float(np.ones(job.data["bytes"] // 8).sum())


    @q.processor("threads")
    def threads(job):
        held = np.ones(180 * MIB // 8)
        go = threading.Event()
        try:
            for _ in range(100):
                threading.Thread(target=go.wait, daemon=True).start()
        finally:
            go.set()


    @q.processor("wrapped")
    def wrapped(job):
        try:
            arrays(job)
        except MemoryError as error:
            raise RuntimeError("the frame could not be decoded") from error


    @q.processor("caught")
    def caught(job):
        try:
            some_bytes(job)
        except MemoryError:
            return "made it smaller"


    @q.processor("holds-and-raises")
    def holds(job):
        held = np.ones(job.data["bytes"] // 8)
        raise ValueError(job.data.get("why", "the input is bad"))


    @q.processor("bytearray")
    def array_of_bytes(job):
        return len(bytearray(10**10))


    @q.processor("full-and-exits")
    def full_and_exits(job):
        why = "x" * (50 * MIB)
        held = [why]
        for each in (MIB, 4096, 64):
            try:
                while True:
                    held.append(bytes(each))
            except MemoryError:
                pass
        sys.exit(why)


    @q.processor("lowers-its-hard-limit")
    def lowers(job):
        # As a user that is not root may, whatever user this is.
        libc = ctypes.CDLL(None, use_errno=True)
        header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        assert libc.capget(header, sets) == 0
        sets[0] &= ~(1 << 24)  # CAP_SYS_RESOURCE, of the effective ones
        assert libc.capset(header, sets) == 0
        soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, soft))
        if job.data.get("raise"):
            raise ValueError("the input is bad")
        return "done"


    @q.processor("raises-memory-error")
    def by_hand(job):
        raise MemoryError("there is no room in the bag")


    @q.processor("memmap")
    def memmap(job):
        path = Path("big.bin")
        with path.open("wb") as f:
            f.truncate(400 * MIB)
        array = np.memmap(path, dtype=np.uint8, mode="r")
        total = int(array[::4096].sum())
        path.unlink()
        raise ValueError("the input is bad")


    @q.processor("shared")
    def shared(job):
        area = mmap.mmap(-1, 400 * MIB)
        for at in range(0, len(area), 4096):
            area[at] = 1
        raise ValueError("the input is bad")


    @q.processor("limits")
    def limits(job):
        told = [sys.executable, "-c", "import resource; print(*resource.getrlimit(resource.RLIMIT_DATA))"]
        inherited = subprocess.run(told, capture_output=True, text=True, check=True).stdout.split()
        return [list(resource.getrlimit(resource.RLIMIT_DATA)), [int(n) for n in inherited]]


    @q.processor("pieces")
    def pieces(job):
        made = [np.ones(random.randint(10, 4000)) for _ in range(20_000)]
        if job.data.get("cycle"):
            knot = [made]
            knot.append(knot)
        if job.data.get("keep"):
            kept.append(made[:10_000])
        return len(made)


    @q.processor("payload")
    def payload(job):
        return len(job.data["list"])


"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bird]:
    with Nest(tmp_path, APP, monkeypatch) as nest:
        yield nest.child().ready()


def reason(frame: Frame) -> str:
    assert frame.kind == wire.FAILURE, frame.body
    return str(frame.head["reason"])


@pytest.mark.parametrize(
    ("name", "data", "least"),
    [
        ("bytes", {"each": 1000}, 0.95),
        ("bytes", {"each": 100 * MIB}, 0.75),
        ("ints", {}, 0.95),
        ("dict", {}, 0.5),  # it asks for twice its size at once
        ("json", {}, 0.9),  # and has let go of all of it when the error comes out
        ("concat", {}, 0.5),
        ("numpy", {"each": MIB}, 0.95),
        ("numpy", {"each": 100 * MIB}, 0.75),
        ("empty", {}, 0.95),  # reserved, not touched: RLIMIT_DATA counts it all the same
        ("once", {"bytes": 10**10}, 0.0),  # the error says how much was asked for
        ("threads", {}, 0.75),  # RuntimeError: a stack is memory too
        ("wrapped", {"each": MIB}, 0.95),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_job_that_meets_its_limit_says_so_with_the_evidence(
    child: Bird, name: str, data: dict[str, int], least: float
) -> None:
    frame = child.do(name, data, memory_rlimit=LIMIT)
    assert reason(frame) == "memory_limit"
    evidence = frame.head["evidence"]
    assert evidence == {"peak_bytes": evidence["peak_bytes"], "limit_bytes": LIMIT, "limit_of": "rlimit"}
    assert LIMIT * least <= evidence["peak_bytes"] <= LIMIT * 1.01
    assert re.match(
        r"the kernel refused it memory \(memory_rlimit\): it held \d+ MiB, .* 256 MiB; it raised \w+Error",
        frame.head["detail"],
    )
    assert b"app.py" in frame.body
    assert b"heavyq/job" not in frame.body
    assert child.returned("once", {"bytes": 100 * MIB}, memory_rlimit=LIMIT) == 100 * MIB // 8  # it goes on


def test_a_jobs_own_error_is_no_death_by_memory_however_much_it_held(child: Bird) -> None:
    """It would lose its retries. PyAV says `Generic error in an external library`: how near it was stands beside it."""
    frame = child.do("holds-and-raises", {"bytes": 240 * MIB}, memory_rlimit=LIMIT)
    assert reason(frame) == "exception"
    assert frame.head["detail"] == "the input is bad (memory_rlimit: 256 MiB, 240 MiB held)"
    evidence = frame.head["evidence"]
    assert evidence == {"peak_bytes": evidence["peak_bytes"], "limit_bytes": LIMIT, "limit_of": "rlimit"}
    assert 240 * MIB <= evidence["peak_bytes"] <= LIMIT


def test_what_is_told_of_the_memory_stays_beside_a_long_error(child: Bird) -> None:
    frame = child.do("holds-and-raises", {"bytes": 240 * MIB, "why": "é" * 5000}, memory_rlimit=LIMIT)
    assert re.fullmatch("é{3900,} \\(memory_rlimit: 256 MiB, 240 MiB held\\)", frame.head["detail"])


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("raises-memory-error", r"there is no room in the bag \(memory_rlimit: 256 MiB, \d+ MiB held\)"),
        ("bytearray", r"MemoryError \(memory_rlimit: 256 MiB, \d+ MiB held\)"),  # its error names no size
    ],
)
def test_a_refusal_that_cannot_be_proved_stays_an_exception_that_says_where_to_look(
    child: Bird, name: str, detail: str
) -> None:
    frame = child.do(name, {}, memory_rlimit=LIMIT)
    assert reason(frame) == "exception"
    assert re.fullmatch(detail, frame.head["detail"])
    assert frame.head["evidence"] is None


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("holds-and-raises", {"bytes": 100 * MIB}),
        ("memmap", {}),  # 400 MiB resident, of a file
        ("shared", {}),  # and shared memory, which the limit does not count
    ],
)
def test_an_error_far_from_the_limit_stays_what_it_is(child: Bird, name: str, data: dict[str, int]) -> None:
    frame = child.do(name, data, memory_rlimit=LIMIT)
    assert reason(frame) == "exception"
    assert frame.head["evidence"] is None
    assert frame.head["detail"] == "the input is bad"


def test_without_a_limit_no_error_is_one_of_memory(child: Bird) -> None:
    assert reason(child.do("holds-and-raises", {"bytes": 250 * MIB})) == "exception"
    assert reason(child.do("once", {"bytes": 10**14})) == "exception"


def test_a_job_that_makes_do_with_less_has_not_failed(child: Bird) -> None:
    assert child.returned("caught", {"each": MIB}, memory_rlimit=LIMIT) == "made it smaller"


def test_payload_and_result_are_read_and_written_outside_the_limit(child: Bird) -> None:
    """pydantic's core aborts the process when it is refused memory; max_payload and max_result are their limits."""
    payload = {"list": [{"a": 1.5}] * 150_000}  # some 40 MiB when it is read
    assert child.returned("payload", payload, memory_rlimit=16 * MIB) == 150_000


def test_the_limit_holds_in_the_job_and_its_subprocesses_and_nowhere_else(child: Bird) -> None:
    unlimited = [-1, -1]
    assert child.returned("limits") == [unlimited, unlimited]
    (soft, hard), inherited = child.returned("limits", memory_rlimit=LIMIT)
    assert LIMIT < soft < LIMIT + 200 * MIB  # what it had, and its room
    assert hard == -1
    assert inherited == [soft, hard]
    reason(child.do("bytes", {"each": MIB}, memory_rlimit=LIMIT))
    assert child.returned("limits") == [unlimited, unlimited]


def test_a_job_that_exits_at_its_limit_is_told_as_that(child: Bird) -> None:
    """Its traceback must not be made under the limit: the child would die, and the job be told as its exit code."""
    frame = child.do("full-and-exits", memory_rlimit=LIMIT)
    assert reason(frame) == "exit"
    assert frame.head["detail"].startswith("the job ended with SystemExit: xxx")
    assert child.returned("limits") == [[-1, -1], [-1, -1]]


@pytest.mark.parametrize("data", [{}, {"raise": 1}], ids=["returns", "raises"])
def test_a_child_whose_limit_cannot_be_lifted_reports_its_job_and_takes_no_other(
    child: Bird, data: dict[str, int]
) -> None:
    """A job that is not root cannot undo a hard limit: the next job would run under what this one left."""
    frame = child.do("lowers-its-hard-limit", data, memory_rlimit=LIMIT)
    assert frame.kind == (wire.FAILURE if data else wire.RESULT)
    assert not frame.head["clean"]
    assert (frame.head["detail"] == "the input is bad") if data else (frame.body == b'"done"')
    frame = child.said()
    assert frame.kind == wire.READY
    assert frame.head["whole"] is False


# ---- given back


@pytest.mark.parametrize("data", [{}, {"cycle": 1}], ids=["freed", "in a cycle"])
def test_what_a_job_freed_is_not_taken_for_a_leak(child: Bird, data: dict[str, int]) -> None:
    """300 MiB of small arrays: malloc holds all of it, garbage in a cycle too. The report must come after the trim."""
    before = child.charge_bytes()
    for _ in range(3):
        assert child.do("pieces", data).kind == wire.RESULT
        assert child.charge_bytes() - before < 32 * MIB


def test_what_a_job_kept_is_still_seen(child: Bird) -> None:
    before = child.charge_bytes()
    child.do("pieces", {"keep": 1})
    assert child.charge_bytes() - before > 100 * MIB
