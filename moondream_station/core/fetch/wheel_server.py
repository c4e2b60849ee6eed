"""Wheels that are handed out while they arrive, so that they are unpacked meanwhile.

uv unpacks what it fetches while it fetches it, and on most lines that takes longer than fetching. The station
fetches by itself (resumed, hashed, in true bytes), so uv fetches from the station: over loopback, from a
server that sends of each wheel what has reached the disk, and waits for the rest.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, unquote

import anyio
import anyio.to_thread
from anyio.abc import Listener, SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from moondream_station.core.home.storage import open_file
from moondream_station.core.home.task_groups import as_raised

_HEAD_BYTES = 1 << 16
_PIECE_BYTES = 1 << 20
_GONE = (
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.IncompleteRead,
    anyio.DelimiterNotFound,
    anyio.EndOfStream,
)


class Arrival:
    """How much of one wheel is on disk so far."""

    def __init__(self, size_bytes: int, *places: Path) -> None:
        self.size_bytes = size_bytes
        self.is_spoilt = False
        self._here = 0
        self._places = places
        self._news = anyio.Event()

    def grew(self, received_bytes: int) -> None:
        """So much of it is on disk now."""
        self._here = received_bytes
        self._tell()

    def spoil(self) -> None:
        """What was handed out of it is worth nothing: it starts again."""
        self.is_spoilt = True
        self._tell()

    async def beyond(self, offset: int) -> int:
        """How much of it may be read, once that is more than `offset`; 0 where it was spoilt."""
        while self._here <= offset and not self.is_spoilt:
            await self._news.wait()
        return 0 if self.is_spoilt else self._here

    def open(self) -> BinaryIO:
        """The file, under whichever of its two names it has: the partial one until it is finished."""
        partial_file, finished = self._places
        try:
            return open_file(partial_file)
        except FileNotFoundError:
            return open_file(finished)

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()


class Arrivals:
    """The wheels of one download that are on their way, and those that are here already."""

    def __init__(self) -> None:
        self.finished: Mapping[str, Path] = {}
        self._arrivals: dict[str, Arrival] = {}
        self._known = anyio.Event()

    def expect(self, finished: Mapping[str, Path], arrivals: Mapping[str, Arrival]) -> None:
        """Note what is here and what is to come, by file name; only the first time counts."""
        if not self._known.is_set():
            self.finished = finished
            self._arrivals = dict(arrivals)
            self._known.set()

    async def known(self) -> None:
        """Wait until that is known."""
        await self._known.wait()

    def of(self, filename: str) -> Arrival:
        """The wheel of this name; one that nobody reads, where it is not among them."""
        return self._arrivals.get(filename) or Arrival(0)

    def covers(self, filenames: Iterable[str]) -> bool:
        """Whether each of these wheels is here or on its way, and one at least is."""
        known = {*self.finished, *self._arrivals}
        return bool(self._arrivals) and all(name in known for name in filenames)

    @asynccontextmanager
    async def served(self) -> AsyncIterator[Mapping[str, str]]:
        """Hand them out for as long as the context lasts, at the URLs that are given by file name.

        On loopback, and below a path that nobody can guess: wheels of a private index are not everybody's.
        """
        token = secrets.token_urlsafe(24)
        paths = {f"/{token}/{name}": arrival for name, arrival in self._arrivals.items()}
        async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as listener:
            port = listener.extra(SocketAttribute.local_port)  # noqa: S610  no Django here
            with as_raised():
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_accept, listener, paths)
                    yield {name: f"http://127.0.0.1:{port}/{token}/{quote(name)}" for name in self._arrivals}
                    tasks.cancel_scope.cancel()


async def _accept(listener: Listener[SocketStream], paths: Mapping[str, Arrival]) -> None:
    await listener.serve(partial(_serve, paths=paths))


async def _serve(stream: SocketStream, paths: Mapping[str, Arrival]) -> None:
    """Answer the requests of one connection."""
    with suppress(*_GONE):
        async with stream:
            reader = BufferedByteReceiveStream(stream)
            while True:
                head = await reader.receive_until(b"\r\n\r\n", _HEAD_BYTES)
                method, target, *_ = [*head.decode("latin-1").split(maxsplit=2), "", ""]
                arrival = paths.get(unquote(target))
                if arrival is None or arrival.is_spoilt:
                    await stream.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                    continue
                await stream.send(f"HTTP/1.1 200 OK\r\nContent-Length: {arrival.size_bytes}\r\n\r\n".encode())
                if method == "GET" and not await _send(arrival, stream):
                    return  # in the middle of the answer: the connection's end says that it is none


async def _send(arrival: Arrival, stream: SocketStream) -> bool:
    """Send a wheel as it arrives, to its end; False where it was spoilt before."""
    offset = 0
    await arrival.beyond(offset)
    try:
        file = await anyio.to_thread.run_sync(arrival.open)
        with file:
            while offset < arrival.size_bytes:
                available = await arrival.beyond(offset)
                piece = await anyio.to_thread.run_sync(
                    _read, file, offset, min(available - offset, _PIECE_BYTES)
                )
                if not piece:
                    return False
                await stream.send(piece)
                offset += len(piece)
    except OSError:
        return False
    return True


def _read(file: BinaryIO, offset: int, size_bytes: int) -> bytes:
    file.seek(offset)
    return file.read(max(0, size_bytes))
