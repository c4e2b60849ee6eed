"""From wheels on disk to an environment: made at its final place, filled offline, checked file by file."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread

from moondream_station.core.environments.finished import discard_finished
from moondream_station.core.environments.interpreter import Interpreter
from moondream_station.core.environments.lock import Lock
from moondream_station.core.environments.place import Place, new_place
from moondream_station.core.environments.pylock import write_pylock
from moondream_station.core.environments.records import check_records
from moondream_station.core.environments.space import Need, check_space, unpacked_bytes
from moondream_station.core.environments.uv_failures import install_failure
from moondream_station.core.environments.uv_program import Uv, find_uv, output_of
from moondream_station.core.errors import EnvironmentBroken, HashMismatch
from moondream_station.core.home import Home
from moondream_station.core.storage import remove_tree

_REMOVE_SECONDS = 2.0
_LOOK_SECONDS = 0.25


async def build_environment(
    lock: Lock,
    wheels: Mapping[str, Path],
    *,
    home: Home,
    interpreter: Interpreter,
    environ: Mapping[str, str],
    progress: Callable[[int, int, str], object],
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
        HashMismatch: A wheel on disk is not the one that the lock names; it is removed.
        EnvironmentBroken: It could not be made, or is not whole.
        ProgramMissing: uv is missing or too old.
    """
    uv = await find_uv(environ)
    await anyio.to_thread.run_sync(_check_space, home, tuple(wheels.values()))
    async with _new_place(home, lock) as place:
        scratch = place.path / ".build"
        await anyio.to_thread.run_sync(_write_locks, place, scratch, lock, wheels)
        await _make_venv(uv, place, interpreter)
        async with _watch(scratch / "cache", len(lock.files), progress):
            await _fill(uv, place, scratch, wheels)
        await _check_requirements(uv, place)
        await anyio.to_thread.run_sync(shutil.rmtree, scratch)
        count = await anyio.to_thread.run_sync(check_records, place.venv, lock.packages)
        progress(count, count, "files")
        return place


@asynccontextmanager
async def _new_place(home: Home, lock: Lock) -> AsyncIterator[Place]:
    place = await anyio.to_thread.run_sync(new_place, home, lock.digest)
    try:
        yield place
    except BaseException:
        with anyio.move_on_after(_REMOVE_SECONDS, shield=True):
            await anyio.to_thread.run_sync(remove_tree, place.path)
        raise


async def _make_venv(uv: Uv, place: Place, interpreter: Interpreter) -> None:
    options = ("-q", "--no-project", "--offline", "-p", str(interpreter.path))
    completed = await uv.run("venv", *options, str(place.venv))
    if completed.returncode != 0:
        raise install_failure(completed.stderr.decode(errors="replace"), log=output_of(completed))


async def _fill(uv: Uv, place: Place, scratch: Path, wheels: Mapping[str, Path]) -> None:
    """Unpack and link the wheels, offline.

    uv's cache lives as long as this: the environment's files are hard links into it, so that a later damage
    to either would go over to the next environment made from it.
    """
    options = ("-q", "--offline", "--no-index", "--no-build", "--require-hashes", "--link-mode", "hardlink")
    where = ("-p", str(place.python), "--cache-dir", str(scratch / "cache"))
    pylock = str(scratch / "pylock.toml")
    completed = await uv.run("pip", "sync", *options, "--preview-features", "pylock", *where, pylock)
    if completed.returncode == 0:
        return
    failure = install_failure(completed.stderr.decode(errors="replace"), log=output_of(completed))
    if isinstance(failure, HashMismatch):
        await anyio.to_thread.run_sync(_forget_damaged, failure.log or "", wheels)
    raise failure


async def _check_requirements(uv: Uv, place: Place) -> None:
    """What the wheels themselves require of each other, in case an index told something else."""
    completed = await uv.run("pip", "check", "-p", str(place.python))
    if completed.returncode != 0:
        log = output_of(completed)
        lines = completed.stderr.decode(errors="replace").strip().splitlines()
        raise EnvironmentBroken(f"The installed packages don't fit each other: {lines[-1:]}", log=log)


@asynccontextmanager
async def _watch(cache: Path, total: int, progress: Callable[[int, int, str], object]) -> AsyncIterator[None]:
    """Tell how many packages are unpacked; uv itself tells nothing where there is no terminal.

    uv unpacks each wheel into a folder of its own in its cache. Where a later uv keeps them elsewhere,
    nothing is told until the end.
    """
    progress(0, total, "packages")

    async def look() -> None:
        told = 0
        while True:
            await anyio.sleep(_LOOK_SECONDS)
            found = min(total, await anyio.to_thread.run_sync(_unpacked, cache))
            if found > told:
                progress(found, total, "packages")
                told = found

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
        yield
        tasks.cancel_scope.cancel()
    progress(total, total, "packages")


def _unpacked(cache: Path) -> int:
    return sum(1 for _ in cache.glob("archive-v*/*"))


def _check_space(home: Home, wheels: tuple[Path, ...]) -> None:
    check_space([Need(home.environments, unpacked_bytes(wheels))])


def _write_locks(place: Place, scratch: Path, lock: Lock, wheels: Mapping[str, Path]) -> None:
    scratch.mkdir()
    place.pylock.write_text(write_pylock(lock), encoding="utf-8")
    (scratch / "pylock.toml").write_text(write_pylock(lock, paths=wheels), encoding="utf-8")


def _forget_damaged(output: str, wheels: Mapping[str, Path]) -> None:
    """Remove the wheels that uv complains of, so that they are fetched anew."""
    for path in wheels.values():
        if path.name in output or path.name.partition("-")[2] in output:
            discard_finished(path)
