"""Display adapters: as the PCI bus shows them, and as Windows lists them.

Of the bus come Intel's GPUs, and whether a card of another vendor is there at all.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from moondream_station.core.capabilities.probes.nvidia_names import capability_of, capability_of_device
from moondream_station.core.capabilities.probes.probe import (
    Probe,
    Reading,
    answer_to,
    ask_file,
    ask_folder,
    not_answered,
    one_line,
    refused,
)
from moondream_station.core.facts.capabilities import Gpu, Outcome
from moondream_station.core.machine.machine import Machine
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


def nvidia_gpu(device: int, name: str | None = None) -> Gpu:
    """A GPU by its name or its PCI device id; of a vGPU, that is the id of the card it is a part of."""
    by_name = capability_of(name or "")
    capability = by_name or capability_of_device(device)
    source = "name" if by_name else "pci" if capability else None
    return Gpu(vendor="nvidia", name=name, architecture=capability, architecture_source=source)


async def _ask_bus(machine: Machine) -> None:
    for address in await ask_folder(machine, DEVICES):
        for question in _QUESTIONS:
            await ask_file(machine, f"{DEVICES}/{address}/{question}")


def _read_bus(record: MachineRecord) -> Reading:
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


INTEL = Probe(name="intel", ask=_ask_bus, read=_read_bus)


QUERY: Final = (
    "Get-CimInstance Win32_VideoController | Select-Object Name,PNPDeviceID,DriverVersion | ConvertTo-Json"
)
_ARGV: Final = ("powershell", "-NoProfile", "-Command", QUERY)

_JSON_BEGINS = re.compile(r"(?m)^[\ufeff ]{0,2}(?=[\[{])")
_PNP = re.compile(r"PCI\\VEN_([0-9A-F]{4})&DEV_([0-9A-F]{4})", re.IGNORECASE | re.ASCII)
# Windows numbers a driver 32.0.15.6094 that NVIDIA numbers 560.94: the last five digits.
_NVIDIA_DRIVER = re.compile(r"\d{1,3}\.\d{1,3}\.\d{0,3}(\d)\.(\d{1,4})", re.ASCII)


async def _ask_windows(machine: Machine) -> None:
    await machine.run(*_ARGV)


def _read_windows(record: MachineRecord) -> Reading:
    result = answer_to(record, *_ARGV)
    if result is None:
        return Reading(outcome=Outcome.ABSENT, detail="powershell is not installed")
    adapters = _adapters(result.stdout)
    if result.timed_out or (not adapters and (result.returncode != 0 or result.stdout.strip())):
        return not_answered(result, "powershell")
    gpus = tuple(gpu for adapter in adapters if (gpu := _gpu(adapter)) is not None)
    names = ", ".join(name for adapter in adapters if (name := _text(adapter, "Name")))
    return Reading(
        outcome=Outcome.FOUND if gpus else Outcome.ABSENT,
        detail=one_line(names) or "no display adapter",
        gpus=gpus,
        version=next((driver for adapter in adapters if (driver := _nvidia_driver(adapter))), None),
    )


def _adapters(output: str) -> list[dict[str, Any]]:
    """One object or an array comes back, perhaps behind a warning of PowerShell's."""
    start = _JSON_BEGINS.search(output)
    try:
        data = json.loads(output[start.end() :] if start else "")
    except (ValueError, RecursionError):
        return []
    adapters = data if isinstance(data, list) else [data]
    return [adapter for adapter in adapters if isinstance(adapter, dict)]


def _gpu(adapter: dict[str, Any]) -> Gpu | None:
    pnp = _PNP.search(_text(adapter, "PNPDeviceID"))
    if pnp is None:
        return None
    name = one_line(_text(adapter, "Name")) or None
    match pnp.group(1).upper():
        case "10DE":
            return nvidia_gpu(int(pnp.group(2), 16), name)
        case "1002":
            return Gpu(vendor="amd", name=name)
        case "8086":
            return intel_gpu(int(pnp.group(2), 16), name=name)
        case _:
            return None


def _nvidia_driver(adapter: dict[str, Any]) -> str | None:
    pnp = _PNP.search(_text(adapter, "PNPDeviceID"))
    version = _NVIDIA_DRIVER.fullmatch(_text(adapter, "DriverVersion"))
    if pnp is None or pnp.group(1).upper() != "10DE" or version is None:
        return None
    if _text(adapter, "Name").startswith("Microsoft"):
        return None  # "Microsoft Basic Display Adapter": the card has no driver of NVIDIA's
    digits = version.group(1) + version.group(2).zfill(4)
    return f"{digits[:3]}.{digits[3:]}"


def _text(adapter: dict[str, Any], key: str) -> str:
    value = adapter.get(key)
    return value if isinstance(value, str) else ""


WINDOWS_GPUS = Probe(
    name="windows_gpus",
    ask=_ask_windows,
    read=_read_windows,
    deadline_seconds=15.0,
    system="Windows",
    programs=("powershell",),
)
