"""Showing an activation: JSON for programs, a panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterable, Mapping, Sequence
from contextlib import ExitStack, redirect_stderr, suppress
from typing import TYPE_CHECKING

from moondream_station.console.interrupts import CANCELLED, DONE, FAILED
from moondream_station.console.output import Outlet, folded, terminal_width
from moondream_station.core.facts import events
from moondream_station.core.facts.codec import event_to_json
from moondream_station.core.facts.errors import ErrorInfo, OutputUnwritable
from moondream_station.core.facts.state import StationState, apply
from moondream_station.panel.words import PlainLines

if TYPE_CHECKING:
    from rich.text import Text

    from moondream_station.panel.frame import Frame
    from moondream_station.panel.terminal import Terminal

_CODES: Mapping[type[events.Fact], int] = {
    events.ActivationSucceeded: DONE,
    events.ActivationFailed: FAILED,
    events.ActivationCancelled: CANCELLED,
}


class Presenter:
    """Shows the facts of one activation, in order."""

    async def show(self, event: events.Event) -> None:
        """Show a fact; a slow reader holds up this alone. Raises as `Outlet.write`."""
        raise NotImplementedError

    def cancelling(self) -> None:
        """Show that cancelling was requested; it is done with the terminal fact."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class JsonPresenter(Presenter):
    """One line of JSON a fact, on stdout."""

    def __init__(self) -> None:
        self._out = Outlet(sys.stdout)
        self.last: events.Event | None = None
        self.stage = events.Stage.PREPARE

    async def show(self, event: events.Event) -> None:
        """Print the fact."""
        self.last = event
        if isinstance(event.fact, events.StageStarted):
            self.stage = event.fact.stage
        await self._out.write(json.dumps(event_to_json(event)))

    def cancelling(self) -> None:
        """No fact, and so no line."""
        self._out.hurry()


class PlainPresenter(Presenter):
    """Lines for people: progress on stderr, the result on stdout."""

    def __init__(self) -> None:
        self._lines = PlainLines()
        self._progress = Outlet(sys.stderr)
        self._result = Outlet(sys.stdout)

    async def show(self, event: events.Event) -> None:
        """Print the fact's lines."""
        for line in self._lines.lines(event):
            is_result = isinstance(event.fact, events.ActivationSucceeded)
            outlet, stream = (self._result, sys.stdout) if is_result else (self._progress, sys.stderr)
            await outlet.write(folded(line, terminal_width(stream)))

    def cancelling(self) -> None:
        """Say so."""
        self._progress.hurry()
        self._result.hurry()
        with suppress(BrokenPipeError, OutputUnwritable):
            self._progress.mention("Cancelling")


class PanelPresenter(Presenter):
    """The live panel on the terminal that stderr is; the result on stdout, where that is another place.

    What others write to `sys.stderr` meanwhile appears above the panel.
    """

    def __init__(self, terminal: Terminal) -> None:
        from moondream_station.panel.terminal import LinesAbove, LivePicture  # noqa: PLC0415  with rich

        self._state = StationState()
        self._is_cancelling = False
        self._live = LivePicture(terminal, self._picture)
        self._above = LinesAbove(self._live)
        self._resources = ExitStack()
        self._is_open = False
        self._result = Outlet(sys.stdout)

    async def show(self, event: events.Event) -> None:
        """Fold a fact into the picture; the terminal one is drawn at once, and the panel then stays."""
        self._state = apply(self._state, event)
        if not self._is_open:
            self._is_open = True
            self._live.start()
            self._resources.callback(self._live.close)
            self._resources.enter_context(self._above)
            self._resources.enter_context(redirect_stderr(self._above))
        if event.is_terminal:
            self.close()
        if isinstance(event.fact, events.ActivationSucceeded) and not sys.stdout.isatty():
            for line in PlainLines().lines(event):
                await self._result.write(line)

    def cancelling(self) -> None:
        """Show that cancelling was requested, until it is done."""
        self._result.hurry()
        self._is_cancelling = True

    def close(self) -> None:
        """Leave the panel as it is, and the terminal as it was."""
        self._resources.close()

    def _picture(self, frame: Frame, height: int | None) -> Sequence[Text]:
        from moondream_station.panel.rendering import render  # noqa: PLC0415

        return render(self._state, frame, height=height, cancelling=self._is_cancelling)


class Told(Presenter):
    """Shows an activation by another presenter, and keeps its error."""

    def __init__(self, presenter: Presenter) -> None:
        self._presenter = presenter
        self.error: ErrorInfo | None = None

    async def show(self, event: events.Event) -> None:
        """Show a fact."""
        if isinstance(event.fact, events.ActivationFailed):
            self.error = event.fact.error
        await self._presenter.show(event)

    def cancelling(self) -> None:
        """Show it."""
        self._presenter.cancelling()

    def close(self) -> None:
        """Close the other one."""
        self._presenter.close()


def presenter_for_people() -> Presenter:
    """The panel where stderr is a terminal that can draw, else plain lines."""
    if sys.stderr.isatty():
        from moondream_station.panel.terminal import Terminal  # noqa: PLC0415

        terminal = Terminal(sys.stderr)
        if terminal.can_draw:
            return PanelPresenter(terminal)
    return PlainPresenter()


async def present(
    published: AsyncIterable[events.Event], presenter: Presenter, *, activation: str | None = None
) -> int:
    """Show an activation, by default the first one that is requested, to its end; gives the exit code."""
    try:
        async for event in published:
            if activation is None and isinstance(event.fact, events.BackendActivationRequested):
                activation = event.activation
            if event.activation is None or event.activation != activation:
                continue
            # A reader that is gone, or a full disk, is no reason to end a switch.
            with suppress(BrokenPipeError, OutputUnwritable):
                await presenter.show(event)
            if event.is_terminal:
                return _CODES[type(event.fact)]
    finally:
        presenter.close()
    return FAILED
