"""Containers without an engine: an image built by its Dockerfile's own steps, and what runs in it.

This machine's own root, under an overlay, stands for the base image; namespaces, a user without capabilities, a
read-only root and a memory group make the rest. Owns the folders and processes that it makes. Needs root.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.support import procs
from tests.support.dockerfile import Copy
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.support.dockerfile import Stage
    from tests.support.group import MemoryGroup

_PYTHON = Path(sys.base_prefix).resolve() / "bin"
_PATH = f"{_PYTHON}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BUILD_S = 240.0
# Killed with the tests; the kernel kills what is in the namespace when its first process dies.
_UNSHARE = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child")
_STEPS_TO_IT = {"sh", "unshare", "chroot", "setpriv", "env"}
_NOBODY = "setpriv --reuid {} --regid {} --clear-groups --no-new-privs --bounding-set=-all"


class Failed(Exception):  # noqa: N818 - a step's own words
    """A container could not be made, or a step of a build ended with an error."""


@dataclass(slots=True)
class Image:
    """A root and how to run it. upper: what was written above this machine's root."""

    upper: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": _PATH})
    workdir: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    def on(self, folder: Path) -> Image:
        """Return a new image on top of this one, which stays as it is."""
        shutil.copytree(self.upper, folder, symlinks=True)  # layers of an overlay may not stand one in the other
        return replace(self, upper=folder, environment=dict(self.environment))

    def at(self, path: str) -> Path:
        """Return where a path of the image stands on this machine, once the image has written it."""
        return self.upper / os.path.normpath(Path("/", self.workdir, path)).lstrip("/")

    def script(self, mounts: Sequence[str] = (), then: str = "") -> str:
        """Return what the first process of a container does. mounts: lines that mount below `$root`."""
        root, work = self.upper.with_suffix(".root"), self.upper.with_suffix(".work")
        for folder in (root, work):
            folder.mkdir(exist_ok=True)
        layers = f"lowerdir=/,upperdir={self.upper},workdir={work}"
        lines = [
            "set -e",
            f"root={shlex.quote(str(root))}",
            f"mount -t overlay overlay -o {shlex.quote(layers)} $root",
            "mount -t proc proc $root/proc",
            "mount --rbind /dev $root/dev",
            "mount --rbind /sys $root/sys",
            *mounts,
            f"cd $root && exec chroot . {then}",
        ]
        return "\n".join(lines)


# ---- building ---------------------------------------------------------------------------------------------


def build(
    stages: Sequence[Stage], context: Path, folder: Path, *, known: Mapping[str, Image] | None = None
) -> dict[str, Image]:
    """Take every step of these stages, in order; return the image of each. known: built before. Raises Failed."""
    images: dict[str, Image] = dict(known or {})
    for stage in stages:
        image = images[stage.base].on(folder / stage.name) if stage.base in images else _base(folder / stage.name)
        for instruction, words in stage.steps:
            _take(image, instruction, words, images, context)
        images[stage.name] = image
    return images


def _take(image: Image, instruction: str, words: str, images: Mapping[str, Image], context: Path) -> None:
    match instruction:
        case "WORKDIR":
            image.workdir = words
            image.at(".").mkdir(parents=True, exist_ok=True)
        case "COPY":
            copy = Copy.read(words)
            for source in copy.sources:
                if copy.origin:
                    _copy(images[copy.origin].at(source), image, copy.target)
                else:
                    _copy(context / source, image, copy.target, but=("__pycache__",))
        case "RUN":
            _run(image, words)
        case "ENV":
            pairs = dict(pair.split("=", 1) for pair in shlex.split(words))
            image.environment |= {
                name: value.replace("$PATH", image.environment["PATH"]) for name, value in pairs.items()
            }
        case "USER":
            image.user = words
        case "ENTRYPOINT":
            image.entrypoint = json.loads(words)
        case "CMD":
            image.command = json.loads(words)


