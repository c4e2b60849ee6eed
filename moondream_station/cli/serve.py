"""`serve`: the station over HTTP, until a signal ends it."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread

from moondream_station.agents.folders import Folders
from moondream_station.agents.over_http import OverHttp, check_extra
from moondream_station.console.interrupts import DONE, cancel_on_signal, ignore_signals, run_loop
from moondream_station.console.logging import begin
from moondream_station.console.output import print_text, write_line
from moondream_station.core.activation.models import check_model
from moondream_station.core.builds.naming import check_strategy
from moondream_station.core.facts.errors import (
    NothingToCancel,
    OutputUnwritable,
    SettingsInvalid,
    StationRunning,
)
from moondream_station.core.facts.events import CancelReason
from moondream_station.core.facts.state import StationInfo
from moondream_station.core.facts.version import VERSION
from moondream_station.core.home.layout import Home
from moondream_station.core.home.locks import announce_station, read_station, serve_lock
from moondream_station.core.home.settings import Settings
from moondream_station.core.station import Station, open_station
from moondream_station.http.app import create_app
from moondream_station.http.guard import Access
from moondream_station.http.metrics.access_log import logged
from moondream_station.http.server import listen
from moondream_station.http.server import serve as answer_requests

_FAREWELL_SECONDS = 2.0
_ANNOUNCE_SECONDS = 3.0
"""How long a starting station may take to write its address to `station.json`."""
_POLL_SECONDS = 0.1


def run_serve(
    *, host: str | None, port: int | None, model: str | None, allow_host: Sequence[str] | None, as_json: bool
) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code."""
    log = "warning" if sys.stderr.isatty() else "info"
    home, settings = begin(log=log, service_host=host, service_port=port)
    check_strategy(settings.strategy)

    def announce(address: str) -> None:
        text = f"Moondream Station is serving on {address}"
        try:
            print_text(text, {"address": address, "pid": os.getpid()}, as_json=as_json)
        except BrokenPipeError as error:
            raise OutputUnwritable(
                "Can't print the station's address: stdout is a pipe that nobody reads.",
                hint="Check what stdout is redirected to.",
            ) from error

    serving = partial(
        serve_here,
        *(home, settings),
        announce=announce,
        model=model,
        port_is_explicit=port is not None,
        allowed_hosts=allow_host or (),
    )
    with suppress(KeyboardInterrupt):  # a signal that came before `_serve` could take it
        run_loop(_serve, serving)
    return DONE


async def _serve(serving: Callable[..., AbstractAsyncContextManager[Station]]) -> None:
    """Serve until a signal comes; one that comes early cancels the start."""
    stopping = anyio.Event()
    opening = anyio.CancelScope()
    is_open = False

    def stop(_: CancelReason) -> None:
        stopping.set()
        if not is_open:
            opening.cancel()

    # Whoever reads the address may send a signal at once: signals are handled before it is printed.
    with cancel_on_signal(stop):
        with opening:
            async with serving(stopping=stopping):
                is_open = True
                await stopping.wait()
        ignore_signals()  # the station has stopped


@asynccontextmanager
async def serve_here(
    home: Home,
    settings: Settings,
    *,
    stopping: anyio.Event,
    announce: Callable[[str], None],
    model: str | None = None,
    port_is_explicit: bool = False,
    allowed_hosts: Sequence[str] = (),
) -> AsyncIterator[Station]:
    """Serve while the block runs: listen, announce, answer. The active model begins to load at once.

    `announce` is called with the address once the station listens and `station.json` is written. Setting
    `stopping` stops the station; the server sets it when it ends for another reason. `model` is switched to
    first, `port_is_explicit` tries no other port, and the Host header may name one of `allowed_hosts`, too.
    """
    home.create()
    folders = _folders_of(settings) if settings.mcp else None
    async with AsyncExitStack() as stack:
        await _take_lock(home, stack)
        listeners = await anyio.to_thread.run_sync(  # it may ask DNS for the host
            partial(listen, settings.service_host, settings.service_port, explicit=port_is_explicit)
        )
        stack.callback(listeners.close)
        info = StationInfo(
            instance=secrets.token_hex(8), pid=os.getpid(), address=listeners.url, version=VERSION
        )
        station = await stack.enter_async_context(open_station(home, settings, os.environ, station=info))
        station.doctor = partial(_examine, home, settings)
        if model is not None:
            check_model(station.manifest, model)
        record = announce_station(home, address=info.address, instance=info.instance, version=info.version)
        access = Access.of(bound=listeners.hosts, allowed=allowed_hosts, token=record.token)
        station.expect_active()
        announce(info.address)
        closing = anyio.Event()
        async with anyio.create_task_group() as tasks:
            agents = OverHttp(station, folders) if folders is not None else None
            if agents is not None:
                tasks.start_soon(agents.run)
            app = create_app(station, access=access, mcp=agents)
            if settings.access_log:
                app = logged(app, _write_access)
            await tasks.start(partial(answer_requests, app, listeners, stopping=closing))
            tasks.start_soon(_pass_on, closing, stopping)
            if model is not None and model != station.active_model:
                station.request_switch(model)
            tasks.start_soon(station.start_active)
            try:
                yield station
            finally:
                # In this order, so that followers of the activation get its terminal event.
                with anyio.move_on_after(_FAREWELL_SECONDS, shield=True), suppress(NothingToCancel):
                    await station.wait(station.request_cancel(CancelReason.SHUTDOWN))
                if agents is not None:
                    with anyio.move_on_after(_FAREWELL_SECONDS, shield=True):
                        await agents.stop()
                station.bus.close()
                closing.set()
                tasks.cancel_scope.cancel()


def _folders_of(settings: Settings) -> Folders:
    """What agents may read; an error where they can't be served as the settings say."""
    check_extra()
    for name in settings.mcp_folders:
        path = Path(name).expanduser()
        if not (path.is_absolute() and path.is_dir()):
            raise SettingsInvalid(
                f"The setting `mcp_folders` has {name!r}, not the absolute path of an existing folder.",
                hint="Correct it in config.json in the home.",
            )
    return Folders.of(settings.mcp_folders)


async def _take_lock(home: Home, stack: AsyncExitStack) -> None:
    """Take the right to serve; where another station has it, wait until it has written its address."""
    with anyio.move_on_after(_ANNOUNCE_SECONDS):
        while True:
            try:
                stack.enter_context(serve_lock(home))
            except StationRunning as error:
                running = error
            else:
                return
            if await anyio.to_thread.run_sync(read_station, home) is not None:
                raise running
            await anyio.sleep(_POLL_SECONDS)
    stack.enter_context(serve_lock(home))


def _write_access(line: str) -> None:
    with suppress(BrokenPipeError, OutputUnwritable):  # no request fails because its line can't be written
        write_line(sys.stderr, line)


async def _examine(home: Home, settings: Settings) -> Mapping[str, Any]:
    from moondream_station.doctor.examination import examine  # noqa: PLC0415  only on request
    from moondream_station.doctor.report import report_to_json  # noqa: PLC0415

    return report_to_json(await examine(home=home, settings=settings, environ=os.environ))


async def _pass_on(closing: anyio.Event, stopping: anyio.Event) -> None:
    """Stop the station when its server has ended."""
    await closing.wait()
    stopping.set()
