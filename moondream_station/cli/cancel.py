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
from moondream_station.core.home.locks import Holder, StationRecord, activation_holder, read_station

_PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 0.1


def run_cancel(*, as_json: bool) -> int:
    """Cancel what runs; returns the exit code."""
    home = home_from(os.environ)
    activation = run_loop(_cancel, home)
    print_text(f"Cancelled {activation}.", {"activation": activation}, as_json=as_json)
    return 0


async def _cancel(home: Home) -> str:
    """Ask it to end, and see that it was cancelled; gives its id."""
    activation, holder = await _ask(home)
    with anyio.move_on_after(_PATIENCE_SECONDS):
        last = await _last_of(home, activation, holder)
        if last is None or isinstance(last, ActivationCancelled):
            return activation
        await anyio.to_thread.run_sync(withdraw, home, activation)
        how = "it succeeded" if isinstance(last, ActivationSucceeded) else "it failed"
        raise NothingToCancel(
            f"The activation {activation} ended before it could be cancelled: {how}.",
            hint="`moondream-station status` shows what is active.",
        )
    raise StationError(
        f"The activation {activation} was asked to end, and has not after {_PATIENCE_SECONDS:g} s.",
        hint="`moondream-station status` names the process that runs it; that can be ended by its id.",
    )


async def _ask(home: Home) -> tuple[str, Holder | None]:
    """Ask what runs to end; gives its id, and the other process that runs it, None where the station does."""
    record = read_station(home)
    if record is not None:
        try:
            return await _ask_station(record), None
        except NothingToCancel:
            if activation_holder(home) is None:
                raise
    holder = _activating(home)
    ask_to_cancel(home, holder.activation)
    return holder.activation, holder


def _activating(home: Home) -> Holder:
    """The process whose activation holds the home.

    Raises:
        NothingToCancel: None does; what else is done to a home (`prune`, say) has no journal, and heeds no
            request to end.
    """
    holder = activation_holder(home)
    if holder is not None and read_activation(home, holder.activation):
        return holder
    meanwhile = f"; pid {holder.pid} ({holder.command}) is at work" if holder else ""
    raise NothingToCancel(
        f"No activation is running{meanwhile}.", hint="`moondream-station status` shows what is active."
    )


async def _ask_station(record: StationRecord) -> str:
    from moondream_station.http.client import StationClient  # noqa: PLC0415  only where a station serves

    async with StationClient(record.address, token=record.token) as client:
        return await client.cancel()


async def _last_of(home: Home, activation: str, holder: Holder | None) -> Fact | None:
    """How an activation ended, as soon as it has; None where its process died and told nothing."""
    while True:
        is_over = holder is not None and activation_holder(home) != holder
        events = await anyio.to_thread.run_sync(read_activation, home, activation)
        if events and events[-1].is_terminal:
            return events[-1].fact
        if is_over:
            return None
        await anyio.sleep(_POLL_SECONDS)
