"""`linux.frames`: whatever the kernel cuts the stream into, the same frames come out; nothing too large is buffered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heavyq.errors import ProtocolError
from heavyq.linux.frames import HEAD_MAX, FrameReader, pack, pack_parts

HEADS = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=20) | st.none(), max_size=4)
FRAMES = st.lists(st.tuples(st.sampled_from([b"a", b"Z"]), HEADS, st.binary(max_size=200)), max_size=10)


@given(FRAMES, st.lists(st.integers(1, 50), max_size=50))
def test_frames_survive_any_cutting(frames, cuts):
    stream = b"".join(pack(kind, head, body) for kind, head, body in frames)
    reader, got = FrameReader(), []
    for size in cuts:
        got += reader.feed(stream[:size])
        stream = stream[size:]
    got += reader.feed(stream)
    assert [(f.kind, dict(f.head), f.body) for f in got] == frames


def test_half_a_frame_is_no_frame():
    reader = FrameReader()
    whole = pack(b"r", {"run": 1}, b"result")
    assert reader.feed(whole[:-1]) == []
    assert len(reader.feed(whole[-1:])) == 1


def test_parts_come_apart_as_they_went_in():
    (frame,) = FrameReader().feed(b"".join(pack_parts(b"J", {"id": "1"}, [b"", b"ab", b"\x00"])))
    assert frame.parts() == [b"", b"ab", b"\x00"]


def test_body_over_the_limit_is_refused_before_it_is_read():
    with pytest.raises(ProtocolError):
        list(FrameReader(body_max=10).feed(pack(b"r", None, b"x" * 11)[:9]))


@pytest.mark.parametrize("head", [b"[1]", b"{", b"\xff"])
def test_head_that_is_no_json_object_is_refused(head):
    raw = b"r" + len(head).to_bytes(4, "big") + (0).to_bytes(4, "big") + head
    with pytest.raises(ProtocolError):
        list(FrameReader().feed(raw))


def test_head_over_the_limit_is_refused():
    with pytest.raises(ProtocolError):
        list(FrameReader().feed(b"r" + (HEAD_MAX + 1).to_bytes(4, "big") + (0).to_bytes(4, "big")))
