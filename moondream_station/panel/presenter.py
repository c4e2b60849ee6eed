"""The panel as a presenter: folds an activation's facts, and shows what they add up to."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr
from datetime import UTC, datetime

from rich.text import Text

from moondream_station.core.facts.events import Event
from moondream_station.core.facts.state import StationState, apply
from moondream_station.panel.live import LinesAbove, LivePicture
from moondream_station.panel.rendering import render
from moondream_station.panel.terminal import Terminal


class PanelPresenter:
    """Shows the facts of one activation on a terminal, until it is closed.

    What others write to `sys.stderr` meanwhile appears above the panel.

    Args:
        terminal: The terminal.
        unicode: Whether it shows more than ASCII.
        state: What was known before the first fact.
    """

    def __init__(self, terminal: Terminal, *, unicode: bool, state: StationState | None = None) -> None:
        self._unicode = unicode
        self._state = state or StationState()
        self._is_cancelling = False
        self._live = LivePicture(terminal, self._picture)
        self._resources = ExitStack()
        self._is_open = False

    def show(self, event: Event) -> None:
        """Fold a fact into what is shown. The terminal one is shown at once, and lets the panel stand."""
        self._state = apply(self._state, event)
        if not self._is_open:
            self._open()
        if event.is_terminal:
            self.close()

    def cancelling(self) -> None:
        """Show that the end was asked for, until it is there."""
        self._is_cancelling = True

    def close(self) -> None:
        """Let the panel stand as it is, and leave the terminal as it was."""
        self._resources.close()

    def _open(self) -> None:
        self._is_open = True
        above = LinesAbove(self._live)
        self._live.start()
        self._resources.callback(self._live.close)
        self._resources.enter_context(above)
        self._resources.enter_context(redirect_stderr(above))

    def _picture(self, width: int, height: int | None) -> Sequence[Text]:
        return render(
            self._state,
            width=width,
            height=height,
            unicode=self._unicode,
            now=datetime.now(UTC),
            cancelling=self._is_cancelling,
        )
