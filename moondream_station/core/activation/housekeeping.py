"""Going back to the environment that a model had before, and removing what nothing refers to.

Going back of the active model is an activation like any other, with the environment given instead of made:
its worker is loaded, and whoever serves goes on with it. Of any other model only the names are exchanged,
once torch has computed in the environment again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from stat import S_ISREG
from typing import Literal, TypeAlias

import anyio
import anyio.from_thread
import anyio.to_thread
import psutil

from moondream_station.core.activation.activation import Activation, sweep_cancel_requests
from moondream_station.core.backends.code_store import unnamed_code
from moondream_station.core.backends.manifest import Manifest
from moondream_station.core.bus.bus import new_activation_id
from moondream_station.core.environments.store import Committed, committed_environments, sweep
from moondream_station.core.facts.errors import (
    NoActiveModel,
    NothingToRollBack,
    ResolutionConflict,
    StationRunning,
)
from moondream_station.core.facts.events import BuildSelected
from moondream_station.core.fetch.lock import Lock
from moondream_station.core.home.active_file import ActiveRecord, read_active, write_active
from moondream_station.core.home.layout import Home
from moondream_station.core.home.locks import Holder, activation_lock, read_station
from moondream_station.core.home.storage import read_file, remove, writing_to
from moondream_station.core.home.task_groups import accompanied
from moondream_station.core.processes.child_process import child_environment
from moondream_station.core.resolve.pylock import read_stored_pylock
from moondream_station.core.serving.workers import Environment, existing_worker
from moondream_station.core.worker.worker import open_worker

Kind: TypeAlias = Literal["environment", "download", "backend", "cache"]
_NOTICED_SECONDS = 1.0
"""Who waits longer wants to know for what."""


async def sweep_leftovers(home: Home, activation: Activation) -> None:
    """Remove what an earlier activation left half done; what takes longer than a moment is told."""
    files = 0

    def count() -> None:
        nonlocal files
        files += 1

    async def tell() -> None:
        while True:
            await anyio.sleep(_NOTICED_SECONDS)
            activation.progressed(files, None, "leftover files removed")

    await accompanied(partial(sweep, home, on_file=count), tell)
    await anyio.to_thread.run_sync(sweep_cancel_requests, home)


def previous_environment(home: Home, model: str) -> str:
    """The name of the environment that a model had before the one it has."""
    record = read_active(home).models.get(model)
    if record is None:
        raise NothingToRollBack(
            f"{model} has no environment.", hint="`moondream-station models` shows what is installed."
        )
    if record.previous is None:
        raise NothingToRollBack(
            f"{model} has had no other environment than {record.environment}.",
            hint=f"`moondream-station switch {model} --upgrade` creates another one and keeps this one.",
        )
    return record.previous


def check_rollback(home: Home, model: str) -> str:
    """The environment that the active model had before; `NothingToRollBack` for any other model too."""
    previous = previous_environment(home, model)
    if read_active(home).model != model:
        raise NothingToRollBack(
            f"{model} is not the active model.",
            hint=f"`moondream-station rollback {model}` handles inactive models, too.",
        )
    return previous


async def find_previous(activation: Activation, *, home: Home, manifest: Manifest) -> Environment:
    """The environment that the activation goes back to; reported as an installation reports what it reuses.

    Only for the holder of `activation.lock`. One that can't be used any more is an error by its cause.
    """
    model = activation.request.model
    environment = await existing_worker(home, manifest, model, check_rollback(home, model))
    record = environment.record
    choice = BuildSelected(
        build=record.build,
        torch=record.torch.partition("+")[0] if record.torch else None,
        index_url=record.index_url,
        source=record.source,
        reason="Going back to the environment that the model had before.",
        candidates=(),
    )
    activation.publish(choice)
    activation.built(environment.spec.place.name, packages=len(record.packages))
    return environment


async def exchange(
    home: Home,
    manifest: Manifest,
    model: str,
    *,
    environ: Mapping[str, str],
    on_wait: Callable[[Holder | None], None],
) -> bool:
    """Go back to the former environment of a model that is not active; torch computes in it before.

    Gives whether it was done: nothing is for the active model.
    """
    command = f"rollback {model}"
    async with activation_lock(home, activation=new_activation_id(), command=command, on_wait=on_wait):
        record = read_active(home)
        environment = await existing_worker(home, manifest, model, previous_environment(home, model))
        if record.model == model:
            return False
        spec = environment.spec
        async with open_worker(
            spec.place.python,
            env=child_environment(environ),
            cwd=spec.code.folder,
            log_path=home.worker_log(model),
            threads=1,
        ) as worker:
            (await worker.verify(spec.plan)).checked()
        write_active(home, record.rolled_back(model, request_key=environment.record.request_key))
    return True


async def forget(home: Home, model: str, *, on_wait: Callable[[Holder | None], None]) -> None:
    """Forget a model's environments; `prune` frees their space.

    Raises:
        NoActiveModel: The model has no environment.
        StationRunning: A station serves it.
    """

    def remove_record() -> None:
        record = installed_record(home, model)
        station = read_station(home)
        if record.model == model and station is not None:
            raise StationRunning(
                f"The station at {station.address} (pid {station.pid}) serves {model}.",
                hint="Switch to another model first, or stop that station.",
            )
        write_active(home, record.without(model))

    async with activation_lock(home, activation="remove", command=f"remove {model}", on_wait=on_wait):
        await anyio.to_thread.run_sync(remove_record)


def installed_record(home: Home, model: str) -> ActiveRecord:
    """What the home's models have, where this one has an environment; else `NoActiveModel`."""
    record = read_active(home)
    if model not in record.models:
        raise NoActiveModel(
            f"{model} has no environment.", hint="`moondream-station models` shows what is installed."
        )
    return record


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreferenced:
    """Something that can go."""

    path: Path
    size_bytes: int
    """What removing it frees at least; files that have other names too are not counted."""
    kind: Kind
    note: Path | None = None
    """A wheel's note, which lies beside it and goes with it."""


