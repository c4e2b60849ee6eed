"""The last step, which can't be undone: uv installs wheels from disk into the running interpreter."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path

import anyio
import anyio.to_thread

from moondream_station.core.environments.building import blaming_wheels, offline_options
from moondream_station.core.environments.packages import find_packages
from moondream_station.core.facts.errors import EnvironmentBroken
from moondream_station.core.fetch.lock import Lock
from moondream_station.core.home.layout import Home
from moondream_station.core.home.space import Need, check_space, unpacked_bytes
from moondream_station.core.home.storage import work_folder
from moondream_station.core.in_place.running_python import RunningPython
from moondream_station.core.resolve.pylock import write_pylock
from moondream_station.core.resolve.uv_failures import install_failure
from moondream_station.core.resolve.uv_program import find_uv, output_of

_NAMED_AT_MOST = 3


async def put(
    lock: Lock,
    wheels: Mapping[str, Path],
    *,
    python: RunningPython,
    home: Home,
    environ: Mapping[str, str],
    ran: Callable[[tuple[str, ...]], object],
) -> None:
    """Install the wheels of a lock, and nothing else, over packages of the same names.

    An interruption leaves packages half installed; the next run sees that by their RECORDs.

    `wheels` says where each wheel is by file name; `ran` is called with uv's command, whether it succeeded or
    not.

    Raises:
        NoSpace: There is not enough space.
        HashMismatch: A wheel on disk is not the one that the lock names; it is removed.
        EnvironmentBroken: uv failed, or what it installed is not whole.
        ProgramMissing: uv is missing or too old.
        HomeUnusable: The home's cache can't be written.
    """
    uv = await find_uv(environ)
    async with work_folder(home) as scratch, blaming_wheels(lock, wheels):
        await anyio.to_thread.run_sync(_check_space, scratch, python, tuple(wheels.values()))
        pylock = scratch / "pylock.toml"
        await anyio.Path(pylock).write_text(write_pylock(lock, sources=wheels), encoding="utf-8")
        options = (*offline_options(python.executable, scratch), "--reinstall", "-r", str(pylock))
        completed = await uv.run("pip", "install", *options)
        ran(completed.argv)
        if completed.returncode != 0:
            raise install_failure(completed.stderr.decode(errors="replace"), log=output_of(completed))
        await anyio.to_thread.run_sync(_check_whole, python, lock)
    importlib.invalidate_caches()


def _check_space(scratch: Path, python: RunningPython, wheels: tuple[Path, ...]) -> None:
    """Room for what the wheels unpack to: once where uv can link from its cache, else in both places."""
    folder = next(path for path in (python.site_packages, *python.site_packages.parents) if path.exists())
    places = {path.stat().st_dev: path for path in (scratch, folder)}
    size_bytes = unpacked_bytes(wheels)
    check_space([Need(path, size_bytes) for path in places.values()])


def _check_whole(python: RunningPython, lock: Lock) -> None:
    packages = find_packages([str(python.site_packages), *python.paths])
    problems = [f"{name} is missing" for name in lock.packages if name not in packages]
    for name in lock.packages.keys() & packages.keys():
        problems += packages[name].damage
    if problems:
        named = "; ".join(sorted(problems)[:_NAMED_AT_MOST])
        raise EnvironmentBroken(
            f"The installation is not whole: {named}.",
            hint="Run it again: it reinstalls what is not whole.",
        )
