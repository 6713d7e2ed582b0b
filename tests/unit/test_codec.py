"""Payloads and results: what is written, what is read, what is refused and in which words."""

from __future__ import annotations

import enum
import json
import math
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, TypeAdapter
from typing_extensions import TypedDict

from heavyq.errors import BadValue, PayloadError
from heavyq.queue.model import Model
from heavyq.queue.typed import Types, to_json

np = pytest.importorskip("numpy")


class Video(Model):
    video_id: str
    max_size: int = 720


class Scores(Model):
    loss: float
    per_class: list[float] = Field(default_factory=list)
    note: str | None = None


def payload(kind: Any):
    return Types.of("queue 'q'", kind, None).payload


def result(kind: Any):
    return Types.of("queue 'q'", None, kind).result


def test_a_model_is_written_by_alias_and_read_by_alias_or_by_name():
    codec = payload(Video)
    assert json.loads(codec.encode(Video(video_id="v1"))) == {"videoId": "v1", "maxSize": 720}
    assert codec.decode(b'{"videoId": "v1"}') == Video(video_id="v1")
    assert codec.decode(b'{"video_id": "v1"}') == Video(video_id="v1")


def test_models_with_aliases_of_their_own_are_read_by_name_too():
    class Plain(BaseModel):
        n: int = Field(alias="number")

    codec = payload(Plain)
    assert codec.encode({"n": 1}) == codec.encode({"number": 1}) == b'{"number":1}'
    assert codec.decode(b'{"n":1}') == codec.decode(b'{"number":1}')


def test_a_dict_that_fits_is_taken_for_a_model():
    assert json.loads(payload(Video).encode({"video_id": "v1"})) == {"videoId": "v1", "maxSize": 720}


@dataclass
class Point:
    x_m: float
    at: datetime


class Row(TypedDict):
    name: str


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Point, Point(1.5, datetime(2025, 1, 2, tzinfo=UTC))),
        (Row, {"name": "x"}),
        (list[int], [1, 2]),
        (TypeAdapter(int | str), "text"),
        (TypeAdapter(int | str), 7),
        (Any, None),
        (Any, [1, {"a": 'q"uote é \u2028'}]),
        (None, {"a": [1.5, None, True, "é"]}),
        (Colour, Colour.RED),
        (uuid.UUID, uuid.uuid4()),
        (Annotated[int, Field(gt=0)], 3),
        (None, {"big": 2**70}),
    ],
)
def test_values_of_every_kind_come_back_as_they_were(kind, value):
    codec = payload(kind)
    assert codec.decode(codec.encode(value)) == value


def test_a_payload_without_a_type_is_an_object():
    codec = payload(None)
    with pytest.raises(PayloadError, match="payload of queue 'q' does not fit dict"):
        codec.encode("welcome")
    with pytest.raises(PayloadError, match="dict"):
        codec.decode(b"[1]")
    with pytest.raises(PayloadError, match="dict"):
        codec.decode(b"null")


@pytest.mark.parametrize("raw", [b"{", b"", b"\xff", b"'a'", b'{"videoId": "v1"} x'])
def test_what_is_no_json_is_refused(raw):
    with pytest.raises(PayloadError, match="JSON"):
        payload(Video).decode(raw)


def test_an_error_names_the_field_in_python_and_on_the_wire():
    with pytest.raises(PayloadError) as caught:
        payload(Video).decode(b'{"maxSize": "x"}')
    text = str(caught.value)
    assert text.startswith(
        "the payload of queue 'q' does not fit Video: video_id (videoId on the wire): Field required"
    )
    assert "max_size (maxSize on the wire): Input should be a valid integer" in text
    assert "\n" not in text


def test_an_error_names_a_nested_field_and_counts_those_it_does_not_name():
    class Outer(BaseModel):
        inner: list[Video]

    with pytest.raises(PayloadError, match=r"inner\.1\.videoId: Field required$"):
        payload(Outer).decode(b'{"inner": [{"videoId": "a"}, {}]}')
    with pytest.raises(PayloadError, match=r"\(and 2 more\)$"):
        payload(Outer).decode(b'{"inner": [{}, {}, {}, {}, {}]}')


