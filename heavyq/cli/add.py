"""`heavyq add`: adds one job, and with --wait stays until it has ended."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from pydantic import TypeAdapter

from heavyq.cli import say
from heavyq.cli.catalogue import declared_queues
from heavyq.cli.flags import takes_place
from heavyq.cli.place import check_queue_name, place_settings
from heavyq.config import parse_duration
from heavyq.config.sources import read_flags
from heavyq.errors import BadValue, JobFailed, UsageError
from heavyq.queue import connection
from heavyq.queue.queue import Queue
from heavyq.queue.typed import to_json

if TYPE_CHECKING:
    from heavyq.config import RunSettings
    from heavyq.queue.handle import JobHandle

_FAILED = 1


def register(app: typer.Typer) -> None:
    app.command("add")(add)


@takes_place("delay", "priority", "attempts", "job_id")
def add(
    queue: str = typer.Argument(..., metavar="QUEUE"),
    name: str = typer.Argument(..., metavar="NAME"),
    payload: str = typer.Argument("{}", metavar="JSON", help="The payload; - reads it from stdin.", show_default=False),
    wait: bool = typer.Option(False, "--wait", help="Wait until the job has ended and print its result."),
    timeout: str = typer.Option(None, "--timeout", metavar="TIME", help="Wait at most so long."),
    *,
    as_json: bool,
    redis: str | None,
    prefix: str | None,
    **options: Any,
) -> int:
    """Add a job to a queue."""
    check_queue_name(queue)
    given = {option: value for option, (value, _) in read_flags(options).items()}
    timeout_s = _timeout_s(timeout, wait=wait)
    data = _parsed(sys.stdin.read() if payload == "-" else payload)
    target = _queue(place_settings({"redis": redis, "prefix": prefix}), queue)
    handle = target.add(name, data, **given)
    answer = {"id": handle.id, "queue": queue, "name": name}
    words = f"job {handle.id} {'added to' if handle.added else 'was already in'} queue {queue}"
    if not wait:
        say.document(answer) if as_json else say.answer(words)
        return 0
    say.note(words)
    return _wait(handle, answer, timeout_s, as_json=as_json)


def _wait(handle: JobHandle[Any, Any], answer: dict[str, Any], timeout_s: float | None, *, as_json: bool) -> int:
    """Wait for the job's end; print its result, or how it ended instead."""
    try:
        result = json.loads(to_json(handle.result(timeout_s)))
    except JobFailed as error:
        failure = handle.failure
        shown = {"reason": error.reason, "detail": error.message} if failure is None else asdict(failure)
        ended: dict[str, Any] = {"state": "failed", "failure": shown}
        why = str(error)
    except TimeoutError:
        ended = {"state": handle.state()}
        see = f"heavyq job {answer['queue']} {handle.id}"
        why = f"job {handle.id} is still {ended['state']} after {timeout_s:g} s (look again with: {see})"
    else:
        if as_json:
            say.document({**answer, "state": "completed", "result": result})
        else:
            say.document(result)
        return 0
    if as_json:
        say.document({**answer, **ended})
    say.error(why)
    return _FAILED


def _queue(settings: RunSettings, name: str) -> Queue[Any, Any]:
    """Return the queue as the configured modules declare it; else a STANDARD one that takes any JSON."""
    if settings.modules:
        declared = declared_queues(settings).get(name)
        if declared is not None:
            return declared
        say.note(f"{', '.join(settings.modules)} declares no queue {name}: its jobs have STANDARD options, any payload")
    else:
        connection.set_worker_default(settings.redis_url, settings.prefix)
        say.note(f"no modules are configured: jobs of {name} have STANDARD options, any payload")
    return Queue(name, payload=TypeAdapter(Any))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"the payload is no JSON: {error.msg} at line {error.lineno}, column {error.colno} (in a shell, "
            "write it between single quotes)"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the payload is no JSON: {error}") from None


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is none of its values")


def _timeout_s(text: str | None, *, wait: bool) -> float | None:
    if text is None:
        return None
    if not wait:
        raise UsageError("--timeout is for --wait: give both, or neither")
    try:
        return parse_duration(text)
    except BadValue as error:
        raise UsageError(f"--timeout: {error}") from None
