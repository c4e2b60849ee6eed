"""Requests an activation and shows it to its end: in the command's own station, or in the serving one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from moondream_station.console.exit_codes import CANCELLED
from moondream_station.console.interrupts import ignore_signals
from moondream_station.console.presenting import Presenter, present
from moondream_station.console.signals import cancel_on_signal
from moondream_station.core.activation.activation import ask_to_cancel, withdraw
from moondream_station.core.bus.journal import read_activation
from moondream_station.core.facts.codec import event_from_json
from moondream_station.core.facts.errors import NothingToCancel
from moondream_station.core.facts.events import BackendActivationRequested, CancelReason, Event
from moondream_station.core.home.layout import Home
from moondream_station.core.home.locks import StationRecord
from moondream_station.core.home.settings import Settings

if TYPE_CHECKING:
    from moondream_station.core.station import Station
    from moondream_station.http.client import Accepted, StationClient


async def activate_here(
    home: Home, settings: Settings, request: Callable[[Station], object], presenter: Presenter
) -> int:
    """Open a station for this command alone, `request` an activation, and show it; returns the exit code.

    No station serves the home. What `request` suppresses must have been published.
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
                ignore_signals()  # the outcome has been shown
    return code


async def activate_there(
    home: Home,
    record: StationRecord,
    model: str,
    request: Callable[[StationClient], Awaitable[Accepted | None]],
    presenter: Presenter,
) -> int:
    """Request an activation of a model from the serving station, and show it; returns the exit code.

    `request` returns None for a refusal that the station has published. Ctrl-C cancels an activation that
    this command began, and leaves one that it joined.

    Raises:
        StationError: What the station answered, or that it has gone; in a group with nothing else.
    """
    from moondream_station.http.client import StationClient  # noqa: PLC0415  only where a station serves

    code = CANCELLED
    interrupted = anyio.Event()
    following = anyio.CancelScope()
    cancelled: str | None = None

    async def heed_interrupt(begun: str | None) -> None:
        nonlocal cancelled
        await interrupted.wait()
        if begun is None:
            following.cancel()
            return
        presenter.cancelling()
        cancelled = begun
        # By its id: `POST /v1/station/cancel` would cancel another one that has superseded it meanwhile.
        await anyio.to_thread.run_sync(ask_to_cancel, home, begun)

    async with (
        StationClient(record.address, token=record.token) as client,
        client.follow() as messages,
        anyio.create_task_group() as tasks,
    ):
        with cancel_on_signal(lambda _: interrupted.set()):
            accepted = await request(client)
            with following:
                if accepted is None:
                    activation, events = None, _refused(messages, model)
                else:
                    activation = accepted.activation
                    events = _from_the_beginning(home, messages, activation)
                begun = activation if accepted is not None and not accepted.joined else None
                tasks.start_soon(heed_interrupt, begun)
                code = await present(events, presenter, activation=activation)
            ignore_signals()  # the outcome has been shown
        tasks.cancel_scope.cancel()
    if cancelled is not None:
        await anyio.to_thread.run_sync(withdraw, home, cancelled)
    return code


async def _from_the_beginning(
    home: Home, messages: AsyncIterator[dict[str, Any]], activation: str
) -> AsyncIterator[Event]:
    """An activation's events; what came before a snapshot is in its journal."""
    last_seq = 0
    async for message in messages:
        if message["event"] == "Snapshot":
            events = await anyio.to_thread.run_sync(read_activation, home, activation)
        else:
            events = [event_from_json(message)]
        for event in events:
            if event.seq > last_seq:
                last_seq = event.seq
                yield event


async def _refused(messages: AsyncIterator[dict[str, Any]], model: str) -> AsyncIterator[Event]:
    """The events without requests for other models, which may have come before the refused one."""
    async for message in messages:
        if message["event"] == "Snapshot":
            continue
        event = event_from_json(message)
        if not isinstance(event.fact, BackendActivationRequested) or event.fact.model == model:
            yield event
