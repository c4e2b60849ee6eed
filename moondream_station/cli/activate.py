"""Requests an activation and shows it to its end, here or in the serving station; `cancel` ends one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio.to_thread

from moondream_station.console.exit_codes import CANCELLED
from moondream_station.console.interrupts import ignore_signals
from moondream_station.console.output import print_text
from moondream_station.console.presenting import Presenter, present
from moondream_station.console.signals import cancel_on_signal, run_loop
from moondream_station.core.activation.activation import ask_to_cancel, withdraw
from moondream_station.core.bus.journal import read_activation
from moondream_station.core.facts.codec import event_from_json
from moondream_station.core.facts.errors import NothingToCancel, StationError, StationUnreachable
from moondream_station.core.facts.events import (
    ActivationCancelled,
    ActivationSucceeded,
    BackendActivationRequested,
    CancelReason,
    Event,
    Fact,
)
from moondream_station.core.home.layout import Home, home_from
from moondream_station.core.home.locks import Holder, StationRecord, activation_holder, read_station
from moondream_station.core.home.settings import Settings

if TYPE_CHECKING:
    from moondream_station.core.station import Station
    from moondream_station.http.client import Accepted, StationClient

_POLL_SECONDS = 0.25
_PATIENCE_SECONDS = 10.0
_Message: TypeAlias = dict[str, Any]


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
    this command began, and leaves one that it joined. An error comes in a group (`one_error`).
    """
    from moondream_station.http.client import StationClient  # noqa: PLC0415  only where a station serves

    code = CANCELLED
    interrupted = anyio.Event()
    following = anyio.CancelScope()
    gone = anyio.Event()
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

    async def watch_station() -> None:
        await wait_until_gone(home, record)
        gone.set()

    async with (
        StationClient(record.address, token=record.token) as client,
        client.follow() as messages,
        anyio.create_task_group() as tasks,
    ):
        with cancel_on_signal(lambda _: interrupted.set()):
            accepted = await request(client)
            with following:
                published = _until_gone(messages, gone)
                if accepted is None:
                    activation, events = None, _refused(published, model)
                else:
                    activation = accepted.activation
                    events = _from_the_beginning(home, published, activation)
                begun = activation if accepted is not None and not accepted.joined else None
                tasks.start_soon(heed_interrupt, begun)
                tasks.start_soon(watch_station)
                code = await present(events, presenter, activation=activation)
            ignore_signals()  # the outcome has been shown
        tasks.cancel_scope.cancel()
    if cancelled is not None:
        await anyio.to_thread.run_sync(withdraw, home, cancelled)
    return code


async def wait_until_gone(home: Home, record: StationRecord) -> None:
    """Wait while the station serves; another one may take its place, even at its address."""
    while await anyio.to_thread.run_sync(read_station, home) == record:  # noqa: ASYNC110  of another process
        await anyio.sleep(_POLL_SECONDS)


async def _until_gone(messages: AsyncIterator[_Message], gone: anyio.Event) -> AsyncIterator[_Message]:
    """The messages until the station has gone, or can't be reached any more."""
    while True:
        message = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_after, gone, tasks.cancel_scope)
            with suppress(StationUnreachable):
                message = await anext(messages)
            tasks.cancel_scope.cancel()
        if message is None:
            return
        yield message


async def _cancel_after(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _from_the_beginning(
    home: Home, messages: AsyncIterator[_Message], activation: str
) -> AsyncIterator[Event]:
    """An activation's events; what came before a snapshot, or was a station's last, is in its journal."""
    last_seq = 0
    async for message in messages:
        is_event = message["event"] != "Snapshot"
        events = [event_from_json(message)] if is_event else await _journal(home, activation)
        for event in events:
            if event.seq > last_seq:
                last_seq = event.seq
                yield event
    for event in await _journal(home, activation):
        if event.seq > last_seq:
            yield event
    raise StationUnreachable(
        "The station ended in the middle of the switch.",
        hint="`moondream-station status` shows what is active; run the command again.",
    )


async def _journal(home: Home, activation: str) -> list[Event]:
    return await anyio.to_thread.run_sync(read_activation, home, activation)


async def _refused(messages: AsyncIterator[_Message], model: str) -> AsyncIterator[Event]:
    """The events without requests for other models, which may have come before the refused one."""
    async for message in messages:
        if message["event"] == "Snapshot":
            continue
        event = event_from_json(message)
        if not isinstance(event.fact, BackendActivationRequested) or event.fact.model == model:
            yield event


def run_cancel(*, as_json: bool) -> int:
    """Cancel what runs; returns the exit code."""
    home = home_from(os.environ)
    activation = run_loop(_cancel, home)
    print_text(f"Cancelled {activation}.", {"activation": activation}, as_json=as_json)
    return 0


async def _cancel(home: Home) -> str:
    """Request the end of what runs, and wait until it was cancelled; returns its id."""
    activation, holder = await _request_cancel(home)
    with anyio.move_on_after(_PATIENCE_SECONDS):
        last = await _outcome(home, activation, holder)
        if last is None or isinstance(last, ActivationCancelled):
            return activation
        await anyio.to_thread.run_sync(withdraw, home, activation)
        how = "succeeded" if isinstance(last, ActivationSucceeded) else "failed"
        raise NothingToCancel(
            f"The activation {activation} {how} before it could be cancelled.",
            hint="`moondream-station status` shows what is active.",
        )
    raise StationError(
        f"The activation {activation} did not end within {_PATIENCE_SECONDS:g} s after it was cancelled.",
        hint="`moondream-station status` names the process that runs it; you can end that process.",
    )


async def _request_cancel(home: Home) -> tuple[str, Holder | None]:
    """Request the end of what runs; returns its id, and its process unless the serving station runs it."""
    record = await anyio.to_thread.run_sync(read_station, home)
    if record is not None:
        from moondream_station.http.client import StationClient  # noqa: PLC0415

        try:
            async with StationClient(record.address, token=record.token) as client:
                return await client.cancel(), None
        except NothingToCancel as error:
            nothing = error
        if await anyio.to_thread.run_sync(activation_holder, home) is None:
            raise nothing
    holder = await anyio.to_thread.run_sync(_activating, home)
    await anyio.to_thread.run_sync(ask_to_cancel, home, holder.activation)
    return holder.activation, holder


def _activating(home: Home) -> Holder:
    """Who holds the home's lock for an activation; others (`prune`, say) write no journal."""
    holder = activation_holder(home)
    if holder is not None and read_activation(home, holder.activation):
        return holder
    holds = f"; pid {holder.pid} ({holder.command}) uses the home" if holder else ""
    raise NothingToCancel(
        f"No activation is running{holds}.", hint="`moondream-station status` shows what is active."
    )


async def _outcome(home: Home, activation: str, holder: Holder | None) -> Fact | None:
    """The terminal fact of an activation once there is one; None where its process died without it."""
    while True:
        # In this order: a process may publish its terminal fact and end between the two looks.
        has_ended = holder is not None and await anyio.to_thread.run_sync(activation_holder, home) != holder
        events = await anyio.to_thread.run_sync(read_activation, home, activation)
        if events and events[-1].is_terminal:
            return events[-1].fact
        if has_ended:
            return None
        await anyio.sleep(_POLL_SECONDS)
