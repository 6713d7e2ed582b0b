"""The demo's queues and what goes through them.

The light module of a program with heavy jobs: producers and the worker share it, so it imports no library that the
jobs need. Uses `heavyq` as any program does.
"""

from __future__ import annotations

from typing import Literal

from heavyq import HEAVY, Model, Queue, fixed


class Clip(Model):
    """A film to transcode. heights: in pixels, one rung of the ladder each. out: an absolute folder that exists."""

    codec: Literal["h264", "vp9"]
    heights: list[int]
    out: str


class Rung(Model):
    """One file of a ladder. file: its path. seconds: what it took."""

    height: int
    file: str
    frames: int
    size_bytes: int
    seconds: float


class Ladder(Model):
    """What became of a film. resumed_at: how many rungs an earlier run had made."""

    rungs: list[Rung]
    resumed_at: int


class Search(Model):
    """A kernel to find the parameters of. out: an absolute folder that exists."""

    kernel: Literal["rbf", "poly"]
    out: str


class Trial(Model):
    """One point of the grid. score: accuracy, the mean of the folds."""

    c: float
    gamma: float
    score: float


class Found(Model):
    """The best point, and how a model made with it does on scans that no trial has seen. file: that model."""

    best: Trial
    test_score: float
    trials: int
    file: str
    resumed_at: int


# HEAVY, but for people who watch: a failed run is tried again soon, and what a dead machine held comes back soon.
DEMO = HEAVY.replace(
    name="demo",
    attempts=2,
    backoff=fixed("3s"),
    lock_duration="30s",
    stalled_interval="30s",
    remove_on_complete=100,
    remove_on_fail=100,
)

videos = Queue("demo-video", payload=Clip, result=Ladder, profile=DEMO)
searches = Queue("demo-digits", payload=Search, result=Found, profile=DEMO)
