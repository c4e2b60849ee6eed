"""Display devices on the PCI bus: Intel's GPUs, and whether a card of another vendor is there at all."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from moondream_station.core.capabilities.probes.probe import (
    Probe,
    Reading,
    ask_file,
    ask_folder,
    one_line,
    refused,
)
from moondream_station.core.facts.capabilities import Gpu, Outcome
from moondream_station.core.machine.protocol import Machine
from moondream_station.core.machine.record import MachineRecord

DEVICES: Final = "/sys/bus/pci/devices"
_QUESTIONS: Final = ("class", "vendor", "device")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,8}", re.ASCII)
_DISPLAY: Final = 0x03
_INTEL: Final = 0x8086


class PciDisplay(NamedTuple):
    """A display device: its vendor's and its own number."""

    vendor: int
    device: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IntelReading(Reading):
    """Intel's GPUs and every display device on the bus, in its order.

    `bus_is_known` says whether every device on the bus could be identified.
    """

    displays: tuple[PciDisplay, ...] = ()
    bus_is_known: bool = False


def intel_gpu(device: int, *, index: int | None = None, name: str | None = None) -> Gpu:
    """A GPU by its PCI device id. Which family that is, and what can run there, the catalog knows."""
    return Gpu(
        vendor="intel", index=index, name=name, architecture=f"0x{device:04x}", architecture_source="pci"
    )


async def _ask(machine: Machine) -> None:
    for address in await ask_folder(machine, DEVICES):
        for question in _QUESTIONS:
            await ask_file(machine, f"{DEVICES}/{address}/{question}")


def _read(record: MachineRecord) -> Reading:
    addresses = sorted(record.directories.get(DEVICES, ()))
    devices = [_device(record, address) for address in addresses]
    displays = tuple(device for device in devices if isinstance(device, PciDisplay))
    devices_of_intel = (display.device for display in displays if display.vendor == _INTEL)
    gpus = tuple(intel_gpu(device, index=n) for n, device in enumerate(devices_of_intel))
    seen = ", ".join(f"{display.vendor:04x}:{display.device:04x}" for display in displays)
    outcome = Outcome.FOUND if gpus else Outcome.ABSENT
    detail = f"display devices on the PCI bus: {seen}" if seen else "no display device on the PCI bus"
    if not gpus and (unreadable := refused(record, DEVICES)):
        outcome, detail = Outcome.FAILED, unreadable
    return IntelReading(
        outcome=outcome,
        detail=one_line(detail),
        gpus=gpus,
        displays=displays,
        bus_is_known=bool(devices) and None not in devices,
    )


def _device(record: MachineRecord, address: str) -> PciDisplay | str | None:
    """A display device, the address of another one, or None where it did not tell what it is."""
    kind, vendor, device = (
        _number(record.files.get(f"{DEVICES}/{address}/{question}", "")) for question in _QUESTIONS
    )
    if kind is None or vendor is None or device is None:
        return None
    return PciDisplay(vendor=vendor, device=device) if kind >> 16 == _DISPLAY else address


def _number(text: str) -> int | None:
    match = _NUMBER.fullmatch(text.strip())
    return int(match.group(), 16) if match is not None else None


INTEL = Probe(name="intel", ask=_ask, read=_read)
