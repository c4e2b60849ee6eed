"""What killed activations and stations left behind, and its removal where that needs no question."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread

from moondream_station.core.backends.code_store import sweep as sweep_code
from moondream_station.core.bus.bus import new_activation_id
from moondream_station.core.environments.store import Place, sweep
from moondream_station.core.facts.errors import StationRunning
from moondream_station.core.home.active_file import read_active
from moondream_station.core.home.layout import Home
from moondream_station.core.home.locks import activation_holder, activation_lock, read_station, serve_lock

_LOCK_SECONDS = 2.0
_NEVER_FINISHED = (
    ("environments", ".trash-*"),
    ("environments", "*/.*.tmp"),
    ("backends", ".trash-*"),
    ("backends", "*/.trash-*"),
    ("backends", "*/.new-*"),
    ("backends", "*/*/.trash-*"),
    ("downloads", ".trash-*"),
    ("downloads", ".*.tmp"),
    ("cache", "lock-*"),
    ("cache", ".trash-*"),
    ("cache", "uv/.tmp*"),
)


def leftovers(home: Home) -> tuple[str, ...]:
    """What an activation left half done, by path below the home; nothing of one that may be running.

    Raises:
        HomeUnusable: `active.json` can't be read, so that nobody knows what is in use.
    """
    named = read_active(home).environments
    found = [*_uncommitted(home, named), *_temporary(home)]
    return tuple(sorted(path.relative_to(home.root).as_posix() for path in found))


def _uncommitted(home: Home, named: frozenset[str]) -> Iterator[Path]:
    for path in home.environments.glob("[!.]*"):
        is_place = path.is_dir() and not path.is_symlink()
        if is_place and path.name not in named and not Place(path=path).commit.exists():
            yield path


def _temporary(home: Home) -> Iterator[Path]:
    for folder, pattern in _NEVER_FINISHED:
        yield from (home.root / folder).glob(pattern)
    yield from home.root.glob(f".{home.active.name}.*.tmp")


def is_station_stale(home: Home) -> bool:
    """Whether `station.json` is of a station that does not live any more."""
    return home.station.exists() and read_station(home) is None


def is_holder_stale(home: Home) -> bool:
    """Whether `activation.json` is of an activation that does not live any more."""
    return home.activation_holder.exists() and activation_holder(home) is None


async def repair(home: Home) -> tuple[str, ...]:
    """Remove what was left behind, and nothing that anybody uses.

    Returns:
        A sentence about each thing that was done, or could not be.

    Raises:
        StationError: The home can't be read or written, or can't lock.
    """
    await anyio.lowlevel.checkpoint()
    if not home.root.is_dir():
        return ()
    done = list(_take_down_station(home)) if is_station_stale(home) else []
    was_stale = is_holder_stale(home)
    if activation_holder(home) is not None:
        return (*done, "Nothing half done was removed, because an activation is running.")
    swept: tuple[str, ...] | None = None
    with anyio.move_on_after(_LOCK_SECONDS) as waiting:
        async with activation_lock(
            home, activation=new_activation_id(), command="doctor --fix", on_wait=lambda _: None
        ):
            waiting.deadline = float("inf")  # what is begun is finished
            before = await anyio.to_thread.run_sync(leftovers, home)
            await sweep(home)
            await anyio.to_thread.run_sync(sweep_code, home)
            after = await anyio.to_thread.run_sync(leftovers, home)
            swept = tuple(path for path in before if path not in after)
    if swept is None:
        return (*done, "Nothing half done was removed, because another process changes the home.")
    if was_stale:
        done.append("Removed activation.json of an activation that is no longer alive.")
    return (*done, *(f"Removed {path}, which was left half done." for path in swept))


def _take_down_station(home: Home) -> Iterator[str]:
    try:
        with serve_lock(home):
            yield "Removed station.json of a station that is no longer alive."
    except StationRunning:
        yield "Left station.json alone, because a station is just beginning to serve."
