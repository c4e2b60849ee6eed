"""Small images, made without a library."""

from __future__ import annotations

import struct
import zlib
from typing import TypeAlias

Rectangle: TypeAlias = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels, the last two exclusive."""


def png_of(width: int, height: int, red: Rectangle, blue: Rectangle = (0, 0, 0, 0)) -> bytes:
    """A white PNG with a red rectangle, and a blue one where it is asked for."""
    rows = []
    for y in range(height):
        pixels = (_colour_at(x, y, red, blue) for x in range(width))
        rows.append(b"\0" + b"".join(pixels))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (("IHDR", header), ("IDAT", zlib.compress(b"".join(rows))), ("IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name.encode(), data) for name, data in parts)


def _colour_at(x: int, y: int, red: Rectangle, blue: Rectangle) -> bytes:
    for (left, top, right, bottom), colour in ((red, b"\xff\0\0"), (blue, b"\0\0\xff")):
        if left <= x < right and top <= y < bottom:
            return colour
    return b"\xff" * 3


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
