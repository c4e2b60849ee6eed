"""Display adapters: as the PCI bus shows them, as Windows lists them, and AMD's as its kernel driver does.

Of the bus come Intel's GPUs, and whether a card of another vendor is there at all; of KFD, the kernel's
topology of what computes, and of ROCm's own enumeration where it is installed, AMD's.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NamedTuple

import anyio

from moondream_station.core.builds.visibility import INTEGRATED_GFX
from moondream_station.core.capabilities.probes.nvidia import capability_of, capability_of_device
from moondream_station.core.capabilities.probes.probe import (
    Probe,
    Reading,
    answer_to,
    ask_commands,
    ask_files,
    ask_folder,
    not_answered,
    one_line,
    refused,
)
from moondream_station.core.facts.capabilities import BUS_ALONE, Gpu, Outcome
from moondream_station.core.machine.machine import Machine
from moondream_station.core.machine.record import MachineRecord

DEVICES: Final = "/sys/bus/pci/devices"
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,8}", re.ASCII)
_DISPLAY: Final = 0x03
_NVIDIA: Final = 0x10DE
_INTEL: Final = 0x8086


class PciDevice(NamedTuple):
    """What a device on the bus says that it is."""

    kind: int
    vendor: int
    device: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IntelReading(Reading):
    """Intel's GPUs and every display device on the bus; whether every device there could be identified."""

    displays: tuple[PciDevice, ...] = ()
    bus_is_known: bool = False


def intel_gpu(device: int, *, index: int | None = None, name: str | None = None) -> Gpu:
    """A GPU by its PCI device id. Which family that is, and what can run there, the catalog knows."""
    number = f"0x{device:04x}"
    return Gpu(vendor="intel", index=index, name=name, architecture=number, architecture_source="pci")


def nvidia_gpu(device: int, name: str | None = None) -> Gpu:
    """A GPU by its name or its PCI device id; of a vGPU, that is the id of the card it is a part of."""
    by_name = capability_of(name or "")
    capability = by_name or capability_of_device(device)
    source = "name" if by_name else "pci" if capability else None
    return Gpu(vendor="nvidia", name=name, architecture=capability, architecture_source=source)


def _files_of(address: str) -> tuple[str, ...]:
    return tuple(f"{DEVICES}/{address}/{question}" for question in ("class", "vendor", "device"))


async def _ask_bus(machine: Machine) -> None:
    for address in await ask_folder(machine, DEVICES):
        await ask_files(machine, _files_of(address))


def _read_bus(record: MachineRecord) -> Reading:
    devices = [_device(record, address) for address in sorted(record.directories.get(DEVICES, ()))]
    displays = tuple(device for device in devices if device and device.kind >> 16 == _DISPLAY)
    devices_of_intel = (display.device for display in displays if display.vendor == _INTEL)
    gpus = tuple(intel_gpu(device, index=n) for n, device in enumerate(devices_of_intel))
    seen = ", ".join(f"{display.vendor:04x}:{display.device:04x}" for display in displays)
    detail = f"display devices on the PCI bus: {seen}" if seen else "no display device on the PCI bus"
    unreadable = "" if gpus else refused(record, DEVICES)
    return IntelReading(
        outcome=Outcome.FOUND if gpus else Outcome.FAILED if unreadable else Outcome.ABSENT,
        detail=one_line(unreadable or detail),
        gpus=gpus,
        displays=displays,
        bus_is_known=bool(devices) and None not in devices,
    )


def _device(record: MachineRecord, address: str) -> PciDevice | None:
    """None where it did not tell what it is."""
    texts = [record.files.get(path, "").strip() for path in _files_of(address)]
    return PciDevice(*(int(text, 16) for text in texts)) if all(map(_NUMBER.fullmatch, texts)) else None


INTEL = Probe(name="intel", ask=_ask_bus, read=_read_bus)


QUERY: Final = (
    "Get-CimInstance Win32_VideoController | Select-Object Name,PNPDeviceID,DriverVersion | ConvertTo-Json"
)
_ARGV: Final = ("powershell", "-NoProfile", "-Command", QUERY)

_JSON_BEGINS = re.compile(r"(?m)^[\ufeff ]{0,2}(?=[\[{])")
_PNP = re.compile(r"PCI\\VEN_([0-9A-F]{4})&DEV_([0-9A-F]{4})", re.IGNORECASE | re.ASCII)
# Windows numbers a driver 32.0.15.6094 that NVIDIA numbers 560.94: the last five digits.
_NVIDIA_DRIVER = re.compile(r"\d{1,3}\.\d{1,3}\.\d{0,3}(\d)\.(\d{1,4})", re.ASCII)


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


def _numbers_of(adapter: dict[str, Any]) -> tuple[int, int]:
    pnp = _PNP.search(_text(adapter, "PNPDeviceID"))
    return (int(pnp[1], 16), int(pnp[2], 16)) if pnp else (0, 0)


def _gpu(adapter: dict[str, Any]) -> Gpu | None:
    vendor, device = _numbers_of(adapter)
    name = one_line(_text(adapter, "Name")) or None
    if vendor == _NVIDIA:
        return nvidia_gpu(device, name)
    driver = one_line(_text(adapter, "DriverVersion")) or None
    if vendor == _INTEL:
        return replace(intel_gpu(device, name=name), driver=driver)
    if vendor == _AMD:
        number = f"0x{device:04x}"
        return Gpu(vendor="amd", name=name, architecture=number, architecture_source="pci", driver=driver)
    return None


