"""`status --watch`: the status over and over, of the serving station or of the home's files."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeAlias

import anyio.to_thread
from rich.text import Text

from moondream_station.cli.activate import wait_until_gone
from moondream_station.console.interrupts import cancel_on_signal, ignore_signals, run_loop
from moondream_station.console.logging import begin
from moondream_station.console.output import Outlet
from moondream_station.core.bus.journal import read_activation
from moondream_station.core.facts.codec import event_from_json
from moondream_station.core.facts.errors import StationUnreachable
from moondream_station.core.facts.events import CancelReason
from moondream_station.core.facts.state import StationState, apply, state_from_status, status
from moondream_station.core.home.layout import Home
from moondream_station.core.home.locks import StationRecord, activation_holder, read_station
from moondream_station.core.home.task_groups import accompanied, as_raised
from moondream_station.core.views.overview import present_state
from moondream_station.http.client import StationClient
from moondream_station.panel.frame import Frame
from moondream_station.panel.rendering import render_station
from moondream_station.panel.terminal import LivePicture, Terminal

_POLL_SECONDS: Final = 0.25
"""How often files are read, and the shortest time between two outputs."""

_SHOWN_PROGRESS: Final = ("stage", "overall_received_bytes", "overall_total_bytes")


_FIGURES_SECONDS: Final = 2.0
"""How often a station is asked for its figures, as by its page."""

_Show: TypeAlias = Callable[[StationState], None]
"""Shows a state from now on."""
_Figures: TypeAlias = Sequence[tuple[str, str]]
_ShowFigures: TypeAlias = Callable[[_Figures], None]
_ReadFigures: TypeAlias = Callable[[StationClient], Awaitable[_Figures]]
_Measure: TypeAlias = Callable[[StationClient], Coroutine[Any, Any, None]]
_Text: TypeAlias = Callable[[Mapping[str, Any]], str]
"""The status shape as text."""


class _Lines:
    """The status shape as a line or a paragraph whenever it changed, a few times a second at most."""

    def __init__(self, text: _Text) -> None:
        self._text = text
        self._out = Outlet(sys.stdout)
        self._changed = anyio.Event()
        self._state = StationState()

    def show(self, state: StationState) -> None:
        """Print this state, unless another one comes first."""
        self._state = state
        self._changed.set()

    async def print_changes(self) -> None:
        """Print until cancelled."""
        printed: Mapping[str, Any] | None = None
        while True:
            await self._changed.wait()
            self._changed = anyio.Event()
            shown = status(self._state)
            if shown != printed:
                printed = shown
                await self._out.write(self._text(shown))
            await anyio.sleep(_POLL_SECONDS)


def run_watch(text: _Text, read_figures: _ReadFigures | None) -> int:
    """Show the status until a signal comes, across starts and ends of stations; returns the exit code, 0.

    Without `read_figures`, nothing is drawn.
    """
    home, _ = begin()
    return run_loop(_watch, home, text, read_figures)


async def _watch(home: Home, text: _Text, read_figures: _ReadFigures | None) -> int:
    def stop(_: CancelReason) -> None:
        ignore_signals()
        scope.cancel()

    terminal = Terminal(sys.stdout)
    with anyio.CancelScope() as scope, cancel_on_signal(stop):
        if read_figures is not None and terminal.can_draw:
            with _drawn(terminal) as (show, show_figures):
                await _follow(home, show, partial(_ask_for_figures, read_figures, show_figures))
        lines = _Lines(text)
        with as_raised():
            await accompanied(partial(_follow, home, lines.show), lines.print_changes)
    return 0


@contextmanager
def _drawn(terminal: Terminal) -> Iterator[tuple[_Show, _ShowFigures]]:
    """The state on a terminal, drawn over and over."""
    state: StationState | None = None
    figures: _Figures = ()

    def show(latest: StationState) -> None:
        nonlocal state
        state = latest

    def show_figures(latest: _Figures) -> None:
        nonlocal figures
        figures = latest

    def picture(frame: Frame, height: int | None) -> Sequence[Text]:
        return render_station(state, frame, figures=figures, height=height) if state is not None else []

    live = LivePicture(terminal, picture)
    live.start()
    with closing(live):
        yield show, show_figures


async def _read_station(home: Home) -> StationRecord | None:
    return await anyio.to_thread.run_sync(read_station, home)


async def _follow(home: Home, show: _Show, measure: _Measure | None = None) -> None:
    """Show the status until cancelled; beside it, `measure` a station while it serves."""
    while True:
        record = await _read_station(home)
        if record is None:
            await _follow_files(home, show)
            continue
        try:
            async with StationClient(record.address, token=record.token) as client:
                showing = partial(_show_messages, home, client, show)
                if measure is not None:
                    showing = partial(accompanied, showing, partial(measure, client))
                await accompanied(partial(wait_until_gone, home, record), showing)
        except StationUnreachable as error:
            unreachable = error
        else:
            continue
        if await _read_station(home) == record:
            raise unreachable


async def _show_messages(home: Home, client: StationClient, show: _Show) -> None:
    """Show what a station publishes."""
    state = StationState()
    async with client.follow() as messages:
        async for message in messages:
            if message.get("event") == "Snapshot":
                state = state_from_status(message["seq"], message["state"])
                state = await anyio.to_thread.run_sync(_with_beginning, home, state)
            else:
                state = apply(state, event_from_json(message))
            show(state)


async def _ask_for_figures(
    read_figures: _ReadFigures, show_figures: _ShowFigures, client: StationClient
) -> None:
    try:
        while True:
            show_figures(await read_figures(client))
            await anyio.sleep(_FIGURES_SECONDS)
    finally:
        show_figures(())  # what does not run has none


def _with_beginning(home: Home, state: StationState) -> StationState:
    """A snapshot's state with all that the journal knows of its running activation."""
    if state.activation is None:
        return state
    replayed = replace(state, activation=None)
    for event in read_activation(home, state.activation.id):
        if event.seq <= state.seq:
            replayed = apply(replayed, event)
    if replayed.activation is None:
        return state
    # The journal writes progress with a delay: the snapshot's is newer.
    progress = {name: getattr(state.activation, name) for name in _SHOWN_PROGRESS}
    return replace(state, activation=replace(replayed.activation, **progress))


async def _follow_files(home: Home, show: _Show) -> None:
    """Show the status by the home's files, until a station serves it."""
    last_stamps: object = None
    watched: str | None = None
    while True:
        stamps = await anyio.to_thread.run_sync(_stamps, home, watched)
        if stamps != last_stamps:
            last_stamps = stamps
            state = await anyio.to_thread.run_sync(_state_of, home, watched)
            watched = state.activation.id if state.activation is not None else watched
            show(state)
        await anyio.sleep(_POLL_SECONDS)
        if await _read_station(home) is not None:
            return


def _state_of(home: Home, watched: str | None) -> StationState:
    """The state by the home's files, with the outcome of the activation that was watched."""
    state = present_state(home)
    if state.activation is not None or watched is None:
        return state
    replayed = state
    for event in read_activation(home, watched):
        replayed = apply(replayed, event)
    return replace(state, last=replayed.last)


def _stamps(home: Home, watched: str | None) -> object:
    """A value that differs as soon as the files say something else."""
    holder = activation_holder(home)
    activation = holder.activation if holder is not None else watched
    paths = [home.active, home.capabilities]
    if activation is not None:
        paths.append(home.activations / f"{activation}.jsonl")
    stamps = []
    for path in paths:
        with suppress(OSError):
            status = path.stat()
            stamps.append((path, status.st_mtime_ns, status.st_size))
    return holder, stamps
