"""`deploy/`: what stands there fits the worker's own defaults."""

from __future__ import annotations

import configparser
from pathlib import Path

from heavyq.config import RunSettings
from heavyq.worker.guard import FORWARDED

UNIT = Path(__file__).resolve().parents[2] / "deploy" / "systemd" / "heavyq-worker.service"


def service() -> configparser.SectionProxy:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment]
    unit.read(UNIT)
    return unit["Service"]


def test_systemd_waits_longer_than_a_drain_takes():
    assert int(service()["TimeoutStopSec"]) > RunSettings().drain_timeout_s


def test_systemd_stops_the_guard_alone_by_a_signal_that_it_forwards():
    assert service()["KillMode"] == "mixed"
    assert service().get("KillSignal", "SIGTERM") in {s.name for s in FORWARDED}


def test_systemd_starts_the_command_that_people_type():
    assert service()["ExecStart"].endswith("/heavyq run --concurrency 2")
