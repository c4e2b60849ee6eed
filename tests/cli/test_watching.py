"""`status --watch`: across stations that come and go, and activations of other processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import anyio
import anyio.to_thread
import pytest

from moondream_station.cli.watch import _follow
from moondream_station.core.bus.bus import Bus
from moondream_station.core.bus.journal import Journal
from moondream_station.core.facts.events import Event
from moondream_station.core.facts.state import StationState
from moondream_station.core.home.layout import Home
from moondream_station.core.home.locks import activation_lock, announce_station, serve_lock
from moondream_station.http.app import create_app
from moondream_station.http.guard import Access
from moondream_station.http.server import listen, serve
from support.scripted_activation import ACTIVATION, events, whole
from support.station_api import FakeStation
from support.terminal import open_terminal

pytestmark = pytest.mark.anyio

_PATIENCE_SECONDS = 20
_PROGRAM = [sys.executable, "-m", "moondream_station", "status", "--watch"]


@pytest.fixture
def anyio_backend() -> str:
    """The command line knows asyncio only."""
    return "asyncio"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home."""
    made = Home(root=tmp_path / "home")
    made.create()
    return made


class Watched:
    """A running `status --watch --json`."""

    def __init__(self, process: subprocess.Popen[str], output: IO[str]) -> None:
        self.process = process
        self._output = output

    async def until(self, is_so: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The first status from here on of which something is so."""
        with anyio.fail_after(_PATIENCE_SECONDS):
            while True:
                line = await anyio.to_thread.run_sync(self._output.readline, abandon_on_cancel=True)
                assert line, "it ended"
                shown: dict[str, Any] = json.loads(line)
                if is_so(shown):
                    return shown

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal; gives the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """The exit code, as soon as it has ended."""
        return self.process.wait(_PATIENCE_SECONDS)

    def leave(self) -> None:
        """Read no more."""
        self._output.close()

    def complaint(self) -> str:
        """What it wrote to stderr until its end."""
        assert self.process.stderr is not None
        return self.process.stderr.read()


@contextmanager
def _watching(home: Home) -> Iterator[Watched]:
    process = subprocess.Popen(
        [*_PROGRAM, "--json"],
        env={**os.environ, "MOONDREAM_STATION_HOME": str(home.root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        try:
            yield Watched(process, process.stdout)
        finally:
            process.kill()


@asynccontextmanager
async def _served(home: Home, station: FakeStation) -> AsyncIterator[None]:
    """A station without models serves the home."""
    listeners = listen("127.0.0.1", 0, explicit=True)
    stopping = anyio.Event()
    async with AsyncExitStack() as stack:
        stack.enter_context(serve_lock(home))
        record = announce_station(home, address=listeners.url, instance="i1", version="0.2.0")
        access = Access.of(bound=listeners.hosts, allowed=(), token=record.token)
        app = create_app(station, access=access)
        async with anyio.create_task_group() as tasks:
            await tasks.start(partial(serve, app, listeners, stopping=stopping))
            yield
            stopping.set()


def _write(home: Home, happened: list[Event]) -> None:
    journal = Journal(home)
    for event in happened:
        journal.record(event)


async def test_a_station_is_followed_from_its_snapshot_on(home: Home) -> None:
    """Each event changes what is printed; Ctrl-C ends it with 0."""
    station = FakeStation()
    async with _served(home, station):
        with _watching(home) as watched:
            shown = await watched.until(lambda _: True)
            assert shown["station"]["address"] == "http://127.0.0.1:2020"
            assert shown["activation"] is None
            station.request_switch("selftest", "auto", upgrade=False, python=None)
            assert await watched.until(lambda shown: shown["activation"])
            station.request_cancel()
            await watched.until(lambda shown: not shown["activation"])
            assert await anyio.to_thread.run_sync(watched.end) == 0


async def test_it_goes_on_when_a_station_comes_and_goes(home: Home) -> None:
    """From files to the station and back."""
    with _watching(home) as watched:
        await watched.until(lambda shown: shown["station"] is None)
        async with _served(home, FakeStation()):
            await watched.until(lambda shown: shown["station"])
        await watched.until(lambda shown: shown["station"] is None)
        assert await anyio.to_thread.run_sync(watched.end, signal.SIGTERM) == 0


async def test_without_a_station_the_activation_of_another_process_is_watched(home: Home) -> None:
    """Its journal is read while it holds the home."""
    with _watching(home) as watched:
        await watched.until(lambda shown: shown["activation"] is None)
        async with activation_lock(home, activation=ACTIVATION, command="switch", on_wait=lambda _: None):
            _write(home, events(whole())[:14])
            assert (await watched.until(lambda shown: shown["activation"]))["activation"]["stage"] == "lock"
            _write(home, events(whole())[14:19])
            await watched.until(lambda shown: shown["activation"]["stage"] == "download")
        await watched.until(lambda shown: shown["activation"] is None)


async def test_a_reader_that_has_gone_ends_it(home: Home) -> None:
    """As of `status --watch --json | head -1`: it fails at the next change, without a traceback."""
    station = FakeStation()
    async with _served(home, station):
        with _watching(home) as watched:
            await watched.until(lambda shown: shown["station"])
            watched.leave()
            station.request_switch("selftest", "auto", upgrade=False, python=None)
            assert await anyio.to_thread.run_sync(watched.wait) == 1
            assert watched.complaint() == ""


@pytest.mark.terminal
@pytest.mark.parametrize("columns", [80, 40])
async def test_on_a_terminal_it_is_a_panel(home: Home, columns: int) -> None:
    """Drawn from the state; how the activation ended stays, and Ctrl-C leaves it there."""
    environ = {"MOONDREAM_STATION_HOME": str(home.root)}
    happened = events(whole())
    with open_terminal(_PROGRAM, columns=columns, rows=30, environ=environ) as terminal:
        terminal.wait_for("Station: not serving")
        async with activation_lock(home, activation=ACTIVATION, command="switch", on_wait=lambda _: None):
            _write(home, happened[:19])
            terminal.wait_for("627.0 MB of 1.4 GB")
        _write(home, happened[19:])
        terminal.wait_for("Switched to selftest")
        terminal.press("C-c")
        assert await anyio.to_thread.run_sync(terminal.exit_code) == 0
        assert "Switched to selftest" in "\n".join(terminal.screen())


@pytest.mark.terminal
async def test_the_panel_knows_what_came_before_it(home: Home) -> None:
    """A snapshot tells little of a running activation; its journal tells the rest."""
    station = FakeStation()
    station.bus = Bus(state=StationState(station=station.state.station), journal=Journal(home))
    for event in events(whole())[:19]:
        station.bus.publish(event.fact, activation=ACTIVATION)
    environ = {"MOONDREAM_STATION_HOME": str(home.root)}
    async with _served(home, station):
        with open_terminal(_PROGRAM, columns=80, rows=30, environ=environ) as terminal:
            shown = await anyio.to_thread.run_sync(terminal.wait_for, "627.0 MB of 1.4 GB")
            assert any("cu126 build, torch 2.14.1" in line for line in shown)


async def test_files_are_read_beside_the_event_loop(home: Home) -> None:
    """However slow their disk is, Ctrl-C and the panel do not wait for it."""
    opened_in: list[threading.Thread] = []
    is_watching = True

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if is_watching and event == "open" and str(arguments[0]).startswith(str(home.root)):
            opened_in.append(threading.current_thread())

    sys.addaudithook(audit)  # it stays for good, and does nothing once this test is over
    try:
        with anyio.move_on_after(0.8):
            await _follow(home, lambda _: None)
    finally:
        is_watching = False
    assert opened_in
    assert threading.current_thread() not in opened_in
