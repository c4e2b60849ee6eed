"""What a check is, and every check, in the order in which reports list them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from moondream_station.doctor.checks import (
    backends,
    driver,
    environments,
    gpu,
    home,
    machine,
    network,
    station,
    torch,
)
from moondream_station.doctor.checks.findings import Verdict
from moondream_station.doctor.checks.patient import Patient

_PROBES_SECONDS: Final = 20.0
"""The limit of a check that waits for the machine's probes: the slowest of them has 15 seconds."""
_INDEXES_SECONDS: Final = 32.0
"""The limit of one that waits for the indexes: after the probes they have eight seconds together."""
_FILES_SECONDS: Final = 30.0
"""The limit of one that reads every file of an environment or backend, or the journal."""
_STATION_SECONDS: Final = 12.0


@dataclass(frozen=True, slots=True)
class Check:
    """One question of the doctor's.

    Args:
        id: Its stable name: the section, a dot, a word.
        title: What it checks, as the subject of a sentence ("The NVIDIA driver").
        examine: Answers it and changes nothing. What blocks in it runs in a thread.
        needs_network: Whether it asks other computers.
        needs_home: Whether it is about this computer's files; otherwise a machine record can answer it.
    """

    id: str
    title: str
    examine: Callable[[Patient], Awaitable[Verdict]]
    limit_seconds: float = _PROBES_SECONDS
    needs_network: bool = False
    needs_home: bool = False


_here = partial(Check, needs_home=True)
_index = partial(Check, needs_home=True, needs_network=True, limit_seconds=_INDEXES_SECONDS)

CHECKS: Final = (
    Check("machine.platform", "The platform", machine.platform),
    Check("machine.probes", "The machine", machine.probes),
    Check("gpu.devices", "The GPUs", gpu.devices),
    Check("gpu.driver", "The NVIDIA driver", driver.driver),
    Check("gpu.build", "The build for this machine", gpu.build, _INDEXES_SECONDS),
    Check("gpu.toolkit", "The CUDA toolkit", gpu.toolkit),
    _here("gpu.access", "Access to the GPU", gpu.access),
    Check("python.version", "The Python version", machine.version),
    Check("python.architecture", "Python's architecture", machine.architecture),
    _here("python.uv", "uv", machine.uv),
    _here("torch.installed", "The model's torch", torch.installed),
    _here("torch.interpreter", "torch in this interpreter", torch.interpreter),
    _here("network.settings", "The settings of pip and uv", network.settings),
    _index("network.torch-index", "PyTorch's index", network.torch_index),
    _index("network.package-index", "The package index", network.package_index),
    _index("network.find-links", "find-links", network.find_links),
    _here("disk.home", "The home", home.home, 10.0),
    _here("disk.space", "The free space", home.space),
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
