"""What the zygote may carry into its children, and what it may not: proved with a real zygote and real libraries."""

from __future__ import annotations

import os
import re
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from heavyq.job import wire
from heavyq.linux.cgroup import cores
from tests.support import procs
from tests.support.eventually import eventually
from tests.support.group import memory_group
from tests.support.nest import Nest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.jobs import Jobs
    from tests.support.worker import Worker

pytestmark = pytest.mark.timeout(90)

QUEUE = """
    import os
    import time

    from heavyq import Queue, canary, child_start, preload

    q = Queue("q")


    @q.processor("pid")
    def pid(job):
        return os.getpid()


"""

THREAD_CAPS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

TELLS_ITS_CAPS = """
    @q.processor("caps")
    def caps(job):
        return {name: os.environ.get(name) for name in job.data["names"]}


"""

# The pool is of two threads whatever this machine's cores are: `threads` of the nest sets OMP_NUM_THREADS.
KMEANS = """
    import numpy as np
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits


    def fit():
        points = np.random.default_rng(0).random((4096, 4))
        with threadpool_limits(2, user_api="openmp"):
            return round(KMeans(3, n_init=1, random_state=0).fit(points).inertia_, 6)


    @q.processor("fit")
    def fit_it(job):
        return fit()


"""

BOOSTING = """
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits


    def fit():
        rows = np.random.default_rng(0).random((4096, 4))
        with threadpool_limits(2, user_api="openmp"):
            model = HistGradientBoostingRegressor(max_iter=3).fit(rows, rows.sum(axis=1))
        return round(float(model.predict(rows[:1])[0]), 6)


    @q.processor("fit")
    def fit_it(job):
        return fit()


"""

IN_PRELOAD = """
    warmed = []


    @preload
    def warm_up():
        warmed.append(fit())


    @q.processor("warmed")
    def tell(job):
        return warmed


"""

AT_IMPORT = """
    fit()
"""


LIBRARIES = [
    pytest.param(KMEANS, id="kmeans"),
    pytest.param(BOOSTING, id="boosting", marks=pytest.mark.long),  # the same pool of threads
]


@pytest.fixture
def nest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Nest]]:
    made: list[Nest] = []

    def make(text: str, **options: object) -> Nest:
        made.append(Nest(tmp_path, QUEUE + text, monkeypatch, **options))  # type: ignore[arg-type]
        return made[-1].__enter__()

    yield make
    for one in made:
        one.__exit__()


# ---- OpenMP


@pytest.mark.parametrize("library", LIBRARIES)
def test_two_threads_of_scikit_learn_in_a_preload_hook_hang_no_child(nest: Callable[..., Nest], library: str) -> None:
    home = nest(library + IN_PRELOAD)
    assert home.check() == (None, "")
    for _ in range(2):
        child = home.child().ready()
        assert child.returned("fit") == child.returned("warmed")[0]


@pytest.mark.long
@pytest.mark.parametrize("library", LIBRARIES)
def test_two_threads_of_scikit_learn_in_module_level_code_are_caught_and_named(
    nest: Callable[..., Nest], library: str
) -> None:
    home = nest(library + AT_IMPORT, canary_s=2.0)
    problem, stack = home.check()
    assert problem is not None
    assert problem.startswith("a forked child hangs in scikit-learn (two threads, over 2 s)")
    assert "@preload" in problem
    assert 'start_method="spawn"' in problem
    assert "_kmeans.py" in stack
    assert procs.children(home.zygote.pid) == []


@pytest.mark.long
def test_what_the_canary_catches_does_hang_a_child(nest: Callable[..., Nest]) -> None:
    """The other side: without the canary the first job of every child would stand still."""
    child = nest(KMEANS + AT_IMPORT).child().ready()
    with pytest.raises(AssertionError, match="after 2 s"):
        child.do("fit", timeout_s=2.0)
    os.kill(child.pid, signal.SIGKILL)


@pytest.mark.long
def test_a_spawned_child_computes_what_hangs_a_forked_one(nest: Callable[..., Nest]) -> None:
    child = nest(KMEANS + AT_IMPORT, bare=True).child().ready()
    assert child.returned("fit") > 0


def test_an_openmp_that_no_known_library_brought_is_named_by_its_file(nest: Callable[..., Nest]) -> None:
    sklearn = find_spec("sklearn")
    assert sklearn is not None
    assert sklearn.origin is not None
    file = next((Path(sklearn.origin).parents[1] / "scikit_learn.libs").glob("libgomp*"))
    home = nest(
        f"""
    import ctypes

    harmless = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p)
    ctypes.CDLL({str(file)!r}).GOMP_parallel(harmless, None, 2, 0)
    """,
        canary_s=1.0,
    )
    problem, _ = home.check()
    assert problem is not None
    assert problem.startswith(f"a forked child hangs in OpenMP ({file})")


