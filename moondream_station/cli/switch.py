"""`switch`: activates a model, through the serving station where one serves, else by itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moondream_station.console.exit_codes import DONE
from moondream_station.console.interrupts import ignore_signals
from moondream_station.console.logging import configure_logging
from moondream_station.console.presenting import Presenter, present, presenter_for
from moondream_station.console.signals import cancel_on_signal, run_loop
from moondream_station.core.builds.naming import check_strategy
from moondream_station.core.facts.errors import NothingToCancel, UnknownModel, UsageError
from moondream_station.core.facts.events import CancelReason
from moondream_station.core.home.layout import Home, home_from
from moondream_station.core.home.locks import read_station
from moondream_station.core.home.settings import Settings, load_settings

if TYPE_CHECKING:
    from moondream_station.core.station import Station


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the command line asks for: the options of `switch`, the strategy after settings were asked."""

    model: str
    strategy: str
    upgrade: bool
    python: Path | None
    as_json: bool


def run_switch(model: str, *, strategy: str | None, upgrade: bool, python: Path | None, as_json: bool) -> int:
    """Activate a model; returns the exit code."""
    home = home_from(os.environ)
    settings = load_settings(home, os.environ, strategy=strategy)
    check_strategy(settings.strategy)
    if python is not None:
        python = python.expanduser().absolute()
        if not python.is_file():
            raise UsageError(f"There is no file {python}.", hint="Name a Python interpreter, with its path.")
    configure_logging(settings.log)
    wish = Wish(model=model, strategy=settings.strategy, upgrade=upgrade, python=python, as_json=as_json)
    return run_loop(_switch, home, settings, wish)


async def _switch(home: Home, settings: Settings, wish: Wish) -> int:
    if (record := read_station(home)) is not None:
        from moondream_station.cli.forwarding import switch_there  # noqa: PLC0415  only where one serves

        return await switch_there(home, record, wish)
    code = await _switch_here(home, settings, wish)
    if code == DONE and (record := read_station(home)) is not None:
        from moondream_station.cli.forwarding import hand_over  # noqa: PLC0415  only where one serves

        await hand_over(home, record, wish)
    return code


async def _switch_here(home: Home, settings: Settings, wish: Wish) -> int:
    def request(station: Station) -> None:
        with suppress(UnknownModel):  # published, and so presented
            station.request_switch(wish.model, upgrade=wish.upgrade, python=wish.python)

    return await activate_here(home, settings, request, presenter_for(as_json=wish.as_json))


async def activate_here(
    home: Home, settings: Settings, request: Callable[[Station], object], presenter: Presenter
) -> int:
    """Let a station of this command's own do it, and show its activation; gives the exit code.

    Args:
        home: The home; nothing serves it.
        settings: The user's settings.
        request: Asks the station for the activation; what it refuses, it publishes.
        presenter: Shows it.
    """
    from moondream_station.core.station import open_station  # noqa: PLC0415  a station that serves has its own

    async with open_station(home, settings, os.environ) as station:

        def cancel(reason: CancelReason) -> None:
            presenter.cancelling()
            with suppress(NothingToCancel):
                station.request_cancel(reason)

        with cancel_on_signal(cancel):
            async with station.bus.subscribe() as events:
                request(station)
                code = await present(events, presenter)
                ignore_signals()  # how it ended is told
    return code
