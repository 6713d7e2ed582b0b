"""`heavyq demo`: starts the demo, which is user code of heavyq and a program of its own."""

from __future__ import annotations

import importlib

import typer

from heavyq.cli.flags import takes_place
from heavyq.cli.place import place_settings


def register(app: typer.Typer) -> None:
    app.command("demo")(demo)


@takes_place()
def demo(
    out: str = typer.Option(None, "--out", metavar="DIR", help="Keep the films and models it makes in this folder."),
    *,
    redis: str | None,
    prefix: str | None,
    as_json: bool,
) -> int:
    """Work real video and ML jobs end to end, and show what happens."""
    settings = place_settings({"redis": redis, "prefix": prefix})
    show = importlib.import_module("heavyq.demo.show")
    return int(show.main(redis=settings.redis_url, prefix=settings.prefix, out=out, as_json=as_json))
