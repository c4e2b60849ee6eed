"""`/mcp` of a serving station. The SDK takes a second to import: it is, when an agent first asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread
from starlette.types import ASGIApp, Receive, Scope, Send

from moondream_station.agents.folders import Folders
from moondream_station.core.facts.errors import BackendError, ExtraMissing, SubscriberOverflowed
from moondream_station.core.facts.events import ActivationSucceeded, WorkerStarted
from moondream_station.http.api import StationApi
from moondream_station.http.connection import attend
from moondream_station.http.guard import MAX_BODY_BYTES

if TYPE_CHECKING:
    from moondream_station.agents.server import AgentServer

_SDK: Final = (2, 3)


def check_extra() -> None:
    """Raise `ExtraMissing` where the SDK is not installed, or is too old."""
    try:
        found = metadata.version("mcp")
    except metadata.PackageNotFoundError:
        found = None
    if found is None or tuple(map(int, found.split(".")[:2])) < _SDK:
        state = f"{found} is" if found else "is not"
        raise ExtraMissing(
            f"MCP needs the package mcp from {'.'.join(map(str, _SDK))} on, which {state} installed.",
            hint="Install it: `pip install 'moondream-station[mcp]'`, or "
            "`uv tool install 'moondream-station[mcp]'`.",
        )


class OverHttp:
    """The application of `/mcp`; `run` must run for as long as it is asked."""

    def __init__(self, station: StationApi, folders: Folders) -> None:
        self._station = station
        self._folders = folders
        self._asked = anyio.Event()
        self._ready = anyio.Event()
        self._app: ASGIApp | None = None
        self._agents: AgentServer | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request.

        The SDK itself hears of clients that leave: a session that it has begun must not be ended with the
        request that began it.
        """
        self._asked.set()
        await attend(self._ready.wait, scope)
        assert self._app is not None  # noqa: S101  that is what ready means
        await self._app(scope, receive, send)

    async def stop(self) -> None:
        """The station stops: answer the agents that wait."""
        if self._agents is not None:
            await self._agents.stop()

    async def run(self) -> None:
        """Serve once somebody has asked."""
        await self._asked.wait()
        await anyio.to_thread.run_sync(_import)
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager  # noqa: PLC0415  see above

        from moondream_station.agents.server import AgentServer  # noqa: PLC0415

        agents = self._agents = AgentServer(_Served(self._station), self._folders)
        manager = StreamableHTTPSessionManager(agents.server, max_request_body_size=MAX_BODY_BYTES)
        async with manager.run():
            self._app = manager.handle_request
            self._ready.set()
            await agents.follow()


def _import() -> None:
    import mcp.server.streamable_http_manager  # noqa: F401, PLC0415

    import moondream_station.agents.server  # noqa: F401, PLC0415


class _Served:
    """The active model of this station."""

    def __init__(self, station: StationApi) -> None:
        self._station = station

    async def describe(self) -> Mapping[str, Any]:
        """The station's document."""
        from moondream_station.http.openapi import document  # noqa: PLC0415  as slow as the SDK

        return await anyio.to_thread.run_sync(lambda: document(self._station.signatures()))

    async def ask(self, function: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """A function's answer, whole."""
        async with self._station.call(function, arguments, timeout_seconds=None, client="agents") as answer:
            if isinstance(answer, Mapping):
                if answer.get("error"):
                    raise BackendError(f"{answer['error']}")
                return answer
            return {**answer.rest, "text": "".join([str(piece) async for piece in answer])}

    async def follow(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Call `changed` at first, after each switch, and when a worker has started."""
        has_overflowed = True
        while has_overflowed:
            has_overflowed = False
            try:
                async with self._station.subscribe() as feed:
                    await changed()
                    async for event in feed:
                        if isinstance(event.fact, ActivationSucceeded | WorkerStarted):
                            await changed()
            except SubscriberOverflowed:
                has_overflowed = True
