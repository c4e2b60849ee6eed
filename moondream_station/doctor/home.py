"""The home: what is in it, the station that serves it, and what `doctor --fix` mends there."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from moondream_station.core.builds.naming import Kind, check_strategy
from moondream_station.core.bus.bus import new_activation_id
from moondream_station.core.bus.journal import read_history
from moondream_station.core.environments.store import committed_environments, sweep, unfinished
from moondream_station.core.facts.errors import HomeUnusable, SettingsInvalid, StationRunning, UsageError
from moondream_station.core.facts.events import ActivationSucceeded
from moondream_station.core.home.active_file import ActiveRecord, read_active, write_active
from moondream_station.core.home.layout import Home
from moondream_station.core.home.locks import activation_holder, activation_lock, read_station, serve_lock
from moondream_station.core.home.settings import load_settings
from moondream_station.core.home.storage import NewerFormat, in_words, writing_to
from moondream_station.doctor.patient import Patient, in_thread
from moondream_station.doctor.report import Finding, error, ok, problem, warning

_GB = 1_000_000_000

_WHEEL_BYTES: Final = {
    # What torch and the libraries beside it weigh as wheels (download.pytorch.org and PyPI, 2.14): 196 MB for
    # the CPU, 2.6 GB for CUDA with its libraries, 6.2 GB for ROCm. XPU brings oneAPI's; Apple silicon has
    # none.
    Kind.CPU: _GB // 4,
    Kind.MPS: _GB // 10,
    Kind.CUDA: 26 * _GB // 10,
    Kind.ROCM: 62 * _GB // 10,
    Kind.XPU: 2 * _GB,
}
_RUNNING_BYTES: Final = _GB // 2
"""Journals, logs and a backend's temporary files."""
_FOLDER: Final = os.R_OK | os.W_OK | os.X_OK
_EXPECTED: Final = {
    **dict.fromkeys(("backends", "environments", "downloads", "cache", "activations", "logs"), _FOLDER),
    **dict.fromkeys(("*.lock", "activations/[!.]*", "logs/[!.]*"), os.R_OK | os.W_OK),
    **dict.fromkeys(("active.json", "activation.json", "capabilities.json"), os.R_OK),
    **dict.fromkeys(("config.json", "station.json"), os.R_OK),
    **dict.fromkeys(("downloads/[!.]*", "cache/listings/[!.]*", "cache/manifests/[!.]*"), os.R_OK),
}
"""What is done with each file and folder; environments have checks of their own."""

_NOT_PERMITTED: Final = "may not be read or written"
_DOCTOR_FIX: Final = "moondream-station doctor --fix"
_MORE_ROOM: Final = (
    "Free some space: `prune` removes what nothing refers to. "
    "Or set MOONDREAM_STATION_HOME to a folder on a larger disk."
)
_PRUNE: Final = "moondream-station prune"
_LOCK_SECONDS: Final = 2.0


async def space(patient: Patient) -> Finding:
    """Whether there is room to run, and to install the build where the model is not installed."""
    free = (await in_thread(shutil.disk_usage, _existing(patient.home.root))).free
    subject = await patient.subject.get()
    if subject.is_installed:
        if free < _RUNNING_BYTES:
            return warning(f"Only {in_words(free)} are free for the home.", _MORE_ROOM, _PRUNE)
        return ok(f"{in_words(free)} are free for the home.")
    planned = await patient.planned.get()
    kind = planned.kind or Kind.CPU
    wheels = _WHEEL_BYTES[kind]
    needed = int(wheels * (1 + planned.case.catalog.unpacked_factor(kind)))
    build = planned.selection.build or "no build"
    words = f"{in_words(free)} are free for the home; {build} needs about {in_words(needed)}."
    if free < needed:
        return problem(f"Only {words}", _MORE_ROOM, _PRUNE, fatal=free < wheels)
    return ok(words)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


