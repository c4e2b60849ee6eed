"""The interactive prompt: serves while it runs, shows what is active, and takes a few commands."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import anyio
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import NestedCompleter
from prompt_toolkit.patch_stdout import patch_stdout

from moondream_station.cli.logs import configure_logging
from moondream_station.cli.output import print_error, print_result
from moondream_station.cli.plain import PlainLines
from moondream_station.cli.serve import Wanted, serve_here
from moondream_station.cli.show import models_text, status_text
from moondream_station.core.builds.naming import check_strategy
from moondream_station.core.environments.active import read_active
from moondream_station.core.errors import StationError, UnknownModel, UsageError
from moondream_station.core.home import home_from
from moondream_station.core.models import models_shape
from moondream_station.core.settings import load_settings
from moondream_station.core.state import StationState, status
from moondream_station.core.station import Station

COMMANDS: Final[Mapping[str, str]] = {
    "switch": "switch MODEL [--strategy S]: activate a model",
    "cancel": "cancel: end the running switch",
    "models": "models: list the models",
    "status": "status: what is active, and what runs",
    "help": "help: this list",
    "quit": "quit: end the station (also Ctrl-D)",
}


def run_prompt() -> int:
    """Serve, and take commands until `quit` or Ctrl-D; returns the exit code."""
    return anyio.run(_run)


async def _run() -> int:
    home = home_from(os.environ)
    settings = load_settings(home, os.environ)
    check_strategy(settings.strategy)
    configure_logging(settings.log, default="error")
    stopping = anyio.Event()
    async with (
        serve_here(home, settings, Wanted(), stopping=stopping, announce=_announce) as station,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(_tell, station)
        await _take_commands(station)
        tasks.cancel_scope.cancel()
    return 0


def _announce(address: str) -> None:
    print_result(f"Moondream Station is serving on {address}. `help` lists the commands.")


async def _tell(station: Station) -> None:
    """Print what happens, above the prompt."""
    plain = PlainLines()
    async with station.bus.subscribe() as events:
        async for event in events:
            for line in plain.lines(event):
                print_result(line)


async def _take_commands(station: Station) -> None:
    names = dict.fromkeys(station.manifest.models)
    words = {name: names if name == "switch" else None for name in COMMANDS}
    session: PromptSession[str] = PromptSession(
        completer=NestedCompleter.from_nested_dict(words),
        bottom_toolbar=lambda: toolbar(station.bus.state),
        refresh_interval=0.5,
    )
    with patch_stdout(raw=True):
        while True:
            try:
                line = await session.prompt_async("moondream> ")
            except KeyboardInterrupt:
                continue  # as a shell does: the line is thrown away
            except EOFError:
                return
            if line.strip() in {"quit", "exit"}:
                return
            try:
                obey(station, line)
            except StationError as error:
                print_error(error.info, as_json=False)


def switch(station: Station, model: str, strategy: str | None) -> None:
    """Ask for a model; that there is none of that name is published, and so shown."""
    with suppress(UnknownModel):
        station.request_switch(model, strategy)


def toolbar(state: StationState) -> str:
    """One line that says what is active and what runs."""
    active = state.active
    shown = (
        f"{active.model} on {active.build or 'no torch'}, worker {active.worker}" if active else "no model"
    )
    running = state.activation
    doing = f"  |  switching to {running.model}: {running.stage}" if running else ""
    return f" {shown}{doing}"


def obey(station: Station, line: str) -> None:
    """Do what a line says.

    Raises:
        UsageError: There is no such command, or it lacks something.
        StationError: It can't be done.
    """
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"{line!r} can't be read: {error}.", hint="Quotes come in pairs.") from error
    match words:
        case []:
            return
        case ["switch", model]:
            switch(station, model, None)
        case ["switch", model, "--strategy" | "-s", strategy]:
            switch(station, model, check_strategy(strategy))
        case ["cancel"]:
            station.request_cancel()
        case ["models"]:
            print_result(models_text(models_shape(station.manifest, read_active(station.home))))
        case ["status"]:
            print_result(status_text(status(station.bus.state)))
        case ["help"]:
            print_result("\n".join(COMMANDS.values()))
        case _:
            hint = COMMANDS.get(words[0], "`help` lists the commands.")
            raise UsageError(f"{line.strip()!r} is no command.", hint=hint)
