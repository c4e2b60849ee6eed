"""What a snapshot depends on, short enough to look at before every use."""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple
from pathlib import Path
from typing import Final

import psutil

from moondream_station.core.capabilities.detect import PROBES
from moondream_station.core.capabilities.probes import nvidia_driver
from moondream_station.core.facts.version import VERSION
from moondream_station.core.machine.local import LocalMachine

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_DRIVER_FILES: Final = (Path(nvidia_driver.PROC), Path(nvidia_driver.SYS))


def fingerprint(machine: LocalMachine) -> str:
    """Tell this state of the machine from every other: while it is unchanged, so is what probes would find.

    It covers the boot, the loaded NVIDIA driver, the kernel, the recorded environment variables, Python and
    platform, the station's version, and the probes' programs with their times. It reads a handful of small
    files and takes well under a millisecond.

    Args:
        machine: This computer.
    """
    probes = (probe for probe in PROBES if probe.system in {None, machine.facts.system})
    programs = sorted({program for probe in probes for program in probe.programs})
    state = [
        VERSION,
        _boot(),
        [_text_of(path) for path in _DRIVER_FILES],
        astuple(machine.facts),
        sorted(machine.variables.items()),
        [_stamp_of(program, machine) for program in programs],
    ]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _boot() -> str:
    return _text_of(_BOOT_ID) or f"{psutil.boot_time():.0f}"


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return None


def _stamp_of(program: str, machine: LocalMachine) -> tuple[str, int] | None:
    path = machine.resolve(program)
    try:
        return (str(path), path.stat().st_mtime_ns) if path is not None else None
    except OSError:
        return None
