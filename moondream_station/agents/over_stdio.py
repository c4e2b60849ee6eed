"""The MCP server on stdin and stdout."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any, Final, cast

from mcp.server.stdio import stdio_server

from moondream_station.agents.server import AgentServer

_READ_BYTES: Final = 1 << 16


async def serve_over_stdio(agents: AgentServer) -> None:
    """Answer one agent until it closes stdin. What others print to stdout meanwhile goes to stderr."""
    async with stdio_server(stdin=cast("Any", _Lines())) as (received, sent):
        await agents.server.run(received, sent, agents.server.create_initialization_options())


class _Lines:
    """The lines of stdin, read by a thread that nobody waits for: a signal must end the command at once.

    The SDK's own reader, a thread of anyio's, is waited for, and blocks until the agent sends something.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def __aiter__(self) -> _Lines:
        return self

    async def __anext__(self) -> str:
        """The next line."""
        line = await self._lines.get()
        if line is None:
            raise StopAsyncIteration
        return line

    def _read(self) -> None:
        rest = bytearray()
        try:
            while data := os.read(0, _READ_BYTES):
                *lines, last = data.split(b"\n")
                for line in lines:
                    self._give((bytes(rest) + line).decode("utf-8", "replace"))
                    rest.clear()
                rest += last
        except (OSError, RuntimeError):  # RuntimeError: the loop has ended
            return
        self._give(None)

    def _give(self, line: str | None) -> None:
        self._loop.call_soon_threadsafe(self._lines.put_nowait, line)
