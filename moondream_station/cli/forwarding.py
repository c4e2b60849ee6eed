"""Letting the station that serves this home do it, and following what it does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from moondream_station.console.exit_codes import CANCELLED
from moondream_station.console.interrupts import ignore_signals
from moondream_station.console.output import print_progress
from moondream_station.console.presenting import Presenter, present, presenter_for
from moondream_station.console.signals import cancel_on_signal
from moondream_station.core.activation.activation import ask_to_cancel, withdraw
from moondream_station.core.bus.journal import read_activation
from moondream_station.core.facts.codec import event_from_json
from moondream_station.core.facts.errors import StationError, UnknownModel
from moondream_station.core.facts.events import BackendActivationRequested, CancelReason, Event
from moondream_station.core.home.active_file import read_active
from moondream_station.core.home.layout import Home
from moondream_station.core.home.locks import StationRecord
from moondream_station.http.client import Accepted, StationClient

if TYPE_CHECKING:
    from moondream_station.cli.switch import Wish


@dataclass
class _Following:
    """What Ctrl-C means: an activation that this command began is cancelled, one that it joined goes on."""

    home: Home
    presenter: Presenter
    activation: str | None = None
    joined: bool = False
    has_asked: bool = False
    interrupted: anyio.Event = field(default_factory=anyio.Event)

    def on_signal(self, _: CancelReason) -> None:
        """Take note; what follows needs an answer of the station's."""
        self.interrupted.set()


async def switch_there(home: Home, record: StationRecord, wish: Wish) -> int:
    """Let the serving station switch, and show its activation; gives the exit code.

    Args:
        home: The home that both have.
        record: The station.
        wish: What is asked for.
    """

    async def ask(client: StationClient) -> Accepted | None:
        try:
            return await client.switch(wish.model, wish.strategy, upgrade=wish.upgrade, python=wish.python)
        except UnknownModel:
            return None  # published, and so presented

    return await follow_there(home, record, wish.model, ask, presenter_for(as_json=wish.as_json))


async def follow_there(
    home: Home,
    record: StationRecord,
    model: str,
    ask: Callable[[StationClient], Awaitable[Accepted | None]],
    presenter: Presenter,
) -> int:
    """Ask the serving station for an activation, and show it; gives the exit code.

    Args:
        home: The home that both have.
        record: The station.
        model: The model that it is about.
        ask: Asks for it; None where it was refused, which the station told as an activation of its own.
        presenter: Shows it.

    Raises:
        StationError: What the station answered.
    """
    refusal: StationError | None = None
    code = CANCELLED
    async with (
        StationClient(record.address, token=record.token) as client,
        client.follow() as messages,
        anyio.create_task_group() as tasks,
    ):
        following = _Following(home, presenter)
        with cancel_on_signal(following.on_signal):
            try:
                accepted = await ask(client)
            except StationError as error:
                refusal = error  # told below, where it is not one of a group
            else:
                following.joined = accepted is not None and accepted.joined
                activation = following.activation = None if accepted is None else accepted.activation
                scope = anyio.CancelScope()
                tasks.start_soon(_obey, following, scope)
                with scope:
                    if activation is None:
                        events = _refused(_published(messages), model)
                    else:
                        events = _from_the_beginning(home, _published(messages), activation)
                    code = await present(events, presenter, activation=activation)
                ignore_signals()  # how it ended is told
        tasks.cancel_scope.cancel()
    if following.has_asked and following.activation is not None:
        await anyio.to_thread.run_sync(withdraw, home, following.activation)
    if refusal is not None:
        raise refusal
    return code


async def hand_over(home: Home, record: StationRecord, wish: Wish) -> None:
    """Let a station that began to serve while a command switched by itself serve that model now.

    The environment is there, so that it takes no more than a worker's start; nobody waits for that here. A
    station that switches already was told something later.

    Args:
        home: The home that both have.
        record: The station.
        wish: What was asked for, and is done.
    """
    active = read_active(home)
    if active.model != wish.model:
        return  # another command has been here
    said = "was not told: a signal came."
    with anyio.CancelScope() as scope, cancel_on_signal(lambda _: scope.cancel()):
        said = await _tell(record, wish, environment=active.models[wish.model].environment)
    if said:
        print_progress(f"The station at {record.address} {said}")


async def _tell(record: StationRecord, wish: Wish, *, environment: str) -> str:
    """Tell a station to serve a model from its environment; gives what to say of it, "" for nothing."""
    try:
        async with StationClient(record.address, token=record.token) as client:
            status = await client.status()
            served = status["active"]["environment"] if status["active"] else None
            if status["activation"] is not None or served == environment:
                return ""
            await client.switch(wish.model, wish.strategy, python=wish.python)
    except StationError as error:
        return f"was not told: {error.message}"
    return f"was told, and goes over to {wish.model} now."


async def _obey(following: _Following, scope: anyio.CancelScope) -> None:
    await following.interrupted.wait()
    if following.joined or following.activation is None:
        scope.cancel()
        return
    following.presenter.cancelling()
    following.has_asked = True
    # That one alone, and not what may have taken its place in the station meanwhile.
    await anyio.to_thread.run_sync(ask_to_cancel, following.home, following.activation)


async def _published(messages: AsyncIterator[dict[str, Any]]) -> AsyncIterator[Event]:
    async for message in messages:
        if message.get("event") != "Snapshot":
            yield event_from_json(message)


async def _from_the_beginning(
    home: Home, events: AsyncIterator[Event], activation: str
) -> AsyncIterator[Event]:
    """An activation's events, also those from before we listened, which stand in its journal."""
    seen = 0
    for event in await anyio.to_thread.run_sync(read_activation, home, activation):
        seen = event.seq
        yield event
    async for event in events:
        if event.seq > seen:
            yield event


async def _refused(events: AsyncIterator[Event], model: str) -> AsyncIterator[Event]:
    """The events from the request on that was refused; another one may have come before it."""
    async for event in events:
        if not isinstance(event.fact, BackendActivationRequested) or event.fact.model == model:
            yield event
