"""From wheels to an environment: made at its final place, filled while they arrive, checked file by file."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from moondream_station.core.environments.packages import (
    changed_names,
    check_records,
    find_packages,
    own_files,
    owner_of,
    site_packages_of,
    unmet_needs,
)
from moondream_station.core.environments.store import Place, new_place
from moondream_station.core.facts.errors import EnvironmentBroken, HashMismatch, StationError
from moondream_station.core.fetch.lock import Lock
from moondream_station.core.fetch.wheel_server import Arrivals
from moondream_station.core.fetch.wheel_store import discard, settle, sha256_of
from moondream_station.core.home.checkpoints import Point, reached
from moondream_station.core.home.layout import Home
from moondream_station.core.home.log import Log
from moondream_station.core.home.storage import Need, check_space, remove_tree, unpacked_bytes, writing_to
from moondream_station.core.home.task_groups import accompanied, as_raised, together
from moondream_station.core.resolve.interpreter import Interpreter
from moondream_station.core.resolve.pylock import write_pylock
from moondream_station.core.resolve.uv_program import Uv, find_uv

_REMOVE_SECONDS = 1.0
_LOOK_SECONDS = 0.25
_NAMED_AT_MOST = 3

_CAN_RENAME_OPEN_FILES = sys.platform != "win32"
"""A wheel gets its name while uv still reads it. On Windows it is unpacked when all have arrived."""
_FROM_US = {
    "UV_HTTP_RETRIES": "0",
    "UV_HTTP_TIMEOUT": "604800",  # the station knows how long to wait for a server, and uv has to wait for it
    "UV_CONCURRENT_DOWNLOADS": "1000",
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}

_log = Log()

_Progress: TypeAlias = Callable[[int, int, str], object]


@dataclass(eq=False)
class Building:
    """An environment on its way. Made by `open_building`."""

    place: Place
    lock: Lock
    uv: Uv
    home: Home
    interpreter: Interpreter
    tasks: TaskGroup
    progress: _Progress

    def __post_init__(self) -> None:
        self.arrivals = Arrivals()
        self._scratch = self.place.path / ".build"
        self._tried = anyio.Event()
        self._is_begun = False
        self._is_filled = False
        self._own_files: Mapping[str, str] = {}

    async def unpack_arriving(self) -> None:
        """Fill the environment with what `arrivals` announces, while it arrives.

        Whatever goes wrong here is no failure yet: `finish` then begins again, with what has arrived.
        """
        try:
            await self.arrivals.known()
            if _CAN_RENAME_OPEN_FILES and self.arrivals.covers(file.filename for file in self.lock.files):
                self._is_begun = True
                async with self.arrivals.served() as urls:
                    await self._unpack(urls=urls, paths=self.arrivals.finished)
                self._is_filled = True
        except (StationError, OSError) as error:
            _log.debug("unpacking_while_fetching_failed", reason=str(error))
        finally:
            self._tried.set()

    async def finish(self, wheels: Mapping[str, Path]) -> int:
        """Fill the environment as far as that is still to be done, check it, and count its files.

        A wheel (by file name) that is not the one that the lock names is removed, and a `HashMismatch`.
        """
        total = len(self.lock.files)
        self.arrivals.expect(wheels, {})
        arrived = [path for name, path in wheels.items() if name not in self.arrivals.finished]
        self.tasks.start_soon(_settle, arrived)
        async with blaming_wheels(self.lock, wheels):
            unpacked = await anyio.to_thread.run_sync(_unpacked, self._scratch / "cache")
            self.progress(min(unpacked, total), total, "packages")
            fill = partial(self._fill, wheels)
            await accompanied(fill, by=partial(_watch, self._scratch / "cache", total, self.progress))
            self.progress(total, total, "packages")
            reached(Point.FILLED)
            count = await self._check()
            self.progress(count, count, "files")
        return count

    async def _fill(self, wheels: Mapping[str, Path]) -> None:
        await self._tried.wait()
        if self._is_filled:
            return
        if self._is_begun:
            await anyio.to_thread.run_sync(
                _remove_all, self._scratch, self.place.venv, abandon_on_cancel=True
            )
        await anyio.to_thread.run_sync(
            lambda: check_space([Need(self.home.environments, unpacked_bytes(wheels.values()))])
        )
        await self._unpack(urls={}, paths=wheels)

    async def _unpack(self, *, urls: Mapping[str, str], paths: Mapping[str, Path]) -> None:
        """Make the virtual environment, unpack and link the wheels; offline, but for those that arrive.

        The resolver's cache knows the interpreter already. uv's cache of the wheels lives as long as this:
        the environment's files are hard links into it, so that a later damage to either would go over to the
        next environment made from it.
        """
        sources: dict[str, Path | str] = {**urls, **paths}
        await anyio.to_thread.run_sync(_write_locks, self.place, self._scratch, self.lock, sources)
        known = ("-p", str(self.interpreter.path), "--cache-dir", str(self.home.cache / "uv"))
        fill = partial(self.uv.fill, folder=self.place.path.parent)
        await fill("venv", "-q", "--no-project", "--offline", *known, str(self.place.venv))
        self._own_files = await anyio.to_thread.run_sync(own_files, self.place.venv)
        options = pylock_options(self.place.python, self._scratch, is_offline=not urls)
        pylock = str(self._scratch / "pylock.toml")
        await fill("pip", "sync", *options, pylock, variables=_FROM_US if urls else None)

    async def _check(self) -> int:
        """Check what is installed, and remove what installed it: nothing of this waits for the other."""
        counts: list[int] = []

        async def check_files() -> None:
            venv, packages = self.place.venv, self.lock.packages
            await anyio.to_thread.run_sync(_check_own_files, venv, self._own_files)
            counts.append(await anyio.to_thread.run_sync(check_records, venv, packages))
            await anyio.to_thread.run_sync(_check_needs, venv, self.interpreter.markers)

        # Left running where it is cancelled: uv's cache of a large environment has 20,000 files and more.
        remove = partial(anyio.to_thread.run_sync, _remove_all, self._scratch, abandon_on_cancel=True)
        await together(remove, check_files)
        return counts[0]


@asynccontextmanager
async def open_building(
    lock: Lock, *, home: Home, interpreter: Interpreter, environ: Mapping[str, str], progress: _Progress
) -> AsyncIterator[Building]:
    """Make an environment of a lock. It counts for nothing until it is committed.

    What fetches the wheels in the context may tell `arrivals` of them: then they are unpacked meanwhile. The
    context ends well once `finish` has returned; on failure and cancellation nothing of it is left.
    """
    uv = await find_uv(environ)
    with writing_to(home.environments):
        place = await anyio.to_thread.run_sync(new_place, home, lock.digest)
        try:
            with as_raised():
                async with anyio.create_task_group() as tasks:
                    building = Building(place, lock, uv, home, interpreter, tasks, progress)
                    tasks.start_soon(building.unpack_arriving)
                    yield building
                    tasks.cancel_scope.cancel()
        except BaseException:
            remove = partial(remove_tree, place.path, seconds=_REMOVE_SECONDS)
            with anyio.move_on_after(_REMOVE_SECONDS, shield=True):
                # Left running where it takes longer: nobody meets it any more, and the next sweep ends it.
                await anyio.to_thread.run_sync(remove, abandon_on_cancel=True)
            raise


async def _settle(wheels: Iterable[Path]) -> None:
    """Make wheels durable while other things are done; left running where those are done first."""
    try:
        await anyio.to_thread.run_sync(settle, wheels, abandon_on_cancel=True)
    except OSError as error:  # a wheel that is not noted is read again before it is used again
        _log.debug("wheels_not_settled", reason=str(error))


def pylock_options(python: Path, scratch: Path, *, is_offline: bool = True) -> tuple[str, ...]:
    """The options for `uv pip` to fill an interpreter with what a lock names, with a cache in a folder."""
    return (
        *(["--offline"] if is_offline else []),
        *("-q", "--no-index", "--no-build", "--require-hashes", "--link-mode", "hardlink"),
        *("--preview-features", "pylock", "-p", str(python), "--cache-dir", str(scratch / "cache")),
    )


@asynccontextmanager
async def blaming_wheels(lock: Lock, wheels: Mapping[str, Path]) -> AsyncIterator[None]:
    """Where building fails because a wheel is not what it was when it arrived, say so and remove it."""
    try:
        yield
    except EnvironmentBroken as error:
        failure = error
    else:
        return
    damaged = [
        file.filename
        for file in lock.files
        if await anyio.to_thread.run_sync(sha256_of, wheels[file.filename]) != file.sha256
    ]
    if not damaged:
        raise failure
    for filename in damaged:
        await anyio.to_thread.run_sync(discard, wheels[filename])
    raise HashMismatch(
        f"{', '.join(damaged)} changed on disk after its download.",
        hint="Run the command again: it is downloaded again. If that repeats, the disk is failing.",
        log=failure.log,
    ) from failure


def _check_own_files(venv: Path, before: Mapping[str, str]) -> None:
    """A wheel may bring files for anywhere in the environment, but not for those that make it one."""
    if changed := changed_names(before, own_files(venv)):
        owners = {name: owner for name in changed if (owner := owner_of(venv, name))}
        whose = ", ".join(sorted(set(owners.values()))) or "A package"
        raise EnvironmentBroken(
            f"{whose} overwrites files of the environment itself: {', '.join(changed)}.",
            hint="The wheel is broken or malicious: use another version, or another index.",
        )


def _check_needs(venv: Path, markers: Mapping[str, str]) -> None:
    """What the wheels themselves need of each other, in case an index listed something else."""
    unmet = list(unmet_needs(find_packages(map(str, site_packages_of(venv))), markers=markers))
    if unmet:
        raise EnvironmentBroken(
            f"The installed packages are incompatible: {'; '.join(unmet[:_NAMED_AT_MOST])}.",
            hint="The index lists other dependencies than its wheels have: try another mirror.",
        )


async def _watch(cache: Path, total: int, progress: _Progress) -> None:
    """Report how many packages are unpacked; uv itself reports nothing without a terminal.

    uv unpacks each wheel into a folder of its own in its cache. Where a later uv keeps them elsewhere,
    nothing is reported until the end.
    """
    reported = 0
    while True:
        await anyio.sleep(_LOOK_SECONDS)
        unpacked = min(total, await anyio.to_thread.run_sync(_unpacked, cache))
        if unpacked > reported:
            progress(unpacked, total, "packages")
            reported = unpacked


def _unpacked(cache: Path) -> int:
    return sum(1 for _ in cache.glob("archive-v*/*"))


def _remove_all(*folders: Path) -> None:
    for folder in folders:
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)


def _write_locks(place: Place, scratch: Path, lock: Lock, sources: Mapping[str, Path | str]) -> None:
    scratch.mkdir()
    place.pylock.write_text(write_pylock(lock), encoding="utf-8")
    (scratch / "pylock.toml").write_text(write_pylock(lock, sources=sources), encoding="utf-8")
