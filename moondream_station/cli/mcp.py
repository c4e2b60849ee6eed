"""`mcp`: the active model's functions for an agent, on stdin and stdout."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio

from moondream_station.agents.folders import Folders
from moondream_station.agents.over_http import check_extra
from moondream_station.cli.ask import active_model, station_for
from moondream_station.console.interrupts import DONE, run_loop
from moondream_station.console.logging import begin
from moondream_station.console.output import print_progress
from moondream_station.core.facts.errors import StationError, StationUnreachable
from moondream_station.core.home.layout import Home
from moondream_station.core.home.locks import read_station
from moondream_station.core.home.settings import Settings
from moondream_station.core.home.task_groups import accompanied, as_raised
from moondream_station.http.client import StationClient

T = TypeVar("T")

_STATION_SECONDS: Final = 20.0
"""How long a call waits for a station, where the one that it knew has gone."""
_PAUSE_SECONDS: Final = 0.5
_CHANGES: Final = frozenset({"Snapshot", "ActivationSucceeded", "WorkerStarted"})


def run_mcp(*, folders: Sequence[Path] | None, as_json: bool) -> int:  # noqa: ARG001  stdout is the protocol's
    """Serve an agent until it closes stdin; returns the exit code."""
    check_extra()
    home, settings = begin()
    named = Folders.of(folders or ())
    if read_station(home) is None:
        active_model(home)
    if sys.stdin.isatty():
        print_progress("This is for an agent, which speaks MCP on stdin. Ctrl-C ends it.")
    with as_raised():
        return run_loop(_serve, _Stations(home, settings), named)


async def _serve(stations: _Stations, folders: Folders) -> int:
    from moondream_station.agents.over_stdio import serve_over_stdio  # noqa: PLC0415  with the SDK: a second
    from moondream_station.agents.server import AgentServer  # noqa: PLC0415

    agents = AgentServer(stations, folders)
    await accompanied(partial(serve_over_stdio, agents), by=agents.follow)
    return DONE


class _Stations:
    """The station that serves, whichever that is: an agent's session outlives a restart of it."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self._home = home
        self._settings = settings
        self._client: StationClient | None = None

    async def describe(self) -> Mapping[str, Any]:
        """The station's document."""
        return await self._with_client(lambda client: client.openapi())

    async def ask(self, function: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """A function's answer, whole."""
        return await self._with_client(lambda client: client.call(function, arguments))

    async def follow(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Keep a station, another one where it has gone; call `changed` when its functions may be others."""
        was_served, last = False, ""
        while True:
            try:
                async with (
                    station_for(self._home, self._settings, None) as record,
                    StationClient(record.address, token=record.token) as client,
                    client.follow() as messages,
                ):
                    was_served = True
                    self._client = client
                    async for message in messages:
                        if message["event"] in _CHANGES:
                            await changed()
            except StationUnreachable:
                pass  # another command's station has just ended
            except StationError as error:
                if not was_served:
                    raise
                if error.message != last:
                    print_progress(error.message)
                last = error.message
            finally:
                self._client = None
            await anyio.sleep(_PAUSE_SECONDS)

    async def _with_client(self, work: Callable[[StationClient], Awaitable[T]]) -> T:
        """Work with the station; where it has just gone, with the next one."""
        patience = _STATION_SECONDS
        while True:
            failure = StationUnreachable("No station serves.", hint="`moondream-station serve` starts one.")
            try:
                if self._client is not None:
                    return await work(self._client)
            except StationUnreachable as error:
                failure = error
            if patience <= 0:
                raise failure
            await anyio.sleep(_PAUSE_SECONDS)
            patience -= _PAUSE_SECONDS
