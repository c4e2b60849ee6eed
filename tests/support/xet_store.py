"""Hugging Face's Xet storage on loopback, as much as its client asks for to download a file.

https://huggingface.co/docs/xet: a file is a list of terms, each a range of chunks in a xorb, which is fetched
by ranges of bytes, with a header before each chunk.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from typing import Any, Self

from support.index_server import IndexServer
from support.index_traffic import Resource

TOKEN = "xet-token"  # noqa: S105  nobody's
_CHUNK_BYTES = 1 << 16
_XORB_CHUNKS = 16


class XetStore:
    """Keeps contents by their hash, and gives them in chunks. It is a context.

    Attributes:
        server: Its server, which the hub sends clients to; faults and requests are there.
    """

    def __init__(self) -> None:
        self.server = IndexServer(self._resolve)
        self._files: dict[str, list[tuple[str, bytes]]] = {}
        self._xorbs: dict[str, bytes] = {}

    def __enter__(self) -> Self:
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()

    def keep(self, content: bytes) -> str:
        """Take a file in; gives the hash that it is asked for by, which the client does not check."""
        name = hashlib.sha256(content + b"xet").hexdigest()
        if name not in self._files:
            size = _CHUNK_BYTES * _XORB_CHUNKS
            parts = [content[start : start + size] for start in range(0, len(content), size)]
            self._files[name] = [(hashlib.sha256(part).hexdigest(), part) for part in parts]
            self._xorbs |= {xorb: _framed(part) for xorb, part in self._files[name]}
        return name

    def path(self, content: bytes, position: int) -> str:
        """Where the xorb is that has a byte of a file."""
        return f"/xorbs/{self._files[self.keep(content)][position // (_CHUNK_BYTES * _XORB_CHUNKS)][0]}"

    def sent_bytes(self) -> int:
        """How much of xorbs was sent, with the chunks' headers."""
        return sum(request.bytes_sent for request in self.server.requests if "/xorbs/" in request.path)

    def _resolve(self, path: str, _: str) -> Resource | int:
        if (asked := re.fullmatch("/(v[12])/reconstructions/([0-9a-f]{64})", path)) and asked[
            2
        ] in self._files:
            content = json.dumps(self._reconstruction(asked[1], asked[2])).encode()
            return Resource(content=content, content_type="application/json")
        if (asked := re.fullmatch("/xorbs/([0-9a-f]{64})", path)) and asked[1] in self._xorbs:
            return Resource(
                content=self._xorbs[asked[1]], content_type="application/octet-stream", ranges=True
            )
        return 404

    def _reconstruction(self, version: str, name: str) -> dict[str, Any]:
        """Where the file's chunks are: each xorb whole. Its last byte counts, its last chunk does not."""
        terms: list[dict[str, Any]] = []
        urls: dict[str, list[dict[str, Any]]] = {}
        for xorb, part in self._files[name]:
            chunks = {"start": 0, "end": -(-len(part) // _CHUNK_BYTES)}
            span = {"start": 0, "end": len(self._xorbs[xorb]) - 1}
            url = f"{self.server.address}/xorbs/{xorb}"
            terms.append({"hash": xorb, "unpacked_length": len(part), "range": chunks})
            if version == "v1":
                urls[xorb] = [{"range": chunks, "url": url, "url_range": span}]
            else:
                urls[xorb] = [{"url": url, "ranges": [{"chunks": chunks, "bytes": span}]}]
        places = "fetch_info" if version == "v1" else "xorbs"
        return {"offset_into_first_range": 0, "terms": terms, places: urls}


def _framed(part: bytes) -> bytes:
    """Chunks as a xorb has them: version 0, stored size (3 bytes), scheme 0 (as it is), size (3 bytes)."""
    chunks = (part[start : start + _CHUNK_BYTES] for start in range(0, len(part), _CHUNK_BYTES))
    return b"".join(struct.pack("<II", len(chunk) << 8, len(chunk) << 8) + chunk for chunk in chunks)
