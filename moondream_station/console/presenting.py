"""Showing an activation: JSON for programs, a panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterable
from contextlib import suppress
from typing import Protocol

from moondream_station.console.exit_codes import CANCELLED, DONE, FAILED
from moondream_station.console.outlet import Outlet
from moondream_station.console.output import json_line
from moondream_station.console.plain import PlainLines
from moondream_station.core.facts.codec import event_to_json
from moondream_station.core.facts.errors import OutputUnwritable
from moondream_station.core.facts.events import (
    ActivationCancelled,
    ActivationFailed,
    ActivationSucceeded,
    BackendActivationRequested,
    Event,
)


class Presenter(Protocol):
    """Shows the facts of one activation, in order."""

    async def show(self, event: Event) -> None:
        """Show a fact; a slow reader holds up this alone.

        Raises:
            BrokenPipeError: The reader is gone, or takes nothing although cancelling was requested.
            OutputUnwritable: It can't be written for another reason.
        """

    def cancelling(self) -> None:
        """Show that cancelling was requested; it is done with the terminal fact."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class JsonPresenter:
    """One line of JSON a fact, on stdout."""

    def __init__(self) -> None:
        self._out = Outlet(sys.stdout)
        self.last: Event | None = None

    async def show(self, event: Event) -> None:
        """Print the fact."""
        self.last = event
        await self._out.write(json_line(event_to_json(event)))

    def cancelling(self) -> None:
        """No fact, and so no line."""
        self._out.hurry()

    def close(self) -> None:
        """Nothing is left to do."""


class PlainPresenter:
    """Lines for people: progress on stderr, the result on stdout."""

    def __init__(self) -> None:
        self._lines = PlainLines()
        self._progress = Outlet(sys.stderr)
        self._result = Outlet(sys.stdout)

    async def show(self, event: Event) -> None:
        """Print the fact's lines."""
        for line in self._lines.lines(event):
            outlet = self._result if isinstance(event.fact, ActivationSucceeded) else self._progress
            await outlet.write(line)

    def cancelling(self) -> None:
        """Say so."""
        self._progress.hurry()
        self._result.hurry()
        with suppress(BrokenPipeError, OutputUnwritable):
            self._progress.mention("Cancelling")

    def close(self) -> None:
        """Nothing is left to do."""


def presenter_for(*, as_json: bool) -> Presenter:
    """The presenter for this command and where its output goes."""
    if as_json:
        return JsonPresenter()
    if not sys.stderr.isatty():
        return PlainPresenter()
    from moondream_station.console.panel_presenter import PanelPresenter  # noqa: PLC0415  only on a terminal
    from moondream_station.panel.terminal import Terminal  # noqa: PLC0415

    terminal = Terminal(sys.stderr)
    if not terminal.can_draw:
        return PlainPresenter()
    return PanelPresenter(terminal, unicode=terminal.shows_unicode(os.environ))


async def present(
    events: AsyncIterable[Event], presenter: Presenter, *, activation: str | None = None
) -> int:
    """Show an activation, by default the first one that is requested, to its end; gives the exit code."""
    try:
        async for event in events:
            if activation is None and isinstance(event.fact, BackendActivationRequested):
                activation = event.activation
            if event.activation is None or event.activation != activation:
                continue
            # A reader that is gone, or a full disk, is no reason to end a switch.
            with suppress(BrokenPipeError, OutputUnwritable):
                await presenter.show(event)
            if event.is_terminal:
                return exit_code(event)
    finally:
        presenter.close()
    return FAILED


def exit_code(outcome: Event) -> int:
    """The exit code that a terminal fact means."""
    match outcome.fact:
        case ActivationSucceeded():
            return DONE
        case ActivationCancelled():
            return CANCELLED
        case ActivationFailed():
            return FAILED
        case _:
            raise ValueError(f"{outcome.name} ends no activation")
