"""The home: room for environments, and whether each thing in it is what the station expects there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from moondream_station.core.builds.catalog import load_catalog
from moondream_station.core.builds.naming import Kind
from moondream_station.core.facts.errors import HomeUnusable
from moondream_station.core.home.layout import Home
from moondream_station.core.home.space import in_words
from moondream_station.doctor.checks.findings import Remedy, Verdict, error, ok, problem, warning
from moondream_station.doctor.checks.patient import Patient, in_thread

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

NOT_PERMITTED: Final = "may not be read or written"

_REMEDY = Remedy(
    "Free some space: `prune` removes what nothing refers to. "
    "Or set MOONDREAM_STATION_HOME to a folder on a larger disk.",
    ("moondream-station prune",),
)


async def space(patient: Patient) -> Verdict:
    """Whether there is room to run, and to install the build where the model is not installed."""
    free = (await in_thread(shutil.disk_usage, _existing(patient.home.root))).free
    subject = await patient.subject.get()
    if subject.is_installed:
        if free < _RUNNING_BYTES:
            return warning(f"Only {in_words(free)} are free for the home.", _REMEDY)
        return ok(f"{in_words(free)} are free for the home.")
    planned = await patient.planned.get()
    kind = planned.kind or Kind.CPU
    wheels = _WHEEL_BYTES[kind]
    needed = int(wheels * (1 + load_catalog().unpacked_factor(kind)))
    build = planned.selection.build or "no build"
    words = f"{in_words(free)} are free for the home; {build} needs about {in_words(needed)}."
    if free < needed:
        return problem(f"Only {words}", _REMEDY, fatal=free < wheels)
    return ok(words)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


async def home(patient: Patient) -> Verdict:
    """Whether the home can be made and written to, and what is in it is what belongs there."""
    return await in_thread(_check_home, patient.home)


def _check_home(home: Home) -> Verdict:
    root, remedy = home.root, Remedy("Set MOONDREAM_STATION_HOME to a folder that you may write to.")
    try:
        home.check()
    except HomeUnusable as unusable:
        return error(unusable.message, remedy)
    if os.access(_existing(root), os.W_OK | os.X_OK):
        if faults := dict(misplaced(home)):
            summary = "Something in the home is not what is expected there."
            move = Remedy("Move it aside, or make it readable:", ("moondream-station doctor --fix",))
            # What is in the home's folders can be made again, and so can the snapshot of the machine.
            fatal = any(path.parent == root and path != home.capabilities for path in faults)
            detail = [f"{path.relative_to(root)} {fault}." for path, fault in faults.items()]
            return problem(summary, move, detail, fatal=fatal)
        when = "is writable" if root.exists() else "does not exist yet; it is created when it is needed"
        return ok(f"The home {root} {when}.")
    fault = "is not writable" if root.exists() else "does not exist and can't be created"
    return error(f"The home {root} {fault}.", remedy)


def misplaced(home: Home) -> Iterator[tuple[Path, str]]:
    """What in a home is of another kind than expected there, or may not be read, and the fault."""
    for pattern, mode in _EXPECTED.items():
        for path in sorted(home.root.glob(pattern)):
            try:
                is_folder, is_file = path.is_dir(), path.is_file()
                if not (is_folder if mode & os.X_OK else is_file):
                    yield path, "is not a folder" if mode & os.X_OK else "is not a file"
                elif not os.access(path, mode):
                    yield path, NOT_PERMITTED
            except OSError:  # in a folder that may not be entered, which is told itself
                continue