@dataclass(slots=True)
class Pruning:
    """What was found, and how much of it is gone by now."""

    found: Sequence[Unreferenced] = ()
    removed: list[Unreferenced] = field(default_factory=list)


async def prune(
    home: Home,
    *,
    pruning: Pruning,
    dry_run: bool,
    on_wait: Callable[[Holder | None], None],
    on_found: Callable[[Sequence[Unreferenced]], object] = lambda _: None,
) -> None:
    """Remove what nothing refers to, or find that alone; what was left half done belongs to it.

    `pruning` says at every moment how far it is. Where it is cancelled, it ends after the next file.

    An environment stays while `active.json` names it or a process runs in it; a download stays while the lock
    of an environment that stays names it; a partial one is kept by nothing.
    """
    async with activation_lock(home, activation=new_activation_id(), command="prune", on_wait=on_wait):
        pruning.found = await anyio.to_thread.run_sync(_find, home)
        if dry_run:
            return
        on_found(pruning.found)
        with writing_to(home.root):
            for unreferenced in pruning.found:
                for path in filter(None, (unreferenced.note, unreferenced.path)):
                    removing = partial(remove, path, check=anyio.from_thread.check_cancelled)
                    await anyio.to_thread.run_sync(removing)
                pruning.removed.append(unreferenced)
        await sweep(home)


def freeable_bytes(home: Home, lock: Lock) -> int:
    """What `prune` would free, but for the downloads of a lock, which are needed again.

    Only for the holder of `activation.lock`.
    """
    needed = {file.stored_name for file in lock.files}
    return sum(item.size_bytes for item in _find(home) if _wheel_name(item.path, partial=True) not in needed)


def _find(home: Home) -> list[Unreferenced]:
    named = read_active(home).environments | _running_in(home.environments)
    kept: list[Committed] = []
    found: list[Unreferenced] = []
    committed = {environment.place.name: environment for environment in committed_environments(home)}
    for path in sorted(home.environments.iterdir()):
        if path.name not in named:
            found.append(_unreferenced(path, "environment"))
        elif path.name in committed:
            kept.append(committed[path.name])
    wheels = {name for environment in kept for name in _wheels_of(environment)}
    downloads = [path for path in sorted(home.downloads.iterdir()) if _wheel_name(path) not in wheels]
    found += _with_notes(downloads)
    found += [_unreferenced(path, "cache") for path in sorted(home.cache.iterdir())]
    code = unnamed_code(home, {environment.record.code_place for environment in kept})
    return [*found, *(_unreferenced(path, "backend") for path in code)]


def _with_notes(downloads: Sequence[Path]) -> Iterator[Unreferenced]:
    """Downloads, each with its note; a note alone counts as one."""
    notes = {path for path in downloads if path.with_name(_wheel_name(path)) != path}
    for path in downloads:
        note = path.with_name(f"{path.name}.json")
        if note in notes:
            size_bytes = _own_bytes(path) + _own_bytes(note)
            yield Unreferenced(path=path, size_bytes=size_bytes, kind="download", note=note)
        elif path not in notes or path.with_name(_wheel_name(path)) not in downloads:
            yield _unreferenced(path, "download")


def _wheel_name(path: Path, *, partial: bool = False) -> str:
    """A wheel's note lies beside it, under its name and `.json`; a part of it is a `.partial`."""
    name = path.name.removesuffix(".json")
    return name.removesuffix(".partial") if partial else name


def _wheels_of(committed: Committed) -> Iterator[str]:
    try:
        lock = read_stored_pylock(read_file(committed.place.pylock).decode())
    except (OSError, UnicodeDecodeError, ResolutionConflict):
        return  # an environment without a readable lock keeps itself, not its downloads
    yield from (file.stored_name for file in lock.files)


def _running_in(environments: Path) -> set[str]:
    """Names of the environments whose Python some process runs, of this station or another."""
    names = set()
    folder = environments.resolve()
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if not command or environments.name not in Path(command[0]).parts:
            continue
        program = Path(command[0]).parent.resolve()  # a station may know the home by another name
        if program.is_relative_to(folder):
            names.add(program.relative_to(folder).parts[0])
    return names


def _unreferenced(path: Path, kind: Kind) -> Unreferenced:
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return Unreferenced(path=path, size_bytes=sum(map(_own_bytes, files)), kind=kind)


def _own_bytes(path: Path) -> int:
    """What a file that has no other name takes; a cache's may be gone by now."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return 0
    return status.st_size if S_ISREG(status.st_mode) and status.st_nlink == 1 else 0
