"""Values of the user's types as JSON bytes, and back. The only place that asks pydantic.

Owns what fits and what it looks like on the wire: written by alias, read by alias or by name, strict JSON always.
NaN and the infinities are written as null, and where the type says float that null is read back as NaN (a model
with a diverged loss must not lose its result). Numpy's scalars are written as numbers. Knows no queue and no Redis.
pydantic is imported on first use: a program that only names queues does not pay for it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from heavyq.errors import BadValue, PayloadError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")

_SHOWN_MAX: Final = 3
_ORDINARY: Final = (bool, int, float, str)
_UNDECLARED: Final = (dict[str, Any], Any)


def to_json(value: object) -> bytes:
    """Return any value as strict JSON: models by alias, dataclasses, dates and UUIDs as pydantic writes them.

    Raises ValueError for what JSON cannot hold.
    """
    from pydantic_core import to_json as dump

    def write(plain: object) -> bytes:
        return dump(plain, by_alias=True, inf_nan_mode="null", fallback=_plain_scalar)

    return _written(write, value)


class Codec(Generic[T]):
    """One type, written and read.

    kind: a type that pydantic takes, or a TypeAdapter. what: what the values are, for messages: `payload of
    queue "videos"`. error: the class of everything that is raised. mirrored: `encode` refuses what `decode`
    would not take back.
    """

    def __init__(self, kind: Any, *, what: str, error: type[Exception], mirrored: bool) -> None:
        self.kind = kind
        self._what = what
        self._error = error
        self._mirrored = mirrored

    def encode(self, value: object) -> bytes:
        """Return a value's JSON. A dict is taken for a model if it fits."""
        from pydantic import ValidationError

        try:
            fitting = self._adapter.validate_python(value, by_alias=True, by_name=True)
        except ValidationError as error:
            raise self._misfit(error) from None

        def write(plain: Any) -> bytes:
            # A mirrored codec finds by reading what pydantic would only warn of.
            return self._adapter.dump_json(
                plain, by_alias=True, fallback=_plain_scalar, warnings="none" if self._mirrored else "error"
            )

        try:
            raw = _written(write, fitting)
        except ValueError as error:
            raise self._error(f"the {self._what} is no JSON: {error}") from None
        if self._mirrored:
            self.decode(raw)
        return raw

    def decode(self, raw: bytes) -> T:
        """Return the value of a JSON text."""
        from pydantic import ValidationError

        try:
            return self._read(raw)
        except ValidationError as error:
            repaired = _with_nan(raw, error)
            if repaired is None:
                raise self._misfit(error) from None
        try:
            return self._read(repaired)
        except ValidationError as error:
            raise self._misfit(error) from None

    def check_type(self) -> None:
        """Raise BadValue if pydantic can make nothing of the type. One that names others, not defined yet, passes."""
        from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

        try:
            _ = self._adapter
        except PydanticUndefinedAnnotation:
            return  # it is made when it is used
        except (PydanticUserError, TypeError) as error:
            raise BadValue(
                f"the {self._what}: {_type_name(self.kind)} is no type that pydantic takes ({_first_line(error)})"
            ) from None

    @cached_property
    def _adapter(self) -> TypeAdapter[T]:
        from pydantic import TypeAdapter

        return self.kind if isinstance(self.kind, TypeAdapter) else TypeAdapter(self.kind)

    def _read(self, raw: bytes) -> T:
        return self._adapter.validate_json(raw, by_alias=True, by_name=True)

    def _misfit(self, error: ValidationError) -> Exception:
        problems = error.errors(include_url=False, include_input=False)
        names = _names_by_alias(self.kind)
        shown = "; ".join(_problem(each["loc"], each["msg"], names) for each in problems[:_SHOWN_MAX])
        more = f" (and {len(problems) - _SHOWN_MAX} more)" if len(problems) > _SHOWN_MAX else ""
        return self._error(f"the {self._what} does not fit {_type_name(self.kind)}: {shown}{more}")


