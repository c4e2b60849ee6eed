"""Frames: what goes in comes out, however it is cut, and nothing else is taken for one."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moondream_station.core.worker.worker_protocol import (
    MAX_FRAME_BYTES,
    FrameDecoder,
    FrameUnfit,
    ProtocolError,
    encode,
    encode_with,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
FRAMES = st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=5)


@given(frames=FRAMES, cuts=st.lists(st.integers(1, 40), max_size=30))
def test_frames_survive_however_they_are_cut(frames: list[dict[str, Any]], cuts: list[int]) -> None:
    """The same frames come out in order, whatever pieces the pipe gives."""
    data = b"".join(map(encode, frames))
    decoder = FrameDecoder()
    found = []
    for cut in [*cuts, len(data)]:
        found += list(decoder.feed(data[:cut]))
        data = data[cut:]
    found += list(decoder.feed(data))
    assert found == frames
    assert list(decoder.feed(encode({"next": 1}))) == [{"next": 1}]  # nothing was left before it


@given(texts=st.dictionaries(st.text(), st.binary(max_size=40), max_size=3), cut=st.integers(1, 40))
def test_texts_follow_a_frame_as_they_are(texts: dict[str, bytes], cut: int) -> None:
    """Whatever bytes they have, and whatever pieces the pipe gives; the next frame begins behind them."""
    data = b"".join(encode_with(texts, {"id": 1})) + encode({"id": 2})
    decoder = FrameDecoder()
    frames = [
        frame for start in range(0, len(data), cut) for frame in decoder.feed(data[start : start + cut])
    ]
    assert frames == [{"id": 1, **({"texts": texts} if texts else {})}, {"id": 2}]


@given(before=st.binary(max_size=80), cut=st.integers(1, 40))
def test_what_comes_before_the_greeting_is_skipped(before: bytes, cut: int) -> None:
    """However much it is, and wherever the pipe cuts it."""
    data = before + b"a greeting that is not in it" + encode({"id": 1})
    decoder = FrameDecoder(after=b"a greeting that is not in it")
    pieces = (data[start : start + cut] for start in range(0, len(data), cut))
    assert [frame for piece in pieces for frame in decoder.feed(piece)] == [{"id": 1}]


@pytest.mark.parametrize("sizes", [{"a": -1}, {"a": "1"}, {"a": True}, {"a": 1 << 40}, [1], 1])
def test_texts_of_no_possible_size_are_refused(sizes: object) -> None:
    """Nothing is waited for that can't come."""
    with pytest.raises(ProtocolError, match="announces texts"):
        list(FrameDecoder().feed(encode({"texts": sizes})))


@given(st.binary(max_size=200))
@example(b"Traceback (most recent call last):\n")
@example(b"\x00\x00\x00\x02[]")
@example(b"\x00\x00\x00\x02\xff\xff")
@example(b"\x00\x00\x00\x00")
def test_rubbish_is_refused_or_waited_on_but_never_accepted_silently(data: bytes) -> None:
    """Bytes are frames, an error, or the beginning of something: no other exception comes out."""
    decoder = FrameDecoder()
    try:
        frames = list(decoder.feed(data))
    except ProtocolError:
        return
    assert all(isinstance(frame, dict) for frame in frames)


def test_text_on_the_pipe_is_no_frame() -> None:
    """Printed text announces a size that no frame may have."""
    with pytest.raises(ProtocolError, match="announces"):
        list(FrameDecoder().feed(b"Loading checkpoint shards: 100%"))


def test_deeply_nested_json_is_refused() -> None:
    """Depth that exhausts the stack is a protocol error, not a crash."""
    body = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(ProtocolError):
        list(FrameDecoder().feed(len(body).to_bytes(4, "big") + body))


@pytest.mark.parametrize("value", [math.nan, math.inf, b"bytes", {1, 2}, object()])
def test_what_is_no_json_is_not_encoded(value: object) -> None:
    """NaN and infinity are no JSON either: other programs could not read them."""
    with pytest.raises(FrameUnfit, match="JSON"):
        encode({"value": value})


def test_too_large_a_frame_is_not_encoded() -> None:
    """The limit holds on both sides."""
    with pytest.raises(FrameUnfit, match=str(MAX_FRAME_BYTES)):
        encode({"value": "x" * MAX_FRAME_BYTES})
    with pytest.raises(FrameUnfit, match=str(MAX_FRAME_BYTES + 1)):
        encode_with({"a": bytes(MAX_FRAME_BYTES), "b": b"1"}, {})