def test_the_canary_imports_nothing_into_the_zygote(nest: Callable[..., Nest]) -> None:
    """Of a library that is half loaded, the throw-away child imports the rest."""
    home = nest("""
    import sys

    import sklearn


    @q.processor("loaded")
    def loaded(job):
        return "sklearn.cluster" in sys.modules


    """)
    assert home.check() == (None, "")
    assert home.child().ready().returned("loaded") is False


@pytest.mark.long
def test_an_import_that_hangs_the_canary_is_told_as_an_import_with_its_own_limit(nest: Callable[..., Nest]) -> None:
    """Not as a pool of threads: no trial had begun."""
    home = nest(
        """
    import sys
    import threading

    import sklearn


    class Hangs:
        def find_spec(self, name, path, target=None):
            if name == "sklearn.cluster":
                threading.Event().wait()


    sys.meta_path.insert(0, Hangs())
    """,
        canary_s=0.25,
    )
    problem, stack = home.check()
    assert problem is not None
    assert problem.startswith(
        "a forked child does not get through `import sklearn.cluster`, to try scikit-learn (over 1.5 s): "
    )
    assert "OpenMP" not in problem
    assert "in find_spec" in stack


# ---- the user's own canary


def test_a_canary_hook_runs_once_in_a_child_that_is_thrown_away(nest: Callable[..., Nest], tmp_path: Path) -> None:
    home = nest("""
    import atexit
    import subprocess

    atexit.register(lambda: open("atexit.txt", "a").write(f"{os.getpid()}\\n"))


    @canary
    def look():
        left = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        print("printed by the canary", flush=True)
        os.write(2, b"printed by the canary\\n")
        open("ran.txt", "a").write(f"{os.getpid()} {left.pid}\\n")


    """)
    assert home.check() == (None, "")
    (ran,) = (tmp_path / "ran.txt").read_text().splitlines()
    assert not any(procs.alive(int(pid)) for pid in ran.split())
    assert procs.children(home.zygote.pid) == []
    assert not (tmp_path / "atexit.txt").exists()
    assert home.lines == []
    assert home.child().ready().returned("pid") != int(ran.split()[0])


def test_a_canary_hook_that_hangs_is_named_with_its_stack_and_leaves_nothing(
    nest: Callable[..., Nest], tmp_path: Path
) -> None:
    home = nest(
        """
    import subprocess
    import threading


    def waits_for_nobody():
        threading.Event().wait()


    @canary
    def encode_one():
        left = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        open("left.txt", "w").write(str(left.pid))
        waits_for_nobody()


    """,
        canary_s=1.0,
    )
    problem, stack = home.check()
    assert problem is not None
    assert problem.startswith("a forked child hangs in @canary encode_one (over 1 s)")
    assert "in waits_for_nobody" in stack
    assert not procs.alive(int((tmp_path / "left.txt").read_text()))
    assert procs.children(home.zygote.pid) == []


@pytest.mark.parametrize(
    ("body", "said", "in_stack"),
    [
        (
            "raise ValueError('no such model')",
            r"@canary look raised ValueError: no such model \(.*app.py:\d+\)",
            "look",
        ),
        ("raise SystemExit(5)", r"@canary look raised SystemExit: 5", "look"),
        ("os._exit(7)", r"the child that was forked to try @canary look ended in it with exit code 7", ""),
        (
            "os.kill(os.getpid(), 9)",
            r"the child .* try @canary look was killed in it by signal 9 \(SIGKILL\): .*memory; the container may be",
            "",
        ),
        ("import ctypes; ctypes.string_at(0)", r".* @canary look was killed in it by signal 11 \(SIGSEGV\)", "in look"),
    ],
    ids=["raises", "sys.exit", "os._exit", "SIGKILL", "SIGSEGV"],
)
def test_a_canary_hook_that_fails_is_named(nest: Callable[..., Nest], body: str, said: str, in_stack: str) -> None:
    home = nest(f"""
    @canary
    def look():
        {body}


    """)
    problem, stack = home.check()
    assert problem is not None
    assert re.match(said, problem), problem
    assert in_stack in stack
    assert procs.children(home.zygote.pid) == []
    assert home.check()[0] == problem  # it may be asked again
    assert home.child().ready().returned("pid")  # whoever forks all the same gets a child


