"""`cancel`: ends the running activation, whichever process runs it."""

from __future__ import annotations

import os

import anyio
import anyio.to_thread

from moondream_station.console.output import print_text
from moondream_station.console.signals import run_loop
from moondream_station.core.activation.activation import ask_to_cancel, withdraw
from moondream_station.core.bus.journal import read_activation
from moondream_station.core.facts.errors import NothingToCancel, StationError
from moondream_station.core.facts.events import ActivationCancelled, ActivationSucceeded, Fact
from moondream_station.core.home.layout import Home, home_from
from moondream_station.core.home.locks import Holder, activation_holder, read_station

_PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 0.1


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
        from moondream_station.http.client import StationClient  # noqa: PLC0415  only where a station serves

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
    """The process whose activation holds the home's lock.

    Raises:
        NothingToCancel: There is none. Other holders (`prune`, say) have no journal, and read no requests.
    """
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
