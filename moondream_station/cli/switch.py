"""`switch`: activates a model, through the serving station where one serves, else by itself."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import anyio.to_thread

from moondream_station.cli.activate import activate_here, activate_there
from moondream_station.console.exit_codes import CANCELLED, DONE, FAILED
from moondream_station.console.logging import begin
from moondream_station.console.output import print_json, print_progress, write
from moondream_station.console.presenting import JsonPresenter, PlainPresenter, Presenter
from moondream_station.console.signals import cancel_on_signal, run_loop
from moondream_station.core.builds.naming import check_strategy
from moondream_station.core.facts import events
from moondream_station.core.facts.codec import event_to_json
from moondream_station.core.facts.errors import StationError, UnknownModel, UsageError
from moondream_station.core.home.active_file import read_active
from moondream_station.core.home.layout import Home, absolute
from moondream_station.core.home.locks import StationRecord, read_station
from moondream_station.core.home.settings import Settings
from moondream_station.core.home.task_groups import as_raised

if TYPE_CHECKING:
    from moondream_station.core.station import Station
    from moondream_station.http.client import Accepted, StationClient


class _Flags(TypedDict):
    upgrade: bool
    python: Path | None
    anyway: bool
    accept_notice: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchOptions:
    """The options of `switch`."""

    model: str
    strategy: str | None
    upgrade: bool
    python: Path | None
    anyway: bool
    accept_notice: bool

    @property
    def flags(self) -> _Flags:
        """All but the model and the strategy, as a station takes them."""
        return {
            "upgrade": self.upgrade,
            "python": self.python,
            "anyway": self.anyway,
            "accept_notice": self.accept_notice,
        }


def run_switch(options: SwitchOptions, *, as_json: bool) -> int:
    """Activate a model; returns the exit code.

    With `as_json` the last line is a terminal event, also where an activation could not begin, or not be
    followed to its end.
    """
    presenter = JsonPresenter() if as_json else None
    try:
        with as_raised():
            return _run(options, presenter)
    except UsageError:
        raise
    except StationError as error:
        if presenter is None or (presenter.last is not None and presenter.last.is_terminal):
            raise
        end = events.ActivationFailed(model=options.model, stage=presenter.stage, error=error.info)
        _print_end(presenter, end)
        return FAILED
    except KeyboardInterrupt:
        if presenter is None or presenter.last is not None:
            raise
        reason, stage = events.CancelReason.USER, presenter.stage
        _print_end(presenter, events.ActivationCancelled(model=options.model, stage=stage, reason=reason))
        return CANCELLED


def _print_end(presenter: JsonPresenter, fact: events.Fact) -> None:
    """Print the terminal event of an activation that nobody could publish one of."""
    now, last = datetime.now(UTC), presenter.last
    seq = max(int(now.timestamp() * 1_000_000), last.seq + 1 if last else 0)
    event = events.Event(seq=seq, at=now, activation=last.activation if last else None, fact=fact)
    print_json({**event_to_json(event), "activation": event.activation})


def presenter_for() -> Presenter:
    """Shows a switch to people: the panel where stderr is a terminal that can draw, else plain lines."""
    if sys.stderr.isatty():
        from moondream_station.console.panel_presenter import PanelPresenter  # noqa: PLC0415
        from moondream_station.panel.terminal import Terminal  # noqa: PLC0415

        terminal = Terminal(sys.stderr)
        if terminal.can_draw:
            return PanelPresenter(terminal, unicode=terminal.shows_unicode(os.environ))
    return PlainPresenter()


def _run(options: SwitchOptions, presenter: Presenter | None) -> int:
    home, settings = begin(strategy=options.strategy)
    check_strategy(settings.strategy)
    python = options.python and absolute(options.python)
    if python is not None and not python.is_file():
        raise UsageError(f"There is no file {python}.", hint="Give the path of a Python interpreter.")
    accepted = options.accept_notice or (presenter is None and _accepts_notice(home, settings, options.model))
    options = replace(options, strategy=settings.strategy, python=python, accept_notice=accepted)
    return run_loop(_switch, home, settings, options, presenter or presenter_for())


def _accepts_notice(home: Home, settings: Settings, model: str) -> bool:
    """Ask for the model's notice, where somebody can answer; whoever declines gets the error."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    with suppress(StationError):  # which the switch meets again, and reports
        if notice := run_loop(_open_notice, home, settings, model):
            print_progress(notice)
            write(sys.stderr, f"Accept this, and switch to {model}? [y/N] ")
            return sys.stdin.readline().strip().lower() in {"y", "yes"}
    return False


async def _open_notice(home: Home, settings: Settings, model: str) -> str | None:
    """The notice that must be accepted before a switch to a model, None where there is none."""
    from moondream_station.core.activation.models import accepted_notices  # noqa: PLC0415  on terminals
    from moondream_station.core.station import open_manifest  # noqa: PLC0415
    from moondream_station.core.views.overview import notice_shape  # noqa: PLC0415
    from moondream_station.http.client import StationClient  # noqa: PLC0415

    if (record := await anyio.to_thread.run_sync(read_station, home)) is not None:
        async with StationClient(record.address, token=record.token) as client:
            models = (await client.models())["models"]
        notice = next((shown["notice"] for shown in models if shown["id"] == model), None)
    else:
        manifest = await open_manifest(home, settings, os.environ)
        notice = notice_shape(manifest.models.get(model), accepted_notices(home))
    if notice is None or notice["accepted"]:
        return None
    return "\n".join(filter(None, (notice["text"], notice["url"])))


async def _switch(home: Home, settings: Settings, options: SwitchOptions, presenter: Presenter) -> int:
    def request_here(station: Station) -> None:
        with suppress(UnknownModel):  # published, and so presented
            station.request_switch(options.model, **options.flags)

    async def request_there(client: StationClient) -> Accepted | None:
        try:
            return await client.switch(options.model, options.strategy, **options.flags)
        except UnknownModel:
            return None  # published, and so presented

    if (record := await anyio.to_thread.run_sync(read_station, home)) is not None:
        return await activate_there(home, record, options.model, request_there, presenter)
    code = await activate_here(home, settings, request_here, presenter)
    if code == DONE and (record := await anyio.to_thread.run_sync(read_station, home)) is not None:
        await _hand_over(home, record, options)
    return code


async def _hand_over(home: Home, record: StationRecord, options: SwitchOptions) -> None:
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


async def _tell(record: StationRecord, options: SwitchOptions, *, environment: str) -> str:
    """Tell a station to serve a model from its environment; returns what to report, "" for nothing."""
    from moondream_station.http.client import StationClient  # noqa: PLC0415  only where a station serves

    try:
        async with StationClient(record.address, token=record.token) as client:
            status = await client.status()
            served = status["active"]["environment"] if status["active"] else None
            # A station that is switching was asked for something later than this.
            if status["activation"] is not None or served == environment:
                return ""
            await client.switch(options.model, options.strategy, **replace(options, upgrade=False).flags)
    except StationError as error:
        return f"was not notified: {error.message}"
    return f"was notified, and is switching to {options.model}."
