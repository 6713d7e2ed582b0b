"""`heavyq run` on a system that is not Linux: refused before anything of the worker is loaded."""

from __future__ import annotations

import sys

import pytest

from heavyq import __main__ as program


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_worker_is_refused_in_one_line(
    platform: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(sys, "argv", ["heavyq", "run", "app", "--concurrency", "2"])
    assert program.main() == 3
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("heavyq: workers run on Linux only")
    assert "run it in a container or on a Linux host" in line
