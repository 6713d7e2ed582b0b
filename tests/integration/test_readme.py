"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.worker import REPOSITORY, Worker, heavyq

if TYPE_CHECKING:
    from tests.support.valkey import Valkey

README = (REPOSITORY / "README.md").read_text()
MAKEFILE = (REPOSITORY / "Makefile").read_text()


def app(folder: Path) -> None:
    (code,) = re.findall(r"```python\n(# app\.py\n.*?)```", README, re.DOTALL)
    (folder / "app.py").write_text(code)


def commands(first_words: str) -> list[list[str]]:
    found = re.findall(rf"(?m)(?:^    |`)heavyq ({first_words}.*?)(?:`|$)", README)
    assert found, f"the README shows no `heavyq {first_words}`"
    return [shlex.split(command) for command in found]


def test_its_module_runs_and_its_add_prints_the_result(valkey: Valkey, prefix: str, tmp_path: Path) -> None:
    app(tmp_path)
    env = {"HEAVYQ_REDIS": valkey.url, "HEAVYQ_PREFIX": prefix}
    (run,), (add,) = commands("run"), commands("add")
    with Worker(tmp_path, run[1:], env=env):
        done = heavyq(*add, folder=tmp_path, env=env)
        assert done.code == 0, done
        assert "/out/v1.mp4" in done.out


def test_it_needs_no_redis(tmp_path: Path) -> None:
    app(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    env = {"HEAVYQ_EMBEDDED": "1"}
    (run,), (add,) = commands("run"), commands("add")
    with Worker(tmp_path, run[1:], env=env) as worker:
        worker.find("zygote")
        done = heavyq(*add, folder=tmp_path, env=env)
        assert "/out/v1.mp4" in done.out, done
        assert "for production set HEAVYQ_REDIS" in worker.log
    assert (tmp_path / ".heavyq/appendonlydir").is_dir()


def test_its_make_targets_exist() -> None:
    for target in re.findall(r"(?m)(?:^    |`)make (\w+)", README):
        assert re.search(rf"(?m)^{target}:", MAKEFILE), target
