"""Display adapters as Windows knows them."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from moondream_station.core.capabilities.probes.intel import intel_gpu
from moondream_station.core.capabilities.probes.nvidia_names import capability_of
from moondream_station.core.capabilities.probes.probe import Probe, Reading, answer_to, not_answered, one_line
from moondream_station.core.facts.capabilities import Gpu, Outcome
from moondream_station.core.machine.protocol import Machine
from moondream_station.core.machine.record import MachineRecord

QUERY: Final = (
    "Get-CimInstance Win32_VideoController | Select-Object Name,PNPDeviceID,DriverVersion | ConvertTo-Json"
)
_ARGV: Final = ("powershell", "-NoProfile", "-Command", QUERY)

_JSON_BEGINS = re.compile(r"(?m)^[\ufeff ]{0,2}(?=[\[{])")
_PNP = re.compile(r"PCI\\VEN_([0-9A-F]{4})&DEV_([0-9A-F]{4})", re.IGNORECASE | re.ASCII)
# Windows numbers a driver 32.0.15.6094 that NVIDIA numbers 560.94: the last five digits.
_NVIDIA_DRIVER = re.compile(r"\d{1,3}\.\d{1,3}\.\d{0,3}(\d)\.(\d{1,4})", re.ASCII)


async def _ask(machine: Machine) -> None:
    await machine.run(*_ARGV)


def _read(record: MachineRecord) -> Reading:
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
            capability = capability_of(name) if name else None
            return Gpu(
                vendor="nvidia",
                name=name,
                architecture=capability,
                architecture_source="name" if capability else None,
            )
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
    ask=_ask,
    read=_read,
    deadline_seconds=15.0,
    system="Windows",
    programs=("powershell",),
)
