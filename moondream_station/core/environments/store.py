"""Environments that are finished: committed last, found again by what they were made for, swept otherwise."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import anyio
import anyio.to_thread

from moondream_station.core.facts.codec import to_json
from moondream_station.core.facts.errors import EnvironmentBroken, ResolutionConflict
from moondream_station.core.facts.events import Degraded, VerificationReport
from moondream_station.core.facts.selection import Source
from moondream_station.core.home.active_file import read_active
from moondream_station.core.home.checkpoints import Point, reached
from moondream_station.core.home.layout import TEMPORARY, Home, folder_name
from moondream_station.core.home.storage import (
    is_shortage,
    read_file,
    read_record,
    remove,
    sync_folder,
    sync_tree,
    write_atomically,
    writing_to,
)
from moondream_station.core.home.task_groups import as_raised

if TYPE_CHECKING:
    from moondream_station.core.fetch.lock import Lock

Format = Literal["moondream-station/environment/1"]

_NEVER_FINISHED: Final = (
    *(".active.json.*.tmp", "environments/.trash-*", "environments/*/.*.tmp"),
    *("backends/.trash-*", "backends/*/.trash-*", f"backends/*/{TEMPORARY}*", "backends/*/*/.trash-*"),
    *("downloads/.trash-*", "downloads/.*.tmp", "cache/.trash-*", "cache/lock-*", "cache/uv/.tmp*"),
)


@dataclass(unsafe_hash=True)
class Place:
    """An environment's folder (`HOME/environments/NAME`, absolute) and what is in it."""

    path: Path

    def __post_init__(self) -> None:
        self.name = self.path.name
        """8 digits of its lock's digest, and 4 at random."""
        self.venv = self.path / "venv"
        self.python = self.venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        self.pylock = self.path / "pylock.toml"
        self.rejected = self.path / "rejected"
        """Is there once torch did not compute in it: it is not used again."""
        self.commit = self.path / "commit.json"
        """The record that makes it count; a place without it is rubbish."""


def new_place(home: Home, digest: str) -> Place:
    """Make a folder that never was an environment before."""
    while True:
        path = home.environments / f"{digest[:8]}-{secrets.token_hex(2)}"
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            continue
        return Place(path=path)


def place_of(home: Home, name: str) -> Place:
    """The place of a name, whether it exists or not."""
    return Place(path=home.environments / name)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRecord:
    """What an environment is, written when it is finished. Only `found` changes later."""

    format: Format = "moondream-station/environment/1"
    lock_digest: str
    request_key: str
    model: str | None
    """None where it was made for none."""
    backend: str
    backend_version: str
    build: str | None
    """None for a backend without torch, as `torch` and `source`."""
    torch: str | None
    source: Source | None
    index_url: str | None
    """None for find-links, and for PyPI as the default index."""
    degraded: Degraded | None
    python: str
    """The base interpreter's path."""
    python_version: str
    packages: Mapping[str, str]
    """Version by normalized name."""
    file_count: int
    verification: VerificationReport | None
    created_at: datetime
    """UTC. For people: nothing is decided by it but an order."""
    code: str | None = None
    """None in the record of a station that had one place for a version (see `code_place`)."""
    own_files: Mapping[str, str] = field(default_factory=dict)
    """As `records.own_files` gives them; empty in the record of a station that did not look at them."""

    found: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By model, the args that its backend gave for what it fetched last."""

    @property
    def code_place(self) -> str:
        """The place of its backend's code below the home's `backends`."""
        return self.code or f"{self.backend}/{self.backend_version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A committed environment: its place and its record."""

    place: Place
    record: CommitRecord


def request_key(
    *,
    backend: str,
    backend_version: str,
    code_digest: str,
    requirements: Iterable[str],
    strategy: str,
    python: str,
    platform: str,
) -> str:
    """What an environment is made for, as 64 hexadecimal digits."""
    parts = [backend, backend_version, code_digest, sorted(requirements), strategy, python, platform]
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()