async def files(patient: Patient) -> Finding:
    """Whether the home can be made and written to, and what is in it is what belongs there."""
    return await in_thread(_check_home, patient.home)


def _check_home(home: Home) -> Finding:
    root, elsewhere = home.root, "Set MOONDREAM_STATION_HOME to a folder that you may write to."
    try:
        home.check()
    except HomeUnusable as unusable:
        return error(unusable.message, elsewhere)
    if os.access(_existing(root), os.W_OK | os.X_OK):
        if faults := dict(_misplaced(home)):
            summary = "Something in the home is not what is expected there."
            text = "Move it aside, or make it readable:"
            # What is in the home's folders can be made again, and so can the snapshot of the machine.
            fatal = any(path.parent == root and path != home.capabilities for path in faults)
            detail = [f"{path.relative_to(root)} {fault}." for path, fault in faults.items()]
            return problem(summary, text, _DOCTOR_FIX, detail=detail, fatal=fatal)
        when = "is writable" if root.exists() else "does not exist yet; it is created when it is needed"
        return ok(f"The home {root} {when}.")
    fault = "is not writable" if root.exists() else "does not exist and can't be created"
    return error(f"The home {root} {fault}.", elsewhere)


def _misplaced(home: Home) -> Iterator[tuple[Path, str]]:
    """What in a home is of another kind than expected there, or may not be read, and the fault."""
    for pattern, mode in _EXPECTED.items():
        for path in sorted(home.root.glob(pattern)):
            try:
                is_folder, is_file = path.is_dir(), path.is_file()
                if not (is_folder if mode & os.X_OK else is_file):
                    yield path, "is not a folder" if mode & os.X_OK else "is not a file"
                elif not os.access(path, mode):
                    yield path, _NOT_PERMITTED
            except OSError:  # in a folder that may not be entered, which is told itself
                continue


async def leftovers(patient: Patient) -> Finding:
    """Whether a killed activation left something behind."""
    if await in_thread(activation_holder, patient.home) is not None:
        return ok("An activation is running; what it makes is not finished yet.")
    await patient.subject.get()  # of an `active.json` that can't be read another check tells
    paths = await in_thread(unfinished, patient.home)
    if not paths:
        return ok("Nothing was left unfinished.")
    names = sorted(path.relative_to(patient.home.root).as_posix() for path in paths)
    text = "The next switch removes it; to do so now:"
    return warning("An earlier activation left something unfinished.", text, _DOCTOR_FIX, detail=names)


async def settings(patient: Patient) -> Finding:
    """Whether config.json and the variables can be used."""
    try:
        loaded = await in_thread(load_settings, patient.home, patient.environ)
        check_strategy(loaded.strategy)
    except SettingsInvalid as invalid:
        return error(invalid.message, invalid.hint or "Correct it.")
    except UsageError as unknown:
        summary = "The setting `strategy` is neither `auto` nor `guide` nor a build."
        return error(summary, unknown.hint or "Correct it.", detail=unknown.message)
    return ok("The settings are valid.")


async def serving(patient: Patient) -> Finding:
    """Whether the station that serves this home answers."""
    record = await in_thread(read_station, patient.home)
    if record is None:
        if await in_thread(_is_station_stale, patient.home):
            return _stale("station.json is of a station that no longer runs.")
        return ok("No station serves this home; `moondream-station serve` starts one.")
    from moondream_station.http.client import StationClient  # noqa: PLC0415  only where a station serves

    async with StationClient(record.address, token=record.token) as client:
        is_healthy = await client.is_healthy()
    where = f"at {record.address}, as process {record.pid}, since {record.since}"
    if is_healthy:
        return ok(f"A station serves {where}.")
    text = "If it stays so, end that process and run serve again."
    return error(f"The station {where}, does not answer.", text)


