"""Removing what nothing refers to: environments, downloads, code and caches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import psutil

from moondream_station.core.bus import new_activation_id
from moondream_station.core.environments.active import read_active
from moondream_station.core.environments.pylock import read_stored_pylock
from moondream_station.core.environments.store import Committed, committed_environments, sweep
from moondream_station.core.errors import ResolutionConflict
from moondream_station.core.home import Home
from moondream_station.core.locks import Holder, activation_lock
from moondream_station.core.storage import remove_tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreferenced:
    """Something that can go.

    Args:
        path: Where it is.
        size_bytes: What removing it frees at least; files that have other names too are not counted.
        kind: "environment", "download", "backend" or "cache".
    """

    path: Path
    size_bytes: int
    kind: str


async def prune(home: Home, *, dry_run: bool, on_wait: Callable[[Holder | None], None]) -> list[Unreferenced]:
    """Remove what nothing refers to, or say what that would be.

    An environment stays while `active.json` names it or a process runs in it; a download stays while the lock
    of an environment that stays names it; a partial one is kept by nothing.

    Args:
        home: The home; it exists.
        dry_run: Whether to remove nothing.
        on_wait: Called where another process changes the home, which is waited for.

    Returns:
        What was, or would be, removed.

    Raises:
        HomeUnusable: `active.json` can't be read, so that nobody knows what is in use.
    """
    async with activation_lock(home, activation=new_activation_id(), command="prune", on_wait=on_wait):
        found = await anyio.to_thread.run_sync(_find, home)
        if not dry_run:
            await sweep(home)
            await anyio.to_thread.run_sync(_remove, found)
    return found


def _find(home: Home) -> list[Unreferenced]:
    named = read_active(home).environments
    running = _running_in(home.environments)
    kept: list[Committed] = []
    found: list[Unreferenced] = []
    for committed in committed_environments(home):
        if committed.place.name in named or committed.place.name in running:
            kept.append(committed)
        else:
            found.append(_unreferenced(committed.place.path, "environment"))
    wheels = {name for committed in kept for name in _wheels_of(committed)}
    downloads = [path for path in sorted(home.downloads.iterdir()) if _wheel_name(path) not in wheels]
    found += [_unreferenced(path, "download") for path in downloads]
    found += [_unreferenced(path, "cache") for path in sorted(home.cache.iterdir())]
    used = {(committed.record.backend, committed.record.backend_version) for committed in kept}
    code = [path for path in sorted(home.backends.glob("*/*")) if (path.parent.name, path.name) not in used]
    return [*found, *(_unreferenced(path, "backend") for path in code)]


def _wheel_name(path: Path) -> str:
    """A wheel's note lies beside it, under its name and `.json`."""
    return path.name.removesuffix(".json")


def _wheels_of(committed: Committed) -> Iterator[str]:
    try:
        lock = read_stored_pylock(committed.place.pylock.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ResolutionConflict):
        return  # an environment without a readable lock keeps itself, not its downloads
    yield from (file.stored_name for file in lock.files)


def _running_in(environments: Path) -> set[str]:
    """Names of the environments whose Python some process runs, of this station or another."""
    names = set()
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if command and Path(command[0]).is_relative_to(environments):
            names.add(Path(command[0]).relative_to(environments).parts[0])
    return names


def _unreferenced(path: Path, kind: str) -> Unreferenced:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if not file.is_symlink()]
    sizes = (file.stat() for file in files if file.is_file())
    return Unreferenced(
        path=path, size_bytes=sum(stat.st_size for stat in sizes if stat.st_nlink == 1), kind=kind
    )


def _remove(found: list[Unreferenced]) -> None:
    for one in found:
        if one.path.is_dir():
            remove_tree(one.path)
        else:
            one.path.unlink(missing_ok=True)
