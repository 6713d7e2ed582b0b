"""Reads a Dockerfile: its stages, and what each instruction says.

Owns our own, strict reading: an instruction that it does not know is an error, so that nothing is overlooked.
Builds nothing.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pathlib import Path

_KNOWN = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
_FROM = re.compile(r"(\S+)(?: AS (\S+))?")


@dataclass(frozen=True, slots=True)
class Copy:
    """One COPY. origin: the stage that it copies from; None: the build's context."""

    origin: str | None
    sources: list[str]
    target: str

    @classmethod
    def read(cls, text: str) -> Self:
        """Read what stands behind COPY. ValueError for a flag that is not known."""
        words = shlex.split(text)
        flags = dict(word[2:].split("=", 1) for word in words if word.startswith("--"))
        if set(flags) - {"from"}:
            raise ValueError(f"COPY with {flags}")
        *sources, target = (word for word in words if not word.startswith("--"))
        return cls(flags.get("from"), sources, target)


@dataclass(slots=True)
class Stage:
    """One stage. base: an image, or the name of a stage before. steps: (instruction, its words), in order."""

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """Return what stands behind each instruction of this kind."""
        return [words for kind, words in self.steps if kind == instruction]

    def exec_form(self, instruction: str) -> list[str]:
        """Return the words of the last ENTRYPOINT or CMD. ValueError if it is in shell form."""
        words: Any = json.loads(self.all(instruction)[-1])
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"{instruction} is not a list of texts: {words!r}")
        return words

    def copies(self) -> list[Copy]:
        """Return each COPY."""
        return [Copy.read(words) for words in self.all("COPY")]

    def environment(self) -> dict[str, str]:
        """Return the variables of ENV, as they are written."""
        pairs = (pair.split("=", 1) for words in self.all("ENV") for pair in shlex.split(words))
        return dict(pairs)


def read(path: Path) -> list[Stage]:
    """Return the stages of a Dockerfile, in order."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    stages: list[Stage] = []
    for line in re.sub(r"\\\n", "", "\n".join(lines)).splitlines():
        if not line.strip():
            continue
        instruction, _, words = line.partition(" ")
        if instruction not in _KNOWN:
            raise ValueError(f"not known: {line}")
        if instruction == "FROM":
            match = _FROM.fullmatch(words.strip())
            if match is None:
                raise ValueError(f"not understood: {line}")
            stages.append(Stage(match[1], match[2] or str(len(stages))))
        else:
            stages[-1].steps.append((instruction, words.strip()))
    return stages
