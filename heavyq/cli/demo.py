"""`heavyq demo`: starts the demo, which is user code of heavyq and a program of its own."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from heavyq.cli.flags import takes_place
from heavyq.cli.place import place_settings

if TYPE_CHECKING:
    import typer


def register(app: typer.Typer) -> None:
    app.command("demo")(demo)


@takes_place()
def demo(*, redis: str | None, prefix: str | None, as_json: bool) -> int:
    """Work real video and ML jobs end to end, and show what happens."""
    settings = place_settings({"redis": redis, "prefix": prefix})
    show = importlib.import_module("heavyq.demo.show")
    return int(show.main({"redis_url": settings.redis_url, "prefix": settings.prefix, "json": as_json}))