def _nvidia_driver(adapter: dict[str, Any]) -> str | None:
    version = _NVIDIA_DRIVER.fullmatch(_text(adapter, "DriverVersion"))
    if version is None or _numbers_of(adapter)[0] != _NVIDIA:
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
    ask=partial(ask_commands, argvs=(_ARGV,)),
    read=_read_windows,
    deadline_seconds=15.0,
    system="Windows",
    programs=("powershell",),
)


NODES: Final = "/sys/class/kfd/kfd/topology/nodes"
_ENUMERATOR: Final = ("rocm_agent_enumerator",)

_PROPERTY = re.compile(r"(?m)^(\w+) (\d{1,20})[ \t]*\r?$", re.ASCII)
_AGENT = re.compile(r"(gfx[0-9a-f]{3,5})(?::[\w:+-]*)?", re.ASCII)
_AMD: Final = 0x1002


async def _ask_amd(machine: Machine) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(machine.run, *_ENUMERATOR)
        await ask_files(machine, [_properties_of(node) for node in await ask_folder(machine, NODES)])


def _read_amd(record: MachineRecord) -> Reading:
    result = answer_to(record, *_ENUMERATOR)
    agents = _agents(result.stdout) if result is not None else ()
    gpus = _with_agents(_kernel_gpus(record), agents)
    if NODES not in record.directories and not refused(record, NODES):
        # On WSL2, where /dev/kfd is missing, the enumerator answers all the same; torch's wheels see no GPU.
        gpus = tuple(replace(gpu, architecture_source=BUS_ALONE) for gpu in gpus)
    slow = result is not None and result.timed_out
    if gpus:
        outcome = Outcome.TIMED_OUT if slow else Outcome.FOUND
        names = ", ".join(gpu.architecture or "of unknown architecture" for gpu in gpus)
        return Reading(outcome=outcome, detail=one_line(names), gpus=gpus)
    if slow:
        return Reading(outcome=Outcome.TIMED_OUT, detail="rocm_agent_enumerator did not answer in time")
    if unreadable := refused(record, NODES):
        return Reading(outcome=Outcome.FAILED, detail=unreadable)
    without = "" if NODES in record.directories else " (no KFD)"
    return Reading(detail=f"the kernel knows no AMD GPU for computing{without}")


def _properties_of(node: str) -> str:
    return f"{NODES}/{node}/properties"


def _kernel_gpus(record: MachineRecord) -> tuple[Gpu, ...]:
    nodes = sorted(record.directories.get(NODES, ()), key=lambda node: (len(node), node))
    texts = (record.files.get(_properties_of(node)) for node in nodes)
    gpus = [gpu for text in texts if text is not None and (gpu := _amd_gpu(text)) is not None]
    return tuple(replace(gpu, index=n) for n, gpu in enumerate(gpus))


def _amd_gpu(text: str) -> Gpu | None:
    values = {key: int(value) for key, value in _PROPERTY.findall(text)}
    if not values.get("simd_count") or values.get("vendor_id", _AMD) != _AMD:
        return None
    architecture = _gfx(values.get("gfx_target_version", 0))
    on_processor = bool(values.get("cpu_cores_count")) or architecture in INTEGRATED_GFX
    return Gpu(
        vendor="amd",
        architecture=architecture,
        architecture_source="kfd" if architecture else None,
        # 0 since the kernel lists memory banks apart
        memory_bytes=values.get("local_mem_size") or None,
        integrated=on_processor if architecture or on_processor else None,
    )


def _gfx(version: int) -> str | None:
    """The name of a target version: decimal pairs, of which the last two are written in hexadecimal."""
    major, minor, stepping = version // 10_000, version // 100 % 100, version % 100
    if not 1 <= major <= 99 or minor > 15 or stepping > 15:  # noqa: PLR2004  what one hexadecimal digit holds
        return None
    return f"gfx{major}{minor:x}{stepping:x}"


def _agents(output: str) -> tuple[str, ...]:
    matches = (_AGENT.fullmatch(line.strip()) for line in output.splitlines())
    return tuple(match[1] for match in matches if match and match[1] != "gfx000")  # the CPU is an agent too


def _with_agents(gpus: tuple[Gpu, ...], agents: tuple[str, ...]) -> tuple[Gpu, ...]:
    """What the kernel does not tell (before 5.16 no target version), ROCm does, in the same order."""
    gpus = gpus or tuple(Gpu(vendor="amd", index=n) for n, _ in enumerate(agents))
    if len(gpus) != len(agents):
        return gpus
    pairs = zip(gpus, agents, strict=True)
    return tuple(gpu if gpu.architecture else _from_agent(gpu, name) for gpu, name in pairs)


def _from_agent(gpu: Gpu, name: str) -> Gpu:
    return replace(
        gpu,
        architecture=name,
        architecture_source="rocm_agent_enumerator",
        integrated=gpu.integrated or name in INTEGRATED_GFX,
    )


AMD = Probe(name="amd", ask=_ask_amd, read=_read_amd, programs=_ENUMERATOR)