@pytest.mark.parametrize("bare", [False, True], ids=["fork", "spawn"])
def test_a_zygote_with_nothing_to_try_is_sound_and_sends_no_canary(nest: Callable[..., Nest], *, bare: bool) -> None:
    home = nest("", bare=bare)
    before = faults_of_the_reaped(home.zygote.pid)
    assert home.check() == (None, "")
    assert faults_of_the_reaped(home.zygote.pid) == before
    home.child().ready()
    assert faults_of_the_reaped(home.zygote.pid) > before  # a fork does show


def faults_of_the_reaped(pid: int) -> int:
    """Return how many page faults the children had that this process has waited for: no fork leaves it as it was."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[8])


@pytest.mark.parametrize(
    "spoiled",
    ["signal.signal(signal.SIGCHLD, signal.SIG_IGN)", "signal.signal(signal.SIGCHLD, lambda *_: os.waitpid(-1, 0))"],
    ids=["ignored", "reaped by a handler"],
)
def test_a_module_that_has_taken_sigchld_spoils_neither_canary_nor_forks(
    nest: Callable[..., Nest], spoiled: str
) -> None:
    home = nest(f"""
    import signal

    {spoiled}


    @canary
    def look():
        pass


    """)
    assert home.check() == (None, "")
    for _ in range(3):
        child = home.child().ready()
        assert child.returned("pid") == child.pid
    assert procs.alive(home.zygote.pid)


# ---- threads and memory


def test_threads_that_imports_left_are_told_with_the_verdict(nest: Callable[..., Nest]) -> None:
    home = nest("""
    import threading

    threading.Thread(target=threading.Event().wait, name="refreshes the cache", daemon=True).start()


    @preload
    def warm_up():
        threading.Thread(target=threading.Event().wait, name="from the preload", daemon=True).start()


    """)
    assert home.check() == (None, "")  # no reason not to start: they may do nothing that a job needs
    assert home.warning is not None
    assert "'refreshes the cache', 'from the preload'" in home.warning
    assert "@child_start" in home.warning
    assert "'preload'" not in home.warning  # heavyq's own, which has ended


def test_without_threads_there_is_nothing_to_warn_of(nest: Callable[..., Nest]) -> None:
    home = nest(IN_PRELOAD.replace("warmed.append(fit())", "pass"))
    assert home.check() == (None, "")
    assert home.warning is None


def test_what_imports_freed_goes_back_to_the_kernel_before_the_first_fork(nest: Callable[..., Nest]) -> None:
    """200 MiB of small pieces, freed but for one in a hundred: malloc would hold nearly all of it."""
    home = nest("""
    pieces = [bytes(4000) for _ in range(50_000)]
    kept = pieces[::100]
    del pieces
    """)
    assert charge_mib(home.zygote.pid) < 80


def charge_mib(pid: int) -> float:
    _, resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[:3]
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE") / 2**20


# ---- spawn


SPAWNED = """
    from pathlib import Path


    def note(what):
        with Path("order.txt").open("a") as f:
            f.write(f"{os.getpid()} {what}\\n")


    note("import")


    @preload
    def load():
        note("preload")


    @child_start
    def start():
        note("child_start")


    @q.processor("order")
    def order(job):
        return [os.getpid(), Path("order.txt").read_text().split()]


