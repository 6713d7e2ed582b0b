"""`heavyq demo`: real jobs, two children, one of which is killed in the middle of its work.

Owns the order of events and the exit code. Uses heavyq as any program does: by its public names and its commands.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from heavyq.demo.queues import Clip, Search, searches, videos
from heavyq.demo.screen import Screen
from heavyq.demo.stage import CHILDREN, Worker
from heavyq.demo.story import Watched

EXTRA = {"av": "PyAV", "sklearn": "scikit-learn", "skvideo": "scikit-video"}
HEIGHTS = [360, 480, 720]
LOOK_EVERY_S = 0.2
LIMIT_S = 600.0
# The child is killed when its job has a good part in its checkpoint, and has done something more since.
KILL_SAFE_PERCENT = 40.0
KILL_LOST_PERCENT = 8.0


def main(
    *, redis: str | None = None, prefix: str | None = None, out: str | Path | None = None, as_json: bool = False
) -> int:
    """Run the demo and return its exit code: 0 if every job completed and the killed one did so by its checkpoint.

    redis: a URL; None for what the environment names, else the embedded server. prefix: of the key names. out: a
    folder to keep results in; None for a temporary one. as_json: print one document on stdout, all else on stderr.
    Raises HeavyqError, such as for a Redis that does not answer; KeyboardInterrupt after it has cleaned up.
    """
    lacking = [name for module, name in EXTRA.items() if importlib.util.find_spec(module) is None]
    if lacking:
        sys.stderr.write(f"heavyq: the demo needs {', '.join(lacking)} (pip install 'heavyq[demo]')\n")
        return 3
    where = _where(redis, prefix)
    for name, value in (("HEAVYQ_REDIS", redis), ("HEAVYQ_PREFIX", prefix)):
        if value:
            os.environ[name] = value  # for our queues, and for the worker
    screen = Screen(sys.stderr if as_json else sys.stdout)
    with _interrupted_by_signals(), _results_folder(out) as folder:
        jobs = _add_jobs(folder)
        trouble = _perform(screen, jobs, folder)
        screen.table(jobs)
        if as_json:
            document = {"ok": trouble is None, "trouble": trouble, "jobs": [job.summary() for job in jobs]}
            sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")
        if trouble is not None:
            screen.say(f"The demo went wrong: {trouble}", "bold red")
            return 1
        _say_what_next(screen, jobs[0], where, out)
    return 0


# ---- the performance --------------------------------------------------------------------------------------


def _add_jobs(folder: Path) -> list[Watched]:
    """Add the jobs. The first is the one whose child is killed."""
    out = str(folder)
    return [
        Watched("film h264", videos.name, videos.add("transcode", Clip(codec="h264", heights=HEIGHTS, out=out))),
        Watched("digits rbf", searches.name, searches.add("search", Search(kernel="rbf", out=out))),
        Watched("film vp9", videos.name, videos.add("transcode", Clip(codec="vp9", heights=HEIGHTS, out=out))),
        Watched("digits poly", searches.name, searches.add("search", Search(kernel="poly", out=out))),
    ]


def _perform(screen: Screen, jobs: Sequence[Watched], folder: Path) -> str | None:
    """Run a worker until the jobs have ended; return what went wrong, if something did."""
    screen.say(
        "Two films are transcoded with PyAV, two classifiers of handwritten digits are tuned with scikit-learn.\n"
        f"One worker does it: heavyq run heavyq.demo.processors --concurrency {CHILDREN}",
        "bold",
    )
    worker = Worker(folder / "worker.log", [videos.name, searches.name])
    try:
        with screen:
            trouble = _watch(screen, jobs, worker) or _judge(jobs[0], jobs)
    except KeyboardInterrupt:
        screen.say("Interrupted: the worker is told to end, and hands back what it runs.", "yellow")
        raise
    except Exception:
        _show_log(screen, worker)
        raise
    finally:
        worker.stop()
    if trouble is not None:
        _show_log(screen, worker)
    return trouble


def _show_log(screen: Screen, worker: Worker) -> None:
    screen.say(f"The end of the worker's log:\n{worker.tail()}\n", "dim")


def _watch(screen: Screen, jobs: Sequence[Watched], worker: Worker) -> str | None:
    """Look until every job has ended, and kill one child on the way; return what went wrong, if something did."""
    victim = jobs[0]
    killed = False
    deadline_s = time.monotonic() + LIMIT_S
    while True:
        children = worker.children()
        for job in jobs:
            for line in job.look(children):
                screen.tell(line, "yellow" if "failed" in line else "")
        screen.show(jobs)
        if all(job.ended for job in jobs):
            return None if killed else "no child could be killed"
        if worker.ended is not None:
            return f"the worker has ended with exit code {worker.ended}"
        if time.monotonic() > deadline_s:
            return f"it took more than {LIMIT_S:.0f} s"
        if not killed and _deserves_it(victim):
            killed = _kill(screen, victim)
        time.sleep(LOOK_EVERY_S)


def _deserves_it(victim: Watched) -> bool:
    """Tell whether its death would lose a little and not much."""
    return (
        victim.state == "active"
        and victim.safe >= KILL_SAFE_PERCENT
        and victim.percent >= victim.safe + KILL_LOST_PERCENT
    )


def _kill(screen: Screen, victim: Watched) -> bool:
    """SIGKILL the child that has the job; return whether that was done."""
    if victim.child is None:
        return False
    try:
        victim.child.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return False
    screen.tell(f"{victim.title}: now we kill its child {victim.child.pid} with SIGKILL, in {victim.doing}", "bold red")
    return True


def _judge(victim: Watched, jobs: Sequence[Watched]) -> str | None:
    """Return what is not as it should be, None if all is."""
    bad = [f"{job.title} is {job.state}" for job in jobs if job.state != "completed"]
    if bad:
        return ", ".join(bad)
    if victim.attempts != 2:  # noqa: PLR2004 - the killed one and the one after it
        return f"the killed job shows {victim.attempts} attempts and not 2"
    if victim.result is None or not victim.result.resumed_at:
        return "the killed job did not resume from its checkpoint"
    return None


# ---- around it --------------------------------------------------------------------------------------------


@contextmanager
def _results_folder(out: str | Path | None) -> Iterator[Path]:
    """Give an absolute folder for what the jobs make; one that nobody asked to keep is removed."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="heavyq-demo-") as temporary:
            yield Path(temporary)
        return
    folder = Path(out).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Let TERM and HUP end the demo as Ctrl-C does: with everything cleaned up."""
    with ExitStack() as after:
        for signum in (signal.SIGTERM, signal.SIGHUP):
            before: Any = signal.getsignal(signum)
            if before != signal.SIG_IGN:  # nohup
                signal.signal(signum, signal.default_int_handler)
                after.callback(signal.signal, signum, before)
        yield


def _say_what_next(screen: Screen, victim: Watched, where: str, out: str | Path | None) -> None:
    program, job = _program(), f"{victim.queue} {victim.handle.id}"
    hints = [
        (f"{program} job {job}{where}", "what Redis knows of the killed job"),
        (f"{program} logs {job}{where}", "what it wrote"),
        (f"{program} queues{where}", "the counts of every queue"),
        (f"{program} demo{where} --out films", "again, and keep the films and models")
        if out is None
        else (f"ls {out}", "the films and models"),
    ]
    width = max(len(command) for command, _ in hints)
    screen.say("\nWhat to type next:", "bold")
    for command, why in hints:
        screen.say(f"  {command:<{width}}  # {why}")
    screen.say(
        "\nThe jobs' code is heavyq/demo/processors.py. Film: Big Buck Bunny, Blender Foundation, CC-BY 3.0.", "dim"
    )


def _where(redis: str | None, prefix: str | None) -> str:
    """Return the flags by which a command finds what the demo left; none for what the environment names."""
    flags = ""
    if redis and redis not in (os.environ.get("HEAVYQ_REDIS"), os.environ.get("REDIS_URL")):
        flags += " --redis " + re.sub("//[^/@]*@", "//...@", redis)
    if prefix and prefix != os.environ.get("HEAVYQ_PREFIX", "bull"):
        flags += f" --prefix {prefix}"
    return flags


def _program() -> str:
    """Return how to call this heavyq from the shell that called the demo."""
    ours = Path(sys.executable).with_name("heavyq")
    found = shutil.which("heavyq")
    if found is not None and Path(found).absolute() == ours.absolute():
        return "heavyq"
    if not ours.exists():
        return f"{sys.executable} -m heavyq"
    return os.path.relpath(ours) if ours.is_relative_to(Path.cwd()) else str(ours)
