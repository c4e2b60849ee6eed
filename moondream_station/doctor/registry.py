"""Every check, in the order in which reports list them."""

from __future__ import annotations

from functools import partial
from typing import Final

from moondream_station.doctor.checks import (
    backends,
    disk,
    driver,
    environments,
    gpu,
    machine,
    network,
    python,
    station,
    torch,
)
from moondream_station.doctor.patient.check import INDEXES_SECONDS, Check

_here = partial(Check, needs_home=True)
_index = partial(Check, needs_home=True, needs_network=True, limit_seconds=INDEXES_SECONDS)
_FILES_SECONDS: Final = 30.0
"""The limit of a check that reads every file of an environment or backend, or the journal."""
_STATION_SECONDS: Final = 12.0

CHECKS: Final[tuple[Check, ...]] = (
    Check("machine.platform", "The platform", machine.platform),
    Check("machine.probes", "The machine", machine.probes),
    Check("gpu.devices", "The GPUs", gpu.devices),
    Check("gpu.driver", "The NVIDIA driver", driver.driver),
    Check("gpu.build", "The build for this machine", gpu.build, INDEXES_SECONDS),
    Check("gpu.toolkit", "The CUDA toolkit", gpu.toolkit),
    _here("gpu.access", "Access to the GPU", gpu.access),
    Check("python.version", "The Python version", python.version),
    Check("python.architecture", "Python's architecture", python.architecture),
    _here("python.uv", "uv", python.uv),
    _here("torch.installed", "The model's torch", torch.installed),
    _here("torch.interpreter", "torch in this interpreter", torch.interpreter),
    _here("network.settings", "The settings of pip and uv", network.settings),
    _index("network.torch-index", "PyTorch's index", network.torch_index),
    _index("network.package-index", "The package index", network.package_index),
    _index("network.find-links", "find-links", network.find_links),
    _here("disk.home", "The home", disk.home, 10.0),
    _here("disk.space", "The free space", disk.space),
    _here("environments.active", "The model's environment", environments.active, _FILES_SECONDS),
    _here("environments.others", "The other models' environments", environments.others, _FILES_SECONDS),
    _here("environments.leftovers", "Unfinished work", environments.unfinished),
    Check("backends.manifest", "The manifest", backends.manifest),
    Check("backends.model", "The model", backends.model),
    _here("backends.code", "The backend's code", backends.code, _FILES_SECONDS),
    _here("backends.worker", "The backend's worker", backends.worker, _FILES_SECONDS),
    _here("backends.activation", "The last switch", backends.activation, _FILES_SECONDS),
    _here("station.settings", "The settings", station.settings),
    _here("station.serving", "The serving station", station.serving, _STATION_SECONDS),
    _here("station.activation", "The running activation", station.activation, _STATION_SECONDS),
)