"""


def test_a_spawned_child_imports_and_runs_its_hooks_itself(nest: Callable[..., Nest], tmp_path: Path) -> None:
    home = nest(SPAWNED, bare=True)
    assert home.catalogue is None  # nobody has imported yet
    assert not (tmp_path / "order.txt").exists()
    child = home.child().ready()
    pid, words = child.returned("order")
    assert pid == child.pid
    assert words == [str(pid), "import", str(pid), "preload", str(pid), "child_start"]
    other = home.child().ready()
    _, words_of_both = other.returned("order")
    own = str(other.pid)
    assert words_of_both == [*words, own, "import", own, "preload", own, "child_start"]


def test_a_forked_child_runs_neither_imports_nor_preload_again(nest: Callable[..., Nest]) -> None:
    home = nest(SPAWNED)
    child = home.child().ready()
    _, words = child.returned("order")
    zygote = str(home.zygote.pid)
    assert words == [zygote, "import", zygote, "preload", str(child.pid), "child_start"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import no_such_module_at_all", "No module named 'no_such_module_at_all'"),
        ("raise SystemExit(4)", "SystemExit: 4"),
        (
            "@preload\n    def load():\n        raise OSError('no model there')",
            "@preload load raised OSError: no model",
        ),
    ],
    ids=["import", "exit", "preload"],
)
def test_a_spawned_child_that_cannot_import_says_why(nest: Callable[..., Nest], text: str, said: str) -> None:
    home = nest(
        f"""
    {text}
    """,
        bare=True,
    )
    assert home.broken is None
    child = home.child()
    frame = child.said()
    assert frame.kind == wire.NOT_READY
    assert said in frame.head["error"]
    assert "cannot import app" in frame.head["error"]
    assert b"app.py" in frame.body
    eventually(lambda: not procs.alive(child.pid))


# ---- the whole worker


@pytest.mark.long
def test_a_worker_whose_forks_hang_ends_with_3_and_says_why(run_worker: Callable[..., Worker]) -> None:
    worker = run_worker(QUEUE + KMEANS + AT_IMPORT, "-c", "1")
    assert worker.wait(60.0) == 3
    said = worker.log_path.read_text()
    assert "a forked child hangs in scikit-learn" in said
    assert "@preload" in said
    assert "_kmeans.py" in said  # the stack


@pytest.mark.long
def test_a_queue_that_spawns_serves_from_the_same_module(run_worker: Callable[..., Worker], jobs: Jobs) -> None:
    """Both ways to the same worker: hanging module-level code does not matter where no queue forks."""
    run_worker((QUEUE + KMEANS + AT_IMPORT).replace('Queue("q")', 'Queue("q", start_method="spawn")'), "-c", "1")
    assert jobs.result(jobs.add("fit"), 60.0) > 0


LOOKS = """
    import threading

    threading.Thread(target=threading.Event().wait, name="refreshes the cache", daemon=True).start()


    @canary
    def look():
        raise ValueError("no such model")


"""


def test_a_worker_whose_canary_fails_ends_with_3_and_says_why_and_what_else_is_wrong(
    run_worker: Callable[..., Worker],
) -> None:
    worker = run_worker(QUEUE + LOOKS, "-c", "1")
    assert worker.wait(60.0) == 3
    assert "@canary look raised ValueError: no such model" in worker.log
    assert "in look" in worker.log  # the stack
    (line,) = [line for line in worker.log.splitlines() if "'refreshes the cache'" in line]
    assert "warning" in line


@pytest.mark.parametrize("children", [1, 2])
def test_the_threads_of_all_children_together_are_as_many_as_the_cores(
    run_worker: Callable[..., Worker], jobs: Jobs, monkeypatch: pytest.MonkeyPatch, children: int
) -> None:
    for name in THREAD_CAPS:
        monkeypatch.delenv(name, raising=False)
    run_worker(QUEUE + TELLS_ITS_CAPS, "-c", str(children))
    caps = jobs.result(jobs.add("caps", {"names": THREAD_CAPS}), 60.0)
    assert caps == dict.fromkeys(THREAD_CAPS, str(max(1, cores() // children)))


# ---- birth


def test_a_child_that_has_no_kernel_group_says_so_and_goes_on(nest: Callable[..., Nest], tmp_path: Path) -> None:
    home = nest("")
    child = home.child(group=str(tmp_path / "no-such-group")).ready()
    assert child.returned("pid") == child.pid
    (line,) = home.until(lambda: child.lines)
    assert line.startswith("heavyq: this child runs without a memory group of its own: ")
    assert "no-such-group" in line


def test_a_child_enters_its_group_after_its_hooks_and_before_its_jobs(nest: Callable[..., Nest]) -> None:
    """What @child_start loads is its own, but no job's: in the group it would count against the first job's limit."""
    with memory_group(512 * 2**20) as group:
        home = nest("""
    loaded = []


    @child_start
    def load():
        loaded.append(b"x" * (100 << 20))


        """)
        child = home.child(group=str(group.path)).ready()
        assert str(child.pid) in (group.path / "cgroup.procs").read_text().split()
        assert group.peak_bytes() < 50 * 2**20
        child.close()


def test_a_canary_that_hangs_dies_with_its_zygote(nest: Callable[..., Nest], tmp_path: Path) -> None:
    home = nest("""
    @canary
    def look():
        open("canary.txt", "w").write(str(os.getpid()))
        time.sleep(1000)


    """)
    home.zygote.check()
    canary = int(eventually(lambda: (tmp_path / "canary.txt").exists() and (tmp_path / "canary.txt").read_text()))
    assert procs.alive(canary)
    os.kill(home.zygote.pid, signal.SIGKILL)
    eventually(lambda: not procs.alive(canary), 2.0)
