"""From wheels on disk to an environment: made at its final place, filled offline, checked file by file."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

import anyio
import anyio.to_thread

from moondream_station.core.environments.finished import discard_finished, sha256_of
from moondream_station.core.environments.interpreter import Interpreter
from moondream_station.core.environments.lock import Lock
from moondream_station.core.environments.place import Place, new_place
from moondream_station.core.environments.pylock import write_pylock
from moondream_station.core.environments.records import check_records
from moondream_station.core.environments.space import Need, check_space, unpacked_bytes, writing_to
from moondream_station.core.environments.together import accompanied, together
from moondream_station.core.environments.uv_failures import install_failure
from moondream_station.core.environments.uv_program import Uv, find_uv, output_of
from moondream_station.core.errors import EnvironmentBroken, HashMismatch
from moondream_station.core.home import Home
from moondream_station.core.storage import remove_tree

_REMOVE_SECONDS = 2.0
_LOOK_SECONDS = 0.25

_Progress: TypeAlias = Callable[[int, int, str], object]


async def build_environment(
    lock: Lock,
    wheels: Mapping[str, Path],
    *,
    home: Home,
    interpreter: Interpreter,
    environ: Mapping[str, str],
    progress: _Progress,
) -> Place:
    """Make an environment of a lock. It counts for nothing until it is committed.

    On failure and cancellation nothing of it is left.

    Args:
        lock: What goes in.
        wheels: Where each wheel is, by file name.
        home: Where environments live.
        interpreter: What it is made from.
        environ: The user's variables.
        progress: Told how far it is: done, total, and of what ("packages", "files").

    Returns:
        Where it is.

    Raises:
        NoSpace: There is not enough space.
        HomeUnusable: Nothing can be written there.
        HashMismatch: A wheel on disk is not the one that the lock names; it is removed.
        EnvironmentBroken: It could not be made, or is not whole.
        ProgramMissing: uv is missing or too old.
    """
    uv = await find_uv(environ)
    async with blaming_wheels(lock, wheels):
        await anyio.to_thread.run_sync(_check_space, home, tuple(wheels.values()))
        async with _new_place(home, lock) as place:
            await _make(uv, place, lock, wheels, interpreter, progress)
            return place


async def _make(
    uv: Uv,
    place: Place,
    lock: Lock,
    wheels: Mapping[str, Path],
    interpreter: Interpreter,
    progress: _Progress,
) -> None:
    scratch = place.path / ".build"
    await anyio.to_thread.run_sync(_write_locks, place, scratch, lock, wheels)
    await _make_venv(uv, place, interpreter)
    total = len(lock.files)
    progress(0, total, "packages")
    fill = partial(_fill, uv, place, scratch)
    await accompanied(fill, by=partial(_watch, scratch / "cache", total, progress))
    progress(total, total, "packages")
    # Nothing of this waits for the other: what is installed is asked, what installed it removed.
    await together(
        partial(_check_requirements, uv, place),
        partial(anyio.to_thread.run_sync, shutil.rmtree, scratch),
    )
    count = await anyio.to_thread.run_sync(check_records, place.venv, lock.packages)
    progress(count, count, "files")


@asynccontextmanager
async def _new_place(home: Home, lock: Lock) -> AsyncIterator[Place]:
    with writing_to(home.environments):
        place = await anyio.to_thread.run_sync(new_place, home, lock.digest)
        try:
            yield place
        except BaseException:
            with anyio.move_on_after(_REMOVE_SECONDS, shield=True):
                # Left running where it takes longer: nobody meets it any more, and the next sweep ends it.
                await anyio.to_thread.run_sync(remove_tree, place.path, abandon_on_cancel=True)
            raise


async def _make_venv(uv: Uv, place: Place, interpreter: Interpreter) -> None:
    options = ("-q", "--no-project", "--offline", "-p", str(interpreter.path))
    completed = await uv.run("venv", *options, str(place.venv))
    if completed.returncode != 0:
        raise install_failure(completed.stderr.decode(errors="replace"), log=output_of(completed))


async def _fill(uv: Uv, place: Place, scratch: Path) -> None:
    """Unpack and link the wheels, offline.

    uv's cache lives as long as this: the environment's files are hard links into it, so that a later damage
    to either would go over to the next environment made from it.
    """
    completed = await uv.run(
        "pip", "sync", *offline_options(place.python, scratch), str(scratch / "pylock.toml")
    )
    if completed.returncode != 0:
        raise install_failure(completed.stderr.decode(errors="replace"), log=output_of(completed))


def offline_options(python: Path, scratch: Path) -> tuple[str, ...]:
    """What `uv pip` is told to fill an interpreter from wheels on disk alone, with a cache in a folder."""
    return (
        *("-q", "--offline", "--no-index", "--no-build", "--require-hashes", "--link-mode", "hardlink"),
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
    damaged = [file for file in lock.files if await sha256_of(wheels[file.filename]) != file.sha256]
    if not damaged:
        raise failure
    for file in damaged:
        await anyio.to_thread.run_sync(discard_finished, wheels[file.filename])
    raise HashMismatch(
        f"{', '.join(file.filename for file in damaged)} changed on disk since it was fetched.",
        hint="Run the command again: it is fetched anew. If that repeats, the disk is failing.",
        log=failure.log,
    ) from failure


async def _check_requirements(uv: Uv, place: Place) -> None:
    """What the wheels themselves require of each other, in case an index told something else."""
    completed = await uv.run("pip", "check", "-p", str(place.python))
    if completed.returncode != 0:
        log = output_of(completed)
        lines = completed.stderr.decode(errors="replace").strip().splitlines()
        raise EnvironmentBroken(f"The installed packages don't fit each other: {lines[-1:]}", log=log)


async def _watch(cache: Path, total: int, progress: _Progress) -> None:
    """Tell how many packages are unpacked; uv itself tells nothing where there is no terminal.

    uv unpacks each wheel into a folder of its own in its cache. Where a later uv keeps them elsewhere,
    nothing is told until the end.
    """
    told = 0
    while True:
        await anyio.sleep(_LOOK_SECONDS)
        found = min(total, await anyio.to_thread.run_sync(_unpacked, cache))
        if found > told:
            progress(found, total, "packages")
            told = found


def _unpacked(cache: Path) -> int:
    return sum(1 for _ in cache.glob("archive-v*/*"))


def _check_space(home: Home, wheels: tuple[Path, ...]) -> None:
    check_space([Need(home.environments, unpacked_bytes(wheels))])


def _write_locks(place: Place, scratch: Path, lock: Lock, wheels: Mapping[str, Path]) -> None:
    scratch.mkdir()
    place.pylock.write_text(write_pylock(lock), encoding="utf-8")
    (scratch / "pylock.toml").write_text(write_pylock(lock, paths=wheels), encoding="utf-8")
