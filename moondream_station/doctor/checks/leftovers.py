"""What killed activations and stations left behind, and its removal where that needs no question."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
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
    """What an activation left unfinished, by path below the home; nothing of one that may be running.

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
    """Whether `station.json` is of a station that no longer runs."""
    return home.station.exists() and read_station(home) is None


def is_holder_stale(home: Home) -> bool:
    """Whether `activation.json` is of an activation that no longer runs."""
    return home.activation_holder.exists() and activation_holder(home) is None


async def repair(home: Home) -> tuple[str, ...]:
    """Remove what was left behind, and nothing that is in use; gives a sentence about each thing.

    Raises:
        StationError: The home can't be read or written, or can't lock.
    """
    stale = await anyio.to_thread.run_sync(_take_down_stale, home)
    if stale is None:
        return ()
    done, was_holder_stale, is_running = stale
    if is_running:
        return (*done, "Nothing unfinished was removed, because an activation is running.")
    removed: tuple[str, ...] | None = None
    with anyio.move_on_after(_LOCK_SECONDS) as waiting:
        async with activation_lock(
            home, activation=new_activation_id(), command="doctor --fix", on_wait=lambda _: None
        ):
            waiting.deadline = float("inf")  # what is begun is finished
            before = await anyio.to_thread.run_sync(leftovers, home)
            await sweep(home)
            await anyio.to_thread.run_sync(sweep_code, home)
            after = await anyio.to_thread.run_sync(leftovers, home)
            removed = tuple(path for path in before if path not in after)
    if removed is None:
        return (*done, "Nothing unfinished was removed, because another process is changing the home.")
    if was_holder_stale:
        done.append("Removed activation.json of an activation that no longer runs.")
    return (*done, *(f"Removed {path}, which was left unfinished." for path in removed))


def _take_down_stale(home: Home) -> tuple[list[str], bool, bool] | None:
    """Take down a dead station's record; None where there is no home.

    Also gives whether an activation's record is stale, and whether an activation runs.
    """
    if not home.root.is_dir():
        return None
    done = []
    if is_station_stale(home):
        try:
            with serve_lock(home):
                done.append("Removed station.json of a station that no longer runs.")
        except StationRunning:
            done.append("Left station.json, because a station is just starting.")
    return done, is_holder_stale(home), activation_holder(home) is not None
