"""A server on loopback, in front of a fake station, and sockets to speak to it byte by byte."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import anyio
from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream

from moondream_station.agents.folders import Folders
from moondream_station.agents.over_http import OverHttp
from moondream_station.http.app import create_app
from moondream_station.http.connection import Patience
from moondream_station.http.guard import Access
from moondream_station.http.server import Listeners, listen, serve
from support.station_api import FakeStation

TOKEN = "0123456789abcdef"  # noqa: S105  a secret of nobody
PATIENCE_SECONDS = 20


@dataclass
class Reply:
    """An answer as it came over the line."""

    status: int
    headers: dict[str, str]
    body: bytes


class Line:
    """A connection, read line by line."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self._received = BufferedByteReceiveStream(stream)

    async def send(self, text: str | bytes) -> None:
        """Send bytes, or text with line ends as HTTP has them."""
        await self.stream.send(text if isinstance(text, bytes) else text.replace("\n", "\r\n").encode())

    async def read_line(self) -> str:
        """The next line without its end."""
        return (await self._received.receive_until(b"\n", 1 << 26)).decode().rstrip("\r")

    async def read_reply(self) -> Reply:
        """The next answer, its body by its announced length."""
        status, headers = await self.read_head()
        body = await self._received.receive_exactly(int(headers.get("content-length", "0")))
        return Reply(status, headers, body)

    async def read_head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next answer."""
        status = int((await self.read_line()).split()[1])
        headers: dict[str, str] = {}
        while line := await self.read_line():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return status, headers


@dataclass
class Served:
    """A server that runs."""

    station: FakeStation
    listeners: Listeners
    stopping: anyio.Event = field(default_factory=anyio.Event)

    @property
    def url(self) -> str:
        """Its base URL."""
        return self.listeners.url

    @property
    def port(self) -> int:
        """Its port."""
        return self.listeners.port

    @asynccontextmanager
    async def line(self) -> AsyncIterator[Line]:
        """A connection to it."""
        async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
            yield Line(stream)

    async def exchange(self, request: str) -> Reply:
        """Send a request as it stands, with `HOST` for the server's own, and read the answer."""
        async with self.line() as line:
            await line.send(request.replace("HOST", f"127.0.0.1:{self.port}"))
            return await line.read_reply()


@asynccontextmanager
async def serving(
    station: FakeStation,
    *,
    port: int = 0,
    bound: str | None = None,
    allowed: tuple[str, ...] = (),
    comment_seconds: float = 15.0,
    patience: Patience = Patience(),  # noqa: B008  it can't be changed
    agents: Folders | None = None,
) -> AsyncIterator[Served]:
    """Serve a station for as long as the block runs.

    Args:
        station: Whom to serve.
        port: Where; any free port by default.
        bound: The address that the rules take for the bound one; the real one where it is None.
        allowed: Further names to answer for.
        comment_seconds: How often an event stream shows a sign of life.
        patience: How long its clients may keep it waiting.
        agents: Which files agents may name; without it, there is no MCP.
    """
    served = Served(station, listen("127.0.0.1", port, explicit=True))
    hosts = served.listeners.hosts if bound is None else (bound,)
    mcp = None if agents is None else OverHttp(station, agents)
    app = create_app(
        station,
        access=Access.of(bound=hosts, allowed=allowed, token=TOKEN),
        mcp=mcp,
        comment_seconds=comment_seconds,
    )
    with anyio.fail_after(PATIENCE_SECONDS):
        async with anyio.create_task_group() as tasks:
            await tasks.start(
                partial(serve, app, served.listeners, stopping=served.stopping, patience=patience)
            )
            if mcp is not None:
                tasks.start_soon(mcp.run)
            yield served
            served.stopping.set()
            if mcp is not None:
                tasks.cancel_scope.cancel()
