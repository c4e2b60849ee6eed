"""The live panel as a presenter."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr
from datetime import UTC, datetime

from rich.text import Text

from moondream_station.console.outlet import Outlet
from moondream_station.console.plain import PlainLines
from moondream_station.console.presenting import Presenter
from moondream_station.core.facts.events import ActivationSucceeded, Event
from moondream_station.core.facts.state import StationState, apply
from moondream_station.panel.live import LinesAbove, LivePicture
from moondream_station.panel.rendering import render
from moondream_station.panel.terminal import Terminal


class PanelPresenter(Presenter):
    """The live panel on the terminal that stderr is; the result on stdout, where that is another place.

    What others write to `sys.stderr` meanwhile appears above the panel.
    """

    def __init__(self, terminal: Terminal, *, unicode: bool) -> None:
        self._unicode = unicode
        self._state = StationState()
        self._is_cancelling = False
        self._live = LivePicture(terminal, self._picture)
        self._resources = ExitStack()
        self._is_open = False
        self._result = Outlet(sys.stdout)

    async def show(self, event: Event) -> None:
        """Fold a fact into the picture; the terminal one is drawn at once, and the panel then stays."""
        self._state = apply(self._state, event)
        if not self._is_open:
            self._is_open = True
            above = LinesAbove(self._live)
            self._live.start()
            self._resources.callback(self._live.close)
            self._resources.enter_context(above)
            self._resources.enter_context(redirect_stderr(above))
        if event.is_terminal:
            self.close()
        if isinstance(event.fact, ActivationSucceeded) and not sys.stdout.isatty():
            for line in PlainLines().lines(event):
                await self._result.write(line)

    def cancelling(self) -> None:
        """Show that cancelling was requested, until it is done."""
        self._result.hurry()
        self._is_cancelling = True

    def close(self) -> None:
        """Leave the panel as it is, and the terminal as it was."""
        self._resources.close()

    def _picture(self, width: int, height: int | None) -> Sequence[Text]:
        return render(
            self._state,
            width=width,
            height=height,
            unicode=self._unicode,
            now=datetime.now(UTC),
            cancelling=self._is_cancelling,
        )