def _base(upper: Path) -> Image:
    """Return this machine as an image. Any user can reach its Python, which may stand in somebody's home."""
    image = Image(upper)
    for folder in reversed([_PYTHON, *_PYTHON.parents]):
        copy = image.at(str(folder))
        copy.mkdir(parents=True, exist_ok=True)
        copy.chmod(0o755)
    if not (_PYTHON / "python").exists():
        image.at(str(_PYTHON / "python")).symlink_to(Path(sys.executable).resolve().name)
    return image


def _copy(source: Path, image: Image, target: str, but: Sequence[str] = ()) -> None:
    to = image.at(target)
    if source.is_dir():
        shutil.copytree(source, to, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*but))
    else:
        to = to / source.name if target.endswith("/") else to
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, to)


def _run(image: Image, words: str) -> None:
    step = shlex.quote(f"cd {image.workdir} && {words}")
    # Where packages come from is this machine's business, like the network.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [*_UNSHARE, "sh", "-c", image.script(then=f"sh -c {step}")],
        env={**kept, **image.environment},
        capture_output=True,
        text=True,
        timeout=_BUILD_S,
        check=False,
    )
    if done.returncode:
        raise Failed(f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


# ---- running ----------------------------------------------------------------------------------------------


class Container:
    """One container. Use as a context manager.

    argv: in place of the image's CMD. tmp: what is mounted on /tmp, a tmpfs's options or a folder of this machine.
    group: the memory group to run in.
    """

    def __init__(
        self,
        image: Image,
        argv: Sequence[str],
        environment: Mapping[str, str],
        *,
        tmp: str | Path,
        log: Path,
        group: MemoryGroup | None = None,
    ) -> None:
        self._image, self._log = image, log
        self._argv = [*image.entrypoint, *(argv or image.command)]
        self._environment = {**image.environment, **environment}
        self._tmp = f"--bind {shlex.quote(str(tmp))}" if isinstance(tmp, Path) else f"-t tmpfs -o {tmp} tmpfs"
        self._group = group
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        mounts = [f"mount {self._tmp} $root/tmp", "mount -o remount,ro $root"]
        script = self._image.script(mounts, then=self._within(self._argv))
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*(self._group.prefix_argv if self._group else ()), *_UNSHARE, "sh", "-c", script],
                env={"PATH": _PATH},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            for first in procs.children(self._process.pid):
                os.kill(first.pid, signal.SIGKILL)
            self._process.kill()
        self._process.wait()

    def _within(self, argv: Sequence[str]) -> str:
        """Return the shell's words that become `argv`: user, no privileges, current folder, variables."""
        variables = [f"{name}={value}" for name, value in self._environment.items()]
        nobody = _NOBODY.format(*self._image.user.split(":"))
        return f"{nobody} env -i --chdir={self._image.workdir} {shlex.join([*variables, *argv])}"

    @property
    def pid(self) -> int:
        """The first process of the container, as this machine numbers it, once it is the program itself."""

        def look() -> int:
            assert self._process is not None
            if self._process.poll() is not None:
                raise Failed(f"the container has ended\n{self.log}")
            below = procs.children(self._process.pid)
            assert below, "nothing is started yet"
            assert below[0].title.split()[0] not in _STEPS_TO_IT, below
            return below[0].pid

        return eventually(look, 15, "the container runs its program")

    @property
    def log(self) -> str:
        """What the container has printed so far."""
        return self._log.read_text(errors="replace")

    def execute(self, *argv: str) -> int:
        """Run a command in the container, as `docker exec` and probes do; return its exit code."""
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--root"]
        return subprocess.run(
            [*enter, "sh", "-c", f"exec {self._within(argv)}"], env={"PATH": _PATH}, capture_output=True, check=False
        ).returncode

    def wait(self, timeout_s: float) -> int:
        """Wait for the container's end; return its exit code."""
        assert self._process is not None
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {timeout_s:g} s\n{self.log}") from None