@asynccontextmanager
async def sync_ahead(place: Place | None) -> AsyncIterator[None]:
    """Begin to make a place durable while something else is done, so that its commit has little left to do.

    What fails here fails again in the commit, which counts. Left running where the other thing is done first.
    """

    async def sync() -> None:
        if place is not None:
            with suppress(OSError):
                await anyio.to_thread.run_sync(sync_tree, place.path, abandon_on_cancel=True)

    with as_raised():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sync)
            yield
            tasks.cancel_scope.cancel()


async def commit(place: Place, record: CommitRecord) -> None:
    """Make an environment count: everything in it is durable before `commit.json`, written last, names it."""
    from moondream_station.core.environments.packages import own_files  # noqa: PLC0415  unlike reading a record

    with writing_to(place.path):
        if record.verification is not None:
            await anyio.to_thread.run_sync(_write_json, place.path / "verification.json", record.verification)
        # Left running where it is cancelled: a slow disk must not hold a cancellation up.
        await anyio.to_thread.run_sync(sync_tree, place.path, abandon_on_cancel=True)
        await anyio.to_thread.run_sync(sync_folder, place.path.parent)
        reached(Point.SYNCED)
        record = replace(record, own_files=await anyio.to_thread.run_sync(own_files, place.venv))
        await anyio.to_thread.run_sync(_write_json, place.commit, record)
    reached(Point.COMMITTED)


async def amend(place: Place, record: CommitRecord) -> None:
    """Replace the record of a committed environment, which stays what it is."""
    with writing_to(place.path):
        await anyio.to_thread.run_sync(_write_json, place.commit, record)


def _write_json(path: Path, value: CommitRecord | VerificationReport) -> None:
    write_atomically(path, f"{json.dumps(to_json(value), indent=2)}\n")


def committed_at(place: Place) -> Committed:
    """The committed environment at a place; `EnvironmentBroken` says why there is none that can be used."""
    try:
        record = read_record(place.commit, CommitRecord, get_args(Format)[0])
        if record is not None:
            _check_code_place(record.code_place)
    except (OSError, ValueError) as error:
        if is_shortage(error):
            raise
        reason = error.strerror if isinstance(error, OSError) else None
        message = f"commit.json of environment {place.name} can't be used: {reason or error}."
        raise EnvironmentBroken(message) from error
    if record is None:
        fault = "has lost its commit.json" if place.path.exists() else "is gone"
        raise EnvironmentBroken(f"The environment {place.name} {fault}.")
    return Committed(place=place, record=record)


def _check_code_place(place: str) -> None:
    """Raise ValueError where it could lead out of the home's `backends`."""
    backend_id, _, rest = place.partition("/")
    for name in (backend_id, *rest.split("/", maxsplit=1)):
        folder_name(name)


def load_commit(place: Place) -> CommitRecord | None:
    """The place's record; None where it was not committed, or by a station that wrote another format."""
    try:
        return committed_at(place).record
    except EnvironmentBroken:
        return None


async def reject(place: Place) -> None:
    """Note that torch did not compute in a committed environment, so that it is never used again."""
    with suppress(OSError):  # where that can't be written, it is verified once more, and fails again
        await anyio.Path(place.rejected).touch()


async def check_whole(committed: Committed) -> None:
    """Raise `EnvironmentBroken` where a committed environment can't be used: files, lock, base Python."""
    await anyio.to_thread.run_sync(_check_whole, committed)


def _check_whole(committed: Committed) -> None:
    from moondream_station.core.environments.packages import (  # noqa: PLC0415  unlike reading a record
        changed_names,
        check_records,
        own_files,
    )

    place, record = committed.place, committed.record
    if not os.access(record.python, os.X_OK):
        raise EnvironmentBroken(f"The Python of environment {place.name} is gone: {record.python}.")
    if not os.access(place.python, os.X_OK):
        raise EnvironmentBroken(f"The environment {place.name} has no working Python.")
    if changed := changed_names(record.own_files, own_files(place.venv)):
        raise EnvironmentBroken(f"Environment {place.name} has lost or changed files: {', '.join(changed)}.")
    _own_lock(committed)
    count = check_records(place.venv, record.packages)
    if count != record.file_count:
        raise EnvironmentBroken(
            f"The environment {place.name} names {count} files; {record.file_count} were committed."
        )


