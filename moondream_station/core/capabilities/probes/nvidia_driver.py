"""The NVIDIA driver as the kernel shows it, without any of NVIDIA's programs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from moondream_station.core.capabilities.probes.probe import Probe, Reading, ask_file, first_line, one_line
from moondream_station.core.facts.capabilities import Outcome
from moondream_station.core.machine.protocol import Machine
from moondream_station.core.machine.record import MachineRecord

PROC: Final = "/proc/driver/nvidia/version"
SYS: Final = "/sys/module/nvidia/version"

_VERSION = r"(\d{2,4}(?:\.\d{1,4}){1,3})"
# "Kernel Module  375.74  Wed …", and since 515 also "Open Kernel Module for x86_64  550.144.03  Release …".
_PROC_LINE = re.compile(rf"Kernel Module(?: +for +\S+)? +{_VERSION}(?![\w.])", re.ASCII)
_SYS_TEXT = re.compile(_VERSION, re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class NvidiaDriverReading(Reading):
    """The version of the loaded kernel module, and which file told it."""

    version: str | None = None
    source: Literal["proc", "sys"] | None = None


async def _ask(machine: Machine) -> None:
    await ask_file(machine, PROC)
    await ask_file(machine, SYS)


def _read(record: MachineRecord) -> Reading:
    in_proc = _PROC_LINE.search(record.files.get(PROC, ""))
    if in_proc is not None:
        return _found(in_proc.group(1), "proc")
    in_sys = _SYS_TEXT.fullmatch(record.files.get(SYS, "").strip())
    if in_sys is not None:
        return _found(in_sys.group(1), "sys")
    for path in (PROC, SYS):
        if path in record.unreadable:
            detail = one_line(f"{path} can't be read: {record.unreadable[path]}")
            return NvidiaDriverReading(outcome=Outcome.FAILED, detail=detail)
        if path in record.files:
            detail = one_line(f"{path} names no version: {first_line(record.files[path])}")
            return NvidiaDriverReading(outcome=Outcome.FAILED, detail=detail)
    return NvidiaDriverReading(outcome=Outcome.ABSENT, detail="no NVIDIA kernel module is loaded")


def _found(version: str, source: Literal["proc", "sys"]) -> NvidiaDriverReading:
    return NvidiaDriverReading(
        outcome=Outcome.FOUND, detail=f"kernel module {version}", version=version, source=source
    )


NVIDIA_DRIVER = Probe(name="nvidia_driver", ask=_ask, read=_read)
