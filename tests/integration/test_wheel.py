"""The wheel as a user installs it: built, installed in a fresh environment, run against a real server."""

from __future__ import annotations

import site
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.worker import environment

if TYPE_CHECKING:
    from tests.support.valkey import Valkey

REPOSITORY = Path(__file__).resolve().parents[2]

# A queue's whole way through Redis needs every kind of package data: common.lua and the verb's own script.
SCRIPT = """
import sys
import heavyq
from heavyq.bullmq.keys import QueueKey
from heavyq.bullmq.ops.add import add
from heavyq.bullmq.ops.counts import counts
from heavyq.store.client import Client

client = Client(sys.argv[1])
queue = QueueKey(sys.argv[2], "wheel")
client.run(add(queue, name="process", data=b"{}", opts=b"{}", timestamp_ms=1))
print(heavyq.__file__)
print(client.run(counts(queue)))
client.close()
"""


def run(*command: str | Path, cwd: Path) -> str:
    env = {**environment(), "PYTHONPATH": "", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build from a copy, so that nothing is left in the work tree; without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "heavyq"):
        run("cp", "-r", REPOSITORY / name, source, cwd=folder)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source, cwd=folder)
    (built,) = folder.glob("heavyq-*.whl")
    return built


def test_the_wheel_holds_scripts_and_type_marker_and_nothing_else_of_ours(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    package = REPOSITORY / "heavyq"
    kinds = ("*.py", "*.lua", "py.typed")
    wanted = {path.relative_to(REPOSITORY).as_posix() for kind in kinds for path in package.rglob(kind)}
    packed = {name for name in inside if ".dist-info/" not in name}
    assert packed == wanted


def test_a_script_runs_from_the_installed_wheel(wheel: Path, tmp_path: Path, valkey: Valkey, prefix: str) -> None:
    fresh = tmp_path / "fresh"
    run(sys.executable, "-m", "venv", "--without-pip", fresh, cwd=tmp_path)
    python = fresh / "bin" / "python"
    run(
        *(sys.executable, "-m", "pip", "--python", python),
        *("install", "--quiet", "--no-deps", "--no-index", wheel),
        cwd=tmp_path,
    )
    # The dependencies are taken from the tests' own environment: no network is needed.
    (packages,) = fresh.glob("lib/python*/site-packages")
    (packages / "outer.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    said = run(python, "script.py", valkey.url, prefix, cwd=tmp_path).splitlines()
    assert said[0].startswith(str(packages)), "the installed package was used, not the work tree"
    assert "waiting=1" in said[1]
    assert run(fresh / "bin" / "heavyq", "--help", cwd=tmp_path)
