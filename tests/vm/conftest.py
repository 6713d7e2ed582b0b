"""The tests in this folder run inside the virtual machine of `make vm`, and nowhere else: they make groups at the root
of the hierarchy, and they let the kernel run out of memory.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.vm.pod import ROOT, Pod

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# PID 1 of the machine writes it (tests/vm/init.sh): a root hierarchy with memory alone could be a developer's own.
_MARK = "heavyq-vm"
_numbers = itertools.count(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    controllers = ROOT / "cgroup.controllers"
    if not controllers.exists() or "memory" not in controllers.read_text().split():
        pytest.fail("no cgroup v2 with a memory controller here: make vm", pytrace=False)
    if _MARK not in Path("/proc/cmdline").read_text():
        pytest.fail("this is not the virtual machine: make vm", pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def _delegated() -> None:
    """Let the root hand its controllers down, as systemd does at boot."""
    (ROOT / "cgroup.subtree_control").write_text("+memory +cpu +pids")


@pytest.fixture
def make_pod() -> Iterator[Callable[..., Pod]]:
    """Make groups: `make_pod(limit_bytes, oom_group=True)`, `make_pod(parent=other.path)`."""
    made: list[Pod] = []

    def make(limit_bytes: int | None = None, **options: Any) -> Pod:
        made.append(Pod(f"pod-{next(_numbers)}", limit_bytes, **options))
        return made[-1].__enter__()

    yield make
    for pod in reversed(made):  # what is inside goes first
        pod.__exit__()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what was measured: it is what this run is for."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            lines = report.capstdout.splitlines() if getattr(report, "when", "") == "call" else []
            for line in (line for line in lines if line.startswith("measured: ")):
                terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {line.removeprefix('measured: ')}")
