"""`doctor --fix`: removes what was left behind, and mends the home's own files where no question arises."""

from __future__ import annotations

import secrets
from pathlib import Path

import anyio
import anyio.to_thread

from moondream_station.core.bus.bus import new_activation_id
from moondream_station.core.bus.journal import read_history
from moondream_station.core.environments.store import committed_environments, sweep
from moondream_station.core.facts.errors import HomeUnusable, StationRunning
from moondream_station.core.facts.events import ActivationSucceeded
from moondream_station.core.home.active_file import ActiveRecord, read_active, write_active
from moondream_station.core.home.layout import Home
from moondream_station.core.home.locks import activation_holder, activation_lock, serve_lock
from moondream_station.core.home.space import writing_to
from moondream_station.core.home.storage import NewerFormat
from moondream_station.doctor.checks.home import NOT_PERMITTED, misplaced
from moondream_station.doctor.checks.station import is_holder_stale, is_station_stale

_LOCK_SECONDS = 2.0


async def repair(home: Home) -> tuple[str, ...]:
    """Repair what needs no question, and nothing that is in use; gives a sentence about each thing.

    Raises:
        StationError: The home can't be read or written, or can't lock.
    """
    if not home.root.is_dir():
        return ()
    done = await anyio.to_thread.run_sync(_put_right, home)
    done += await anyio.to_thread.run_sync(_take_down_station, home)
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
            done += await anyio.to_thread.run_sync(_mend_active, home)
            removed = await sweep(home)
            return (*done, *(f"Removed {path}, which was left unfinished." for path in sorted(removed)))
    return (*done, "Nothing unfinished was removed, because another process is changing the home.")


def _put_right(home: Home) -> list[str]:
    """Make what is in the place of something else give way, and what may not be read readable."""
    done = []
    with writing_to(home.root):
        for path, fault in tuple(misplaced(home)):
            name = path.relative_to(home.root)
            if fault == NOT_PERMITTED:
                path.chmod(0o700 if path.is_dir() else 0o600)
                done.append(f"Made {name} readable and writable.")
            elif path != home.active:  # which is made again
                done.append(f"Moved {name} aside, to {_set_aside(home, path)}, because it {fault}.")
    if done:
        home.create()
    return done


def _set_aside(home: Home, path: Path) -> str:
    return path.rename(home.root / f"{path.name}.{secrets.token_hex(2)}.old").name


def _mend_active(home: Home) -> list[str]:
    """Make `active.json` again where it is damaged, from what activations made active and is still there."""
    try:
        read_active(home)
    except HomeUnusable as error:
        if isinstance(error.__cause__, NewerFormat):
            raise
    else:
        return []
    committed = {made.place.name: made.record for made in committed_environments(home)}
    active = ActiveRecord()
    for name, made in reversed(committed.items()):  # oldest first: the journals of some may be gone
        if made.model is not None:
            active = active.with_active(made.model, environment=name, request_key=made.request_key)
    for fact in (event.fact for event in read_history(home)):
        if isinstance(fact, ActivationSucceeded) and (record := committed.get(fact.environment)):
            active = active.with_active(
                fact.model, environment=fact.environment, request_key=record.request_key
            )
    with writing_to(home.root):
        old = _set_aside(home, home.active)
    write_active(home, active)
    what = f"{active.model} is active" if active.model else "no environment is left, so no model is active"
    return [f"Made active.json again; {what}. The damaged one is {old}."]


def _take_down_station(home: Home) -> list[str]:
    """Remove a dead station's record."""
    if not is_station_stale(home):
        return []
    try:
        with serve_lock(home):
            return ["Removed station.json of a station that no longer runs."]
    except StationRunning:
        return ["Left station.json, because a station is just starting."]