def test_a_model_that_was_spoilt_after_it_was_made_is_refused_before_it_is_sent():
    spoilt = Video.model_construct(video_id=5)
    with pytest.raises(PayloadError, match="video_id"):
        payload(Video).encode(spoilt)
    with pytest.raises(ValueError, match="result of queue 'q'"):
        result(Video).encode(spoilt)


# ---- strict JSON ----


def strict(raw: bytes) -> Any:
    def refuse(name: str) -> Any:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(raw, parse_constant=refuse)


def test_nan_and_infinity_become_null():
    value = {"a": math.nan, "b": [math.inf, -math.inf], "c": np.float32("nan"), "d": np.float64("inf")}
    expected = {"a": None, "b": [None, None], "c": None, "d": None}
    assert strict(payload(None).encode(value)) == expected
    assert strict(result(None).encode(value)) == expected
    assert strict(to_json(value)) == expected
    assert strict(payload(Scores).encode(Scores(loss=math.nan)))["loss"] is None


def test_a_float_that_was_nan_is_nan_again():
    for codec in (payload(Scores), result(Scores)):
        back = codec.decode(codec.encode(Scores(loss=math.nan, per_class=[0.5, math.inf])))
        assert math.isnan(back.loss)
        assert back.per_class[0] == 0.5
        assert math.isnan(back.per_class[1])
        assert back.note is None


def test_null_is_nan_only_where_nothing_else_is_wrong():
    with pytest.raises(PayloadError, match="per_class"):
        payload(Scores).decode(b'{"loss": null, "perClass": 5}')
    with pytest.raises(PayloadError, match="video_id"):
        payload(Video).decode(b'{"videoId": null}')
    finite = Annotated[float, Field(allow_inf_nan=False)]
    with pytest.raises(PayloadError, match="finite"):
        payload(finite).decode(b"null")


@pytest.mark.parametrize(
    ("scalar", "expected"),
    [
        (np.float32(1.5), 1.5),
        (np.float64(2.5), 2.5),
        (np.longdouble(0.5), 0.5),
        (np.float16(0.25), 0.25),
        (np.int64(-3), -3),
        (np.uint8(200), 200),
        (np.bool_(True), True),
        (np.str_("é"), "é"),
    ],
)
def test_numpy_scalars_become_numbers(scalar, expected):
    for raw in (
        to_json({"a": [scalar]}),
        payload(None).encode({"a": [scalar]}),
        result(None).encode({"a": [scalar]}),
        result(dict[str, list[Any]]).encode({"a": [scalar]}),
    ):
        assert strict(raw) == {"a": [expected]}


def test_numpy_scalars_fit_where_their_numbers_fit():
    assert strict(result(Scores).encode({"loss": np.float32(0.5), "perClass": [np.int64(1)]})) == {
        "loss": 0.5,
        "perClass": [1],
        "note": None,
    }


def test_numpy_keys_become_text():
    assert strict(to_json({np.int64(3): {"n": np.int64(1)}})) == {"3": {"n": 1}}


@pytest.mark.parametrize("value", [np.array([1, 2]), object(), {"a": object()}, "\ud800"])
def test_what_json_cannot_hold_is_refused_in_one_line(value):
    for write in (to_json, result(None).encode, payload(Any).encode):
        with pytest.raises((ValueError, PayloadError)) as caught:
            write(value)
        assert "\n" not in str(caught.value)


def test_a_value_that_contains_itself_is_refused():
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="Circular"):
        to_json(loop)
    with pytest.raises(ValueError, match=r"[Cc]ircular|recursion"):
        result(None).encode(loop)


def test_a_result_that_does_not_fit_names_the_field():
    with pytest.raises(ValueError, match=r"result of queue 'q' does not fit Video: video_id .*Field required"):
        result(Video).encode({})
    with pytest.raises(ValueError, match="Video"):
        result(Video).encode(None)


# ---- types ----


def test_a_type_that_pydantic_does_not_take_is_refused_when_it_is_declared():
    class Strange:
        pass

    with pytest.raises(BadValue, match="Strange is no type that pydantic takes"):
        Types.of("queue 'q'", Strange, None).check()


def test_a_type_that_names_a_later_one_passes():
    Types.of("queue 'q'", list["Later"], None).check()  # type: ignore[name-defined]  # noqa: F821
