"""Small images, made without a library."""

from __future__ import annotations

import struct
import zlib


def png_of(width: int, height: int, red: tuple[int, int, int, int]) -> bytes:
    """A white PNG with a red rectangle: left, top, right and bottom, in pixels, the last two exclusive."""
    left, top, right, bottom = red
    rows = []
    for y in range(height):
        pixels = (
            b"\xff\0\0" if left <= x < right and top <= y < bottom else b"\xff" * 3 for x in range(width)
        )
        rows.append(b"\0" + b"".join(pixels))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (("IHDR", header), ("IDAT", zlib.compress(b"".join(rows))), ("IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name.encode(), data) for name, data in parts)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
