"""Showing an activation: JSON for programs, a panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

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

if TYPE_CHECKING:
    from moondream_station.panel.presenter import PanelPresenter


class Presenter(Protocol):
    """Shows the facts of one activation, in order."""

    async def show(self, event: Event) -> None:
        """Show a fact; whoever reads it slowly holds up this alone.

        Raises:
            BrokenPipeError: Whoever read it has gone, or takes nothing though the end was asked for.
            OutputUnwritable: It can't be written for another reason.
        """

    def cancelling(self) -> None:
        """Show that the end was asked for; it has come with the terminal fact."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class JsonPresenter:
    """One line of JSON a fact, on stdout."""

    def __init__(self) -> None:
        self._out = Outlet(sys.stdout)

    async def show(self, event: Event) -> None:
        """Print the fact."""
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


class PanelAndResult:
    """The live panel on the terminal that stderr is; the result on stdout, where that is another place.

    Args:
        panel: The panel.
    """

    def __init__(self, panel: PanelPresenter) -> None:
        self._panel = panel
        self._lines = PlainLines()
        self._result = Outlet(sys.stdout)

    async def show(self, event: Event) -> None:
        """Show the fact, and print the result where the panel does not tell it already."""
        self._panel.show(event)
        if isinstance(event.fact, ActivationSucceeded) and not sys.stdout.isatty():
            for line in self._lines.lines(event):
                await self._result.write(line)

    def cancelling(self) -> None:
        """Show that the end was asked for."""
        self._result.hurry()
        self._panel.cancelling()

    def close(self) -> None:
        """Let the panel stand."""
        self._panel.close()


def presenter_for(*, as_json: bool) -> Presenter:
    """The presenter for this command and where its output goes."""
    if as_json:
        return JsonPresenter()
    if not sys.stderr.isatty():
        return PlainPresenter()
    from moondream_station.panel.presenter import PanelPresenter  # noqa: PLC0415  only on a terminal
    from moondream_station.panel.terminal import Terminal  # noqa: PLC0415

    terminal = Terminal(sys.stderr)
    if not terminal.can_draw:
        return PlainPresenter()
    return PanelAndResult(PanelPresenter(terminal, unicode=terminal.shows_unicode(os.environ)))


async def present(
    events: AsyncIterable[Event], presenter: Presenter, *, activation: str | None = None
) -> int:
    """Show an activation until its terminal fact; gives the exit code.

    Args:
        events: Events of the station.
        presenter: Shows them.
        activation: The activation's id; None for the first one that is requested.
    """
    try:
        async for event in events:
            if activation is None and isinstance(event.fact, BackendActivationRequested):
                activation = event.activation
            if event.activation is None or event.activation != activation:
                continue
            # A reader that has gone, or a full disk, is no reason to break off a switch.
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