async def activation(patient: Patient) -> Finding:
    """Whether an activation is running, or one that was killed left its mark."""
    holder = await in_thread(activation_holder, patient.home)
    if holder is not None:
        return ok(f"An activation is running since {holder.since}: {holder.command} (process {holder.pid}).")
    if await in_thread(_is_holder_stale, patient.home):
        return _stale("activation.json is of an activation that no longer runs.")
    return ok("No activation is running.")


def _stale(summary: str) -> Finding:
    return warning(summary, "The next start removes it; to do so now:", _DOCTOR_FIX)


def _is_station_stale(home: Home) -> bool:
    return home.station.exists() and read_station(home) is None


def _is_holder_stale(home: Home) -> bool:
    return home.activation_holder.exists() and activation_holder(home) is None


async def repair(home: Home) -> tuple[str, ...]:
    """Repair what needs no question, and nothing that is in use; gives a sentence about each thing.

    `StationError`: the home can't be read or written, or can't lock.
    """
    if not home.root.is_dir():
        return ()
    done = await anyio.to_thread.run_sync(_put_right, home)
    done += await anyio.to_thread.run_sync(_take_down_station, home)
    if await anyio.to_thread.run_sync(activation_holder, home) is not None:
        return (*done, "Nothing unfinished was removed, because an activation is running.")
    was_stale = await anyio.to_thread.run_sync(_is_holder_stale, home)
    with anyio.move_on_after(_LOCK_SECONDS) as waiting:
        async with activation_lock(
            home, activation=new_activation_id(), command="doctor --fix", on_wait=lambda _: None
        ):
            waiting.deadline = float("inf")  # what is begun is finished
            if was_stale:
                done.append("Removed activation.json of an activation that no longer runs.")
            done += await anyio.to_thread.run_sync(_mend_active, home)
            removed = await sweep(home)
            return (*done, *(f"Removed {path}, which was left unfinished." for path in sorted(removed)))
    return (*done, "Nothing unfinished was removed, because another process is changing the home.")


def _put_right(home: Home) -> list[str]:
    """Make what is in the place of something else give way, and what may not be read readable."""
    done = []
    with writing_to(home.root):
        for path, fault in tuple(_misplaced(home)):
            name = path.relative_to(home.root)
            if fault == _NOT_PERMITTED:
                path.chmod(0o700 if path.is_dir() else 0o600)
                done.append(f"Made {name} readable and writable.")
            elif path != home.active:  # which is made again
                done.append(f"Moved {name} aside, to {_set_aside(home, path)}, because it {fault}.")
    if done:
        home.create()
    return done


def _set_aside(home: Home, path: Path) -> str:
    return path.rename(home.root / f"{path.name}.{secrets.token_hex(2)}.old").name


def _mend_active(home: Home) -> list[str]:
    """Make `active.json` again where it is damaged, from what activations made active and is still there."""
    try:
        read_active(home)
    except HomeUnusable as unusable:
        if isinstance(unusable.__cause__, NewerFormat):
            raise
    else:
        return []
    committed = {made.place.name: made.record for made in committed_environments(home)}
    active = ActiveRecord()
    for name, made in reversed(committed.items()):  # oldest first: the journals of some may be gone
        if made.model is not None:
            active = active.with_active(made.model, environment=name, request_key=made.request_key)
    for fact in (event.fact for event in read_history(home)):
        if isinstance(fact, ActivationSucceeded) and (record := committed.get(fact.environment)):
            active = active.with_active(
                fact.model, environment=fact.environment, request_key=record.request_key
            )
    with writing_to(home.root):
        old = _set_aside(home, home.active)
    write_active(home, active)
    what = f"{active.model} is active" if active.model else "no environment is left, so no model is active"
    return [f"Made active.json again; {what}. The damaged one is {old}."]


def _take_down_station(home: Home) -> list[str]:
    """Remove a dead station's record."""
    if not _is_station_stale(home):
        return []
    try:
        with serve_lock(home):
            return ["Removed station.json of a station that no longer runs."]
    except StationRunning:
        return ["Left station.json, because a station is just starting."]
