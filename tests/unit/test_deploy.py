"""`deploy/systemd`: what stands there fits the worker's own defaults, and systemd understands it."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from heavyq.config.units import parse_size
from heavyq.errors import ConfigError, HeavyqError, RedisError, UsageError
from heavyq.worker.guard import FORWARDED
from tests.support import deploy

if TYPE_CHECKING:
    from pathlib import Path

UNIT = deploy.FOLDER / "systemd" / "heavyq-worker.service"


def service() -> configparser.SectionProxy:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment]
    unit.read(UNIT)
    return unit["Service"]


def argv() -> list[str]:
    command, *words = service()["ExecStart"].split()
    assert command.endswith("/heavyq")
    return words


def test_systemd_waits_longer_than_a_drain_takes() -> None:
    assert int(service()["TimeoutStopSec"]) >= deploy.stop_s(deploy.settings_of(argv()))


def test_systemd_stops_the_guard_alone_by_a_signal_that_it_forwards() -> None:
    assert service()["KillMode"] == "mixed"
    assert service().get("KillSignal", "SIGTERM") in {s.name for s in FORWARDED}


def test_a_kill_of_one_child_by_the_kernel_does_not_stop_the_unit() -> None:
    assert service()["OOMPolicy"] == "continue"
    assert service()["Delegate"] == "yes"


def test_what_no_restart_mends_is_not_restarted() -> None:
    assert service()["Restart"] == "on-failure"
    final = {int(code) for code in service()["RestartPreventExitStatus"].split()}
    assert final == {UsageError.exit_code, ConfigError.exit_code}
    assert not final & {HeavyqError.exit_code, RedisError.exit_code}, "a crash, a Redis that is not there yet"


def test_the_unit_has_room_for_its_jobs_limits() -> None:
    limit = parse_size(service()["MemoryMax"] + "i")  # systemd's G is binary
    assert service()["MemorySwapMax"] == "0"
    assert deploy.room_left(deploy.settings_of(argv()), limit) >= deploy.MANY_IMPORTS


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    # Its command is not installed here, and systemd looks for it.
    unit.write_text(UNIT.read_text().replace("/srv/app/.venv/bin/heavyq", shutil.which("true") or ""))
    said = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    ours = [line for line in said.stderr.splitlines() if UNIT.name in line]
    assert (said.returncode, ours) == (0, [])
