"""`make vm`: boot the virtual machine and run the tests of this folder in it; or, with words, any pytest arguments.

Runs a copy of the code, compiled, in the guest's memory: 9p is slow, and edits do not disturb the run.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import shlex
import shutil
import sys
import time
from pathlib import Path

from tests.vm import machine

_TESTS = "tests/vm"
_ALL_S = 3000.0
_OPTIONS = "-p no:cacheprovider -o timeout=900 --basetemp=/tmp/disk/tests"
# What the tests import; tests/vm itself holds the machine, too.
_COPIED = ("heavyq", "pyproject.toml", "tests/__init__.py", "tests/conftest.py", "tests/support", "tests/vm")


def main(argv: list[str]) -> int:
    """Run the tests; return pytest's exit code, 3 when there can be no machine."""
    began_s = time.monotonic()
    try:
        if sys.prefix.startswith(("/tmp/", "/run/")):
            raise machine.Unable(
                f"the virtual environment is in {sys.prefix}: the machine has a /tmp and a /run of its own"
            )
        parts = machine.prepare()
        _copy_code(machine.SHARE / "repository")
        print(f"kernel {parts.release} under qemu's {_accel()}: timings in there mean nothing", flush=True)
        code = machine.boot(parts, _command(argv or [_TESTS]), memory="2G", accel=_accel(), timeout_s=_ALL_S)
    except machine.Unable as error:
        print(f"make vm: {error}", file=sys.stderr)
        return 3
    print(f"exit code {code} after {time.monotonic() - began_s:.0f} s")
    return code


def _accel() -> str:
    return os.environ.get("VM_ACCEL", "tcg")  # kvm where nesting works


def _copy_code(to: Path) -> None:
    """Copy what the tests import, compiled: the guest would need a minute for that."""
    shutil.rmtree(to, ignore_errors=True)
    for name in _COPIED:
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        source = machine.REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    # By hash, unchecked: the copy in the guest has other times.
    how = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(to, quiet=1, invalidation_mode=how)


def _command(argv: list[str]) -> str:
    """Return the shell's text: what the guest does between boot and power off."""
    color = "--color=yes" if sys.stdout.isatty() else "--color=no"
    return f"""
        set -e
        export HOME=/tmp/home TMPDIR=/tmp/disk PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 PYTHONUNBUFFERED=1
        cp -r /tmp/share/repository /tmp/repository
        cd /tmp/repository
        exec {sys.executable} -m pytest {_OPTIONS} {color} {shlex.join(argv)}
    """


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
