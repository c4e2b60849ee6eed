"""`cancel`: ends the running activation, whichever process runs it."""

from __future__ import annotations

import os

import anyio

from moondream_station.cli.output import print_text
from moondream_station.core.cancelling import ask_to_cancel
from moondream_station.core.errors import NothingToCancel, StationError
from moondream_station.core.home import Home, home_from
from moondream_station.core.journal import read_activation
from moondream_station.core.locks import Holder, StationRecord, activation_holder, read_station

_PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 0.1


def run_cancel(*, as_json: bool) -> int:
    """Cancel what runs; returns the exit code."""
    home = home_from(os.environ)
    activation = anyio.run(_cancel, home)
    print_text(f"Cancelled {activation}.", {"activation": activation}, as_json=as_json)
    return 0


async def _cancel(home: Home) -> str:
    record = read_station(home)
    if record is not None:
        try:
            return await _cancel_there(record)
        except NothingToCancel:
            if activation_holder(home) is None:
                raise
    return await _cancel_elsewhere(home, _activating(home))


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


async def _cancel_there(record: StationRecord) -> str:
    from moondream_station.http.client import StationClient  # noqa: PLC0415  only where a station serves

    async with StationClient(record.address, token=record.token) as client:
        return await client.cancel()


async def _cancel_elsewhere(home: Home, holder: Holder) -> str:
    """Ask another process, and see that it lets go of the home."""
    ask_to_cancel(home, holder.activation)
    with anyio.move_on_after(_PATIENCE_SECONDS):
        while activation_holder(home) == holder:  # noqa: ASYNC110  another process lets go of it
            await anyio.sleep(_POLL_SECONDS)
        return holder.activation
    raise StationError(
        f"The activation {holder.activation} (pid {holder.pid}) was asked to end, and has not after"
        f" {_PATIENCE_SECONDS:g} s.",
        hint="Look whether that process still works; it can be ended by its id.",
    )
