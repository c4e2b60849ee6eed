"""`switch`: activates a model, through the serving station where one serves, else by itself."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from moondream_station.cli.activate import activate_here, activate_there
from moondream_station.console.exit_codes import DONE
from moondream_station.console.logging import configure_logging
from moondream_station.console.output import print_progress
from moondream_station.console.presenting import presenter_for
from moondream_station.console.signals import cancel_on_signal, run_loop
from moondream_station.core.builds.naming import check_strategy
from moondream_station.core.facts.errors import StationError, UnknownModel, UsageError
from moondream_station.core.home.active_file import read_active
from moondream_station.core.home.layout import Home, home_from
from moondream_station.core.home.locks import StationRecord, read_station
from moondream_station.core.home.settings import Settings, load_settings

if TYPE_CHECKING:
    from moondream_station.core.station import Station
    from moondream_station.http.client import Accepted, StationClient


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """The options of `switch`; the strategy as the settings complete it."""

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
            raise UsageError(f"There is no file {python}.", hint="Give the path of a Python interpreter.")
    configure_logging(settings.log)
    options = _Options(
        model=model, strategy=settings.strategy, upgrade=upgrade, python=python, as_json=as_json
    )
    return run_loop(_switch, home, settings, options)


async def _switch(home: Home, settings: Settings, options: _Options) -> int:
    def request_here(station: Station) -> None:
        with suppress(UnknownModel):  # published, and so presented
            station.request_switch(options.model, upgrade=options.upgrade, python=options.python)

    async def request_there(client: StationClient) -> Accepted | None:
        try:
            return await client.switch(
                options.model, options.strategy, upgrade=options.upgrade, python=options.python
            )
        except UnknownModel:
            return None  # published, and so presented

    presenter = presenter_for(as_json=options.as_json)
    if (record := await anyio.to_thread.run_sync(read_station, home)) is not None:
        return await activate_there(home, record, options.model, request_there, presenter)
    code = await activate_here(home, settings, request_here, presenter)
    if code == DONE and (record := await anyio.to_thread.run_sync(read_station, home)) is not None:
        await _hand_over(home, record, options)
    return code


async def _hand_over(home: Home, record: StationRecord, options: _Options) -> None:
    """Let a station that began to serve while this command switched serve the model now.

    The environment exists, so this costs the station one worker start, which is not waited for.
    """
    active = await anyio.to_thread.run_sync(read_active, home)
    if active.model != options.model:
        return  # another command has switched since
    result = "was not notified: interrupted."
    with anyio.CancelScope() as scope, cancel_on_signal(lambda _: scope.cancel()):
        result = await _tell(record, options, environment=active.models[options.model].environment)
    if result:
        print_progress(f"The station at {record.address} {result}")


async def _tell(record: StationRecord, options: _Options, *, environment: str) -> str:
    """Tell a station to serve a model from its environment; returns what to report, "" for nothing."""
    from moondream_station.http.client import StationClient  # noqa: PLC0415  only where a station serves

    try:
        async with StationClient(record.address, token=record.token) as client:
            status = await client.status()
            served = status["active"]["environment"] if status["active"] else None
            # A station that is switching was asked for something later than this.
            if status["activation"] is not None or served == environment:
                return ""
            await client.switch(options.model, options.strategy, python=options.python)
    except StationError as error:
        return f"was not notified: {error.message}"
    return f"was notified, and is switching to {options.model}."
