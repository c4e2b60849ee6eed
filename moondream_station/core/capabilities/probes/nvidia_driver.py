"""The NVIDIA driver as the kernel shows it, without any of NVIDIA's programs."""

from __future__ import annotations

import re
from typing import Final

from moondream_station.core.capabilities.probes.probe import (
    Probe,
    Reading,
    ask_file,
    first_line,
    one_line,
    refused,
)
from moondream_station.core.facts.capabilities import Outcome
from moondream_station.core.machine.protocol import Machine
from moondream_station.core.machine.record import MachineRecord

PROC: Final = "/proc/driver/nvidia/version"
SYS: Final = "/sys/module/nvidia/version"

_VERSION = r"(\d{2,4}(?:\.\d{1,4}){1,3})"
# "Kernel Module  375.74  Wed …", and since 515 also "Open Kernel Module for x86_64  550.144.03  Release …".
_PROC_LINE = re.compile(rf"Kernel Module(?: +for +\S+)? +{_VERSION}(?![\w.])", re.ASCII)
_SYS_TEXT = re.compile(_VERSION, re.ASCII)


async def _ask(machine: Machine) -> None:
    await ask_file(machine, PROC)
    await ask_file(machine, SYS)


def _read(record: MachineRecord) -> Reading:
    in_proc = _PROC_LINE.search(record.files.get(PROC, ""))
    in_sys = _SYS_TEXT.fullmatch(record.files.get(SYS, "").strip())
    if match := in_proc or in_sys:
        return Reading(
            outcome=Outcome.FOUND,
            detail=f"kernel module {match[1]}",
            version=match[1],
            source="proc" if in_proc else "sys",
        )
    for path in (PROC, SYS):
        if unreadable := refused(record, path):
            return Reading(outcome=Outcome.FAILED, detail=unreadable)
        if path in record.files:
            detail = one_line(f"{path} names no version: {first_line(record.files[path])}")
            return Reading(outcome=Outcome.FAILED, detail=detail)
    return Reading(detail="no NVIDIA kernel module is loaded")


NVIDIA_DRIVER = Probe(name="nvidia_driver", ask=_ask, read=_read)
