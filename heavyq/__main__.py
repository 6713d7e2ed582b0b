"""The `heavyq` command. For `run` it becomes the guard before anything heavy is imported.

Owns only that order: embedded server, guard, command line. No logic, no parsing beyond the first word.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> int:
    """Run the command line and return its exit code."""
    argv = sys.argv[1:]
    try:
        os.getcwd()
    except FileNotFoundError:
        sys.stderr.write("heavyq: the current folder does not exist any more; go to one that does\n")
        return 1
    if argv[:1] == ["run"] and not {"--help", "-h"} & set(argv):
        return _run(argv)
    from heavyq.cli.app import main as cli_main

    return cli_main(argv)


def _run(argv: list[str]) -> int:
    if not sys.platform.startswith("linux"):
        sys.stderr.write(
            "heavyq: workers run on Linux only (producers work here); run it in a container or on a Linux host\n"
        )
        return 3
    if _may_need_embedded(argv):
        # The server must not be in the guard's tree, or it would be killed with it: so it starts first.
        from heavyq.errors import HeavyqError
        from heavyq.store import embedded

        if embedded.available():
            try:
                embedded.ensure()
            except HeavyqError as error:
                sys.stderr.write(f"heavyq: {error}\n")
                return error.exit_code
    from heavyq.worker import guard

    def supervise(pulse: guard.Pulse) -> int:
        from heavyq.cli.app import main as cli_main
        from heavyq.worker import supervisor

        supervisor.attach(pulse)
        return cli_main(argv)

    return guard.guarded(supervise)


def _may_need_embedded(argv: list[str]) -> bool:
    """Tell whether nobody has named a Redis yet. A module may still do so: then the server starts in vain, and ends."""
    if any(word == "--redis" or word.startswith("--redis=") for word in argv):
        return False
    environ = os.environ
    return not (environ.get("HEAVYQ_REDIS") or environ.get("REDIS_URL") or _named_in_pyproject())


def _named_in_pyproject() -> bool:
    import tomllib

    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "pyproject.toml").is_file():
            try:
                table = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
                return bool(table["tool"]["heavyq"]["redis"])
            except (OSError, ValueError, KeyError, TypeError):
                return False  # the command line will say what is wrong with it
    return False


if __name__ == "__main__":
    sys.exit(main())
