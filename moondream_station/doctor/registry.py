"""Every check, in the order in which reports list them."""

from __future__ import annotations

from typing import Final

from moondream_station.doctor.checks import (
    backends,
    disk,
    environments,
    gpu,
    machine,
    network,
    python,
    station,
    torch,
)
from moondream_station.doctor.patient.check import Check

CHECKS: Final[tuple[Check, ...]] = (
    *machine.CHECKS,
    *gpu.CHECKS,
    *python.CHECKS,
    *torch.CHECKS,
    *network.CHECKS,
    *disk.CHECKS,
    *environments.CHECKS,
    *backends.CHECKS,
    *station.CHECKS,
)
