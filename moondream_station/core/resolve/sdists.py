"""Wheels built from archives of sources, for the packages that a manifest allows that for."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import anyio.to_thread

from moondream_station.core.fetch.lock import Lock, LockedFile
from moondream_station.core.fetch.wheel_store import note_finished
from moondream_station.core.home.layout import Home
from moondream_station.core.home.storage import work_folder
from moondream_station.core.resolve.interpreter import Interpreter
from moondream_station.core.resolve.uv_failures import build_failure
from moondream_station.core.resolve.uv_program import find_uv, output_of


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
    wheels = {}
    for file in lock.sources.files:
        uv = await find_uv(environ)
        async with work_folder(home) as folder:
            archive = folder / file.filename  # uv takes what it is from its name
            await anyio.to_thread.run_sync(shutil.copyfile, sources[file.filename], archive)
            where = ("-p", str(interpreter.path), "-o", str(folder), "--cache-dir", str(home.cache / "uv"))
            done = await uv.run(
                "build", "-q", "--wheel", *where, str(archive), cwd=folder, variables=variables
            )
            built = await anyio.to_thread.run_sync(lambda: next(folder.glob("*.whl"), None))
            if done.returncode != 0 or built is None:
                stderr = done.stderr.decode(errors="replace")
                raise build_failure(f"{file.name} {file.version}", stderr, log=output_of(done))
            wheels[file.name] = await anyio.to_thread.run_sync(_keep, file, built, home)
    return replace(lock, files=tuple(wheels.get(file.name, file) for file in lock.files))


def _keep(file: LockedFile, built: Path, home: Home) -> LockedFile:
    """Put a wheel that was built among the downloads."""
    with built.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    wheel = replace(file, filename=built.name, sha256=sha256, size_bytes=built.stat().st_size, index=None)
    path = home.downloads / wheel.stored_name
    shutil.move(built, path)
    note_finished(path)
    return replace(wheel, url=path.absolute().as_uri())
