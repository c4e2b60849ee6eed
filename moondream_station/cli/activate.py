"""Requests an activation and shows it to its end: in the command's own station, or in the serving one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
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
from moondream_station.core.facts.errors import NothingToCancel, StationError
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


@dataclass
class _Following:
    """What Ctrl-C does: it cancels an activation that this command began, and not one that it joined."""

    home: Home
    presenter: Presenter
    activation: str | None = None
    joined: bool = False
    has_asked: bool = False
    interrupted: anyio.Event = field(default_factory=anyio.Event)

    async def heed_interrupt(self, scope: anyio.CancelScope) -> None:
        """Wait for a signal, then cancel the activation, or the scope where there is none of our own."""
        await self.interrupted.wait()
        if self.joined or self.activation is None:
            scope.cancel()
            return
        self.presenter.cancelling()
        self.has_asked = True
        # By its id: `POST /v1/station/cancel` would cancel another one that has superseded it meanwhile.
        await anyio.to_thread.run_sync(ask_to_cancel, self.home, self.activation)


async def activate_there(
    home: Home,
    record: StationRecord,
    model: str,
    request: Callable[[StationClient], Awaitable[Accepted | None]],
    presenter: Presenter,
) -> int:
    """Request an activation of a model from the serving station, and show it; returns the exit code.

    `request` returns None for a refusal that the station has published.

    Raises:
        StationError: What the station answered.
    """
    from moondream_station.http.client import StationClient  # noqa: PLC0415  only where a station serves

    refusal: StationError | None = None
    code = CANCELLED
    following = _Following(home, presenter)
    async with (
        StationClient(record.address, token=record.token) as client,
        client.follow() as messages,
        anyio.create_task_group() as tasks,
    ):
        with cancel_on_signal(lambda _: following.interrupted.set()):
            try:
                accepted = await request(client)
            except StationError as error:
                refusal = (
                    error  # raised below, outside the task group, which would wrap it in an ExceptionGroup
                )
            else:
                following.joined = accepted is not None and accepted.joined
                activation = following.activation = None if accepted is None else accepted.activation
                scope = anyio.CancelScope()
                tasks.start_soon(following.heed_interrupt, scope)
                with scope:
                    if activation is None:
                        events = _refused(_published(messages), model)
                    else:
                        events = _from_the_beginning(home, _published(messages), activation)
                    code = await present(events, presenter, activation=activation)
                ignore_signals()  # the outcome has been shown
        tasks.cancel_scope.cancel()
    if following.has_asked and following.activation is not None:
        await anyio.to_thread.run_sync(withdraw, home, following.activation)
    if refusal is not None:
        raise refusal
    return code


async def _published(messages: AsyncIterator[dict[str, Any]]) -> AsyncIterator[Event]:
    async for message in messages:
        if message.get("event") != "Snapshot":
            yield event_from_json(message)


async def _from_the_beginning(
    home: Home, events: AsyncIterator[Event], activation: str
) -> AsyncIterator[Event]:
    """An activation's events; those from before we subscribed are in its journal."""
    last_seq = 0
    for event in await anyio.to_thread.run_sync(read_activation, home, activation):
        last_seq = event.seq
        yield event
    async for event in events:
        if event.seq > last_seq:
            yield event


async def _refused(events: AsyncIterator[Event], model: str) -> AsyncIterator[Event]:
    """The events without requests for other models, which may have come before the refused one."""
    async for event in events:
        if not isinstance(event.fact, BackendActivationRequested) or event.fact.model == model:
            yield event
