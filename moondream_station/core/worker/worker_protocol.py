"""The frames between the station and a worker, and their encoding.

A frame is a JSON object behind its length: four bytes, big-endian, then that many bytes of UTF-8. Long texts
follow it as they are, so that an image is not written and read as JSON once more: `texts` in the object says
the length of each. Both sides use this file: the station imports it, `worker_main.py` loads it by path inside
a backend's environment. So it needs nothing but the standard library. docs/reference/worker-protocol.md
describes the frames themselves.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:  # every worker pays for what is imported here
    from collections.abc import Iterator, Mapping
    from typing import Any, Final

PROTOCOL_VERSION: Final = 3
MAX_FRAME_BYTES: Final = 64 << 20
STREAM_WINDOW: Final = 256
"""Chunks of one call that may be on their way before the station has asked for more."""

_LENGTH_BYTES: Final = 4
_SHORTEST = len(b"{}")


class ProtocolError(ValueError):
    """What arrived is not a frame."""


class FrameUnfit(ValueError):
    """A value can't be sent: it is not JSON, or too large."""


def encode_with(texts: Mapping[str, bytes], frame: Mapping[str, Any]) -> list[bytes]:
    """One frame with texts (UTF-8) behind it, as pieces that are sent one after the other."""
    if not texts:
        return [encode(frame)]
    sizes = {name: len(text) for name, text in texts.items()}
    _check_size(sum(sizes.values()))
    return [encode({**frame, "texts": sizes}), *texts.values()]


def encode(frame: Mapping[str, Any]) -> bytes:
    """One frame as bytes; `FrameUnfit` also for NaN and infinity, and past `MAX_FRAME_BYTES`."""
    try:
        text = json.dumps(frame, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise FrameUnfit(f"a value can't be written as JSON: {error}") from error
    # Lone surrogates are legal in JSON's strings and in Python's, and must survive.
    body = text.encode("utf-8", "surrogatepass")
    _check_size(len(body))
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


def _check_size(size: int) -> None:
    if size > MAX_FRAME_BYTES:
        raise FrameUnfit(f"the values take {size} bytes; at most {MAX_FRAME_BYTES} can be sent")


class FrameDecoder:
    """Cuts a stream of bytes into frames, however the bytes are split; those up to `after` are skipped."""

    def __init__(self, after: bytes = b"") -> None:
        self._after = after
        self._buffer = bytearray()
        self._head: dict[str, Any] | None = None

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """The frames that are complete with `data`; use them up before the next call.

        After a `ProtocolError` the decoder is of no further use.
        """
        self._buffer += data
        if self._after:
            _, found, rest = self._buffer.partition(self._after)
            if not found:
                del self._buffer[: -len(self._after)]
                return
            self._buffer, self._after = rest, b""
        while self._head is not None or len(self._buffer) >= _LENGTH_BYTES:
            if self._head is None:
                size = int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
                if not _SHORTEST <= size <= MAX_FRAME_BYTES:
                    raise ProtocolError(
                        f"a frame announces {size} bytes; 2 to {MAX_FRAME_BYTES} are possible"
                    )
                if len(self._buffer) < _LENGTH_BYTES + size:
                    return
                self._head = _decode(self._take(_LENGTH_BYTES + size)[_LENGTH_BYTES:])
            sizes = _sizes_of_texts(self._head)
            if len(self._buffer) < sum(sizes.values()):
                return
            frame, self._head = self._head, None
            if sizes:
                frame["texts"] = {name: self._take(size) for name, size in sizes.items()}
            yield frame

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


def _sizes_of_texts(head: dict[str, Any]) -> dict[str, int]:
    sizes: Any = head.get("texts", {})
    is_fit = isinstance(sizes, dict) and all(type(size) is int and size >= 0 for size in sizes.values())
    if not is_fit or sum(sizes.values()) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame announces texts of {str(sizes)[:100]} bytes")
    return dict(sizes)


def _decode(body: bytes) -> dict[str, Any]:
    try:
        frame = json.loads(body.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a frame does not hold JSON: {error}") from error
    if not isinstance(frame, dict):
        raise ProtocolError(f"a frame holds {type(frame).__name__}, not an object")
    return frame
