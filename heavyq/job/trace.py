"""The traceback that people see, and its first line. Owns what is left out of it."""

from __future__ import annotations

import itertools
import traceback
from pathlib import Path

from heavyq.config import text_of

TRACE_MAX = 64 * 1024
_OURS = str(Path(__file__).parent)


def one_line(error: BaseException) -> str:
    """Name and message, as BullMQ shows it first in a stack trace."""
    text = text_of(error)
    return (f"{type(error).__name__}: {text}" if text else type(error).__name__).splitlines()[0][:1000]


def trace_of(error: BaseException) -> str:
    """`Name: message`, then Python's traceback without the frames of ours that lead to the user's."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = list(itertools.dropwhile(lambda frame: frame.filename.startswith(_OURS), frames)) or frames
    text = f"{one_line(error)}\n" + "".join(traceback.format_list(theirs))
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        text += "caused by:\n" + "".join(traceback.format_exception(cause))
    text = text.rstrip()
    return text if len(text) <= TRACE_MAX else text[: TRACE_MAX // 2] + "\n...\n" + text[-TRACE_MAX // 2 :]
