"""`doctor --fix`: removes what killed activations and stations left behind, where that needs no question."""

from __future__ import annotations

import anyio
import anyio.to_thread

from moondream_station.core.bus.bus import new_activation_id
from moondream_station.core.environments.store import sweep
from moondream_station.core.facts.errors import StationRunning
from moondream_station.core.home.layout import Home
from moondream_station.core.home.locks import activation_holder, activation_lock, serve_lock
from moondream_station.doctor.checks.station import is_holder_stale, is_station_stale

_LOCK_SECONDS = 2.0


async def repair(home: Home) -> tuple[str, ...]:
    """Remove what was left behind, and nothing that is in use; gives a sentence about each thing.

    Raises:
        StationError: The home can't be read or written, or can't lock.
    """
    if not home.root.is_dir():
        return ()
    done = await anyio.to_thread.run_sync(_take_down_station, home)
    if await anyio.to_thread.run_sync(activation_holder, home) is not None:
        return (*done, "Nothing unfinished was removed, because an activation is running.")
    was_stale = await anyio.to_thread.run_sync(is_holder_stale, home)
    with anyio.move_on_after(_LOCK_SECONDS) as waiting:
        async with activation_lock(
            home, activation=new_activation_id(), command="doctor --fix", on_wait=lambda _: None
        ):
            waiting.deadline = float("inf")  # what is begun is finished
            if was_stale:
                done.append("Removed activation.json of an activation that no longer runs.")
            removed = await sweep(home)
            return (*done, *(f"Removed {path}, which was left unfinished." for path in sorted(removed)))
    return (*done, "Nothing unfinished was removed, because another process is changing the home.")


def _take_down_station(home: Home) -> list[str]:
    """Remove a dead station's record."""
    if not is_station_stale(home):
        return []
    try:
        with serve_lock(home):
            return ["Removed station.json of a station that no longer runs."]
    except StationRunning:
        return ["Left station.json, because a station is just starting."]