def _own_lock(committed: Committed) -> Lock:
    """The lock that an environment was made from, unless torch did not compute in what was made of it."""
    from moondream_station.core.resolve.pylock import read_stored_pylock  # noqa: PLC0415  unlike reading a record

    place = committed.place
    if place.rejected.exists():
        raise EnvironmentBroken(f"PyTorch did not work in environment {place.name}.")
    try:
        lock = read_stored_pylock(read_file(place.pylock).decode())
    except (OSError, UnicodeDecodeError, ResolutionConflict) as error:
        if is_shortage(error):
            raise
        raise EnvironmentBroken(f"The environment {place.name} has lost its lock: {error}") from error
    if lock.digest != committed.record.lock_digest:
        raise EnvironmentBroken(f"The lock of environment {place.name} was changed.")
    return lock


def committed_environments(home: Home) -> list[Committed]:
    """Every committed environment, the newest first."""
    records = ((place, load_commit(place)) for place in _places(home))
    environments = [Committed(place=place, record=record) for place, record in records if record is not None]
    return sorted(environments, key=lambda committed: committed.record.created_at, reverse=True)


async def find_reusable(
    home: Home, request_key: str, *, code: str, present: str | None = None
) -> Committed | None:
    """A committed environment that was made for the same, runs the code at this place, and is whole.

    `present` names the one that the model has; it goes before newer ones: it may have been gone back to.
    """
    for committed in await _made_for(home, request_key, code, present):
        with suppress(EnvironmentBroken):
            await check_whole(committed)
            return committed
    return None


async def find_rebuildable(
    home: Home, request_key: str, *, code: str, present: str | None = None
) -> tuple[Committed, Lock] | None:
    """As `find_reusable`, but damaged: it can be made again, since its lock and all wheels are still here."""
    from moondream_station.core.fetch.wheel_store import find_finished  # noqa: PLC0415  unlike reading a record

    for committed in await _made_for(home, request_key, code, present):
        with suppress(EnvironmentBroken):
            lock = await anyio.to_thread.run_sync(_own_lock, committed)
            kept = [await anyio.to_thread.run_sync(find_finished, home, file) for file in lock.files]
            if None not in kept:
                return committed, lock
    return None


async def _made_for(home: Home, request_key: str, code: str, present: str | None) -> list[Committed]:
    same = [
        committed
        for committed in await anyio.to_thread.run_sync(committed_environments, home)
        if (committed.record.request_key, committed.record.code_place) == (request_key, code)
    ]
    return sorted(same, key=lambda committed: committed.place.name != present)


async def sweep(home: Home, *, on_file: Callable[[], object] | None = None) -> tuple[str, ...]:
    """Remove what an earlier activation left half done. Only for the holder of `activation.lock`.

    Never removed are a committed place and one that `active.json` names. Partial downloads stay: the next
    activation resumes them. `on_file` is called before each file of a folder, in another thread.
    """
    with writing_to(home.root):
        rubbish = await anyio.to_thread.run_sync(unfinished, home)
        # Left running where it is cancelled, after it is known what goes: nobody uses these names again.
        await anyio.to_thread.run_sync(_remove_all, rubbish, on_file, abandon_on_cancel=True)
    return tuple(str(path.relative_to(home.root)) for path in rubbish)


def unfinished(home: Home) -> tuple[Path, ...]:
    """What `sweep` would remove; some of it may belong to an activation that runs."""
    active = read_active(home).environments
    half_done = [place for place in _places(home) if place.name not in active and not place.commit.exists()]
    temporary = (path for pattern in _NEVER_FINISHED for path in home.root.glob(pattern))
    return (*(place.path for place in half_done), *temporary)


def _remove_all(paths: Iterable[Path], on_file: Callable[[], object] | None) -> None:
    for path in paths:
        remove(path, check=on_file)


def _places(home: Home) -> Iterator[Place]:
    for path in sorted(home.environments.glob("*")):
        if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
            yield Place(path=path)
