"""Which of Intel's GPUs is which, by PCI device id: the old integrated ones can't run torch's XPU build."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from moondream_station.core.capabilities.snapshot import Gpu

_OTHER_NAME: Final = "Intel graphics"


@dataclass(frozen=True, slots=True, kw_only=True)
class IntelFamily:
    """A generation of Intel's GPUs.

    Args:
        family: Its code name ("battlemage").
        name: What its maker sells it as.
        integrated: Whether it is part of the processor.
        xpu: Whether torch's XPU build is made for it.
    """

    family: str
    name: str
    integrated: bool
    xpu: bool


def intel_family(device: int | str | None) -> IntelFamily | None:
    """Look a GPU's family up.

    Args:
        device: PCI device id, as a number or as `Gpu.architecture` has it ("0x56a0").

    Returns:
        The family, or None for an older integrated GPU, and for one that is newer than this table.
    """
    key = device if isinstance(device, str) else _hex(device) if device is not None else ""
    return _families().get(key.lower())


def intel_gpu(device: int, *, name: str | None = None) -> Gpu:
    """A GPU by its PCI device id, and the name the system gives it if it gives one."""
    family = intel_family(device)
    return Gpu(
        vendor="intel",
        name=name or (family.name if family else _OTHER_NAME),
        architecture=_hex(device),
        architecture_source="pci",
        integrated=family.integrated if family else None,
        family=family.family if family else None,
    )


def _hex(device: int) -> str:
    return f"0x{device:04x}"


@cache
def _families() -> Mapping[str, IntelFamily]:
    data = json.loads(files(__package__).joinpath("intel_families.json").read_text("utf-8"))
    return {
        f"0x{device}": IntelFamily(
            family=row["family"], name=row["name"], integrated=row["integrated"], xpu=row["xpu"]
        )
        for row in data["families"]
        for device in row["devices"]
    }