@dataclass(frozen=True, slots=True)
class Types:
    """How the payloads and the results of a queue, or of one job name in it, are written and read."""

    payload: Codec[Any]
    result: Codec[Any]

    @classmethod
    def of(cls, label: str, payload: Any, result: Any) -> Types:
        """Make the codecs. label: whose they are. None: not declared; any JSON object, any result."""
        return cls(
            Codec(
                dict[str, Any] if payload is None else payload,
                what=f"payload of {label}",
                error=PayloadError,
                mirrored=payload is not None,
            ),
            Codec(Any if result is None else result, what=f"result of {label}", error=ValueError, mirrored=False),
        )

    def check(self) -> None:
        """Raise BadValue if a declared type is none that pydantic takes."""
        for codec in (self.payload, self.result):
            if codec.kind not in _UNDECLARED:
                codec.check_type()


def _problem(loc: tuple[int | str, ...], message: str, names: Mapping[str, str]) -> str:
    """Name the field as Python does, and as the wire does where that differs."""
    if not loc:
        return message
    wire = ".".join(map(str, loc))
    name = ".".join(map(str, (names.get(str(loc[0]), loc[0]), *loc[1:])))
    return f"{wire}: {message}" if name == wire else f"{name} ({wire} on the wire): {message}"


def _names_by_alias(kind: Any) -> dict[str, str]:
    fields: Mapping[str, Any] = getattr(kind, "__pydantic_fields__", {})
    aliases = {name: field.validation_alias or field.alias for name, field in fields.items()}
    return {alias: name for name, alias in aliases.items() if isinstance(alias, str)}


def _type_name(kind: Any) -> str:
    from pydantic import TypeAdapter

    if isinstance(kind, TypeAdapter):
        kind = getattr(kind, "_type", kind)  # its own repr is a page of schema
    return kind.__name__ if isinstance(kind, type) and not getattr(kind, "__args__", ()) else str(kind)


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]


# ---- numpy ------------------------------------------------------------------------------------------------


def _written(write: Callable[[Any], bytes], value: object) -> bytes:
    """Write a value; where pydantic gives up, again with plain keys, for which it has no fallback."""
    from pydantic_core import PydanticSerializationError

    try:
        return write(value)
    except PydanticSerializationError as error:
        try:
            return write(_plain_keys(value))
        except (PydanticSerializationError, RecursionError):
            raise ValueError(_why(error)) from None


def _why(error: Exception) -> str:
    return " ".join(str(error).removeprefix("Error serializing to JSON: ").split())[:300]


def _plain_scalar(value: object) -> object:
    """Return a numpy scalar as Python's own; pydantic calls this for every type that it does not know."""
    item = getattr(value, "item", None)
    if not callable(item) or getattr(value, "shape", None) != ():
        raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} has no form in JSON")
    plain: Any = item()
    if isinstance(plain, _ORDINARY):
        return plain
    try:
        return float(plain)  # longdouble's item is itself
    except (TypeError, ValueError):
        raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} has no form in JSON") from None


def _plain_keys(value: object) -> object:
    """Return a copy in which numpy scalars that are keys of a dict are plain."""
    if isinstance(value, dict):
        return {_plain_key(key): _plain_keys(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_keys(item) for item in value]
    return value


def _plain_key(key: object) -> object:
    return key if isinstance(key, _ORDINARY) or getattr(key, "shape", None) != () else _plain_scalar(key)


# ---- NaN --------------------------------------------------------------------------------------------------


def _with_nan(raw: bytes, error: ValidationError) -> bytes | None:
    """Return the text with NaN for each null that stands where a float is wanted; None if more is wrong."""
    problems = error.errors(include_url=False)
    if any(each["type"] != "float_type" or each["input"] is not None for each in problems):
        return None
    root = [json.loads(raw)]
    for each in problems:
        if not _put_nan(root, (0, *each["loc"])):
            return None
    return json.dumps(root[0]).encode()


def _put_nan(root: Any, path: tuple[int | str, ...]) -> bool:
    """Put NaN at a path. False if the path leads elsewhere: a union's branch is part of it, and is no place."""
    holder = root
    try:
        for step in path[:-1]:
            holder = holder[step]
        if holder[path[-1]] is not None:
            return False
        holder[path[-1]] = float("nan")
    except (KeyError, IndexError, TypeError):
        return False
    return True
