"""Showing an activation: JSON for programs, a panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterable, Mapping
from contextlib import suppress

from moondream_station.console.exit_codes import CANCELLED, DONE, FAILED
from moondream_station.console.outlet import Outlet
from moondream_station.console.plain import PlainLines
from moondream_station.core.facts import events
from moondream_station.core.facts.codec import event_to_json
from moondream_station.core.facts.errors import OutputUnwritable

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
            outlet = self._result if isinstance(event.fact, events.ActivationSucceeded) else self._progress
            await outlet.write(line)

    def cancelling(self) -> None:
        """Say so."""
        self._progress.hurry()
        self._result.hurry()
        with suppress(BrokenPipeError, OutputUnwritable):
            self._progress.mention("Cancelling")


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
