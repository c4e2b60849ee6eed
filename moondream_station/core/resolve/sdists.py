"""Wheels built from archives of sources, for the packages that a manifest allows that for."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread

from moondream_station.core.fetch.lock import Lock, LockedFile
from moondream_station.core.fetch.wheel_store import note_finished, sha256_of
from moondream_station.core.home.layout import Home
from moondream_station.core.home.storage import work_folder
from moondream_station.core.resolve.interpreter import Interpreter
from moondream_station.core.resolve.uv_failures import build_failure
from moondream_station.core.resolve.uv_program import Uv, find_uv, output_of


async def build_wheels(
    lock: Lock,
    sources: Mapping[str, Path],
    *,
    home: Home,
    interpreter: Interpreter,
    environ: Mapping[str, str],
    variables: Mapping[str, str],
) -> Lock:
    """The lock with a wheel in the place of each archive of sources (`lock.sources`); most locks have none.

    What was built lies with the downloads, under the name of its content, and stays as long as they do.
    """
    built = {}
    for file in lock.sources.files:
        uv = await find_uv(environ)
        async with work_folder(home) as folder:
            wheel = await _build(uv, file, sources[file.filename], folder, home, interpreter, variables)
            built[file.name] = await _kept(file, wheel, home)
    return replace(lock, files=tuple(built.get(file.name, file) for file in lock.files))


async def _build(
    uv: Uv,
    file: LockedFile,
    source: Path,
    folder: Path,
    home: Home,
    interpreter: Interpreter,
    variables: Mapping[str, str],
) -> Path:
    archive = folder / file.filename  # uv takes what it is from its name
    await anyio.to_thread.run_sync(shutil.copyfile, source, archive)
    options = ("-q", "--wheel", "-p", str(interpreter.path), "-o", str(folder))
    cache = ("--cache-dir", str(home.cache / "uv"))
    done = await uv.run("build", *options, *cache, str(archive), cwd=folder, variables=variables)
    built = await anyio.to_thread.run_sync(lambda: list(folder.glob("*.whl")))
    if done.returncode != 0 or not built:
        stderr = done.stderr.decode(errors="replace")
        raise build_failure(f"{file.name} {file.version}", stderr, log=output_of(done))
    return built[0]


async def _kept(file: LockedFile, built: Path, home: Home) -> LockedFile:
    """Put a wheel that was built among the downloads."""
    sha256 = await sha256_of(built)
    size = (await anyio.Path(built).stat()).st_size
    assert sha256 is not None  # noqa: S101  it was just built
    wheel = replace(file, filename=built.name, sha256=sha256, size_bytes=size, index=None)
    path = home.downloads / wheel.stored_name
    await anyio.to_thread.run_sync(shutil.move, built, path)
    await anyio.to_thread.run_sync(note_finished, path)
    return replace(wheel, url=path.absolute().as_uri())
