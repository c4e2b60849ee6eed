"""Every check, and how they run: all at once, each with a time limit, none able to bring the others down."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import anyio

from moondream_station.core.facts.errors import StationError
from moondream_station.core.home.layout import Home
from moondream_station.core.home.settings import Settings
from moondream_station.core.machine.machine import LocalMachine, Machine
from moondream_station.doctor import gpu, home, machine, model, network
from moondream_station.doctor.patient import Patient, Unknowable, explain
from moondream_station.doctor.report import Finding, Report, cleaner, skipped, warning

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

    Its id is stable: the section, a dot, a word. The title is the subject of a sentence ("The NVIDIA
    driver"). `examine` answers and changes nothing; what blocks in it runs in a thread. One that does not
    need the home can be answered by a machine record.
    """

    id: str
    title: str
    examine: Callable[[Patient], Awaitable[Finding]]
    limit_seconds: float = _PROBES_SECONDS
    needs_network: bool = False
    needs_home: bool = False


_here = partial(Check, needs_home=True)
_index = partial(Check, needs_home=True, needs_network=True, limit_seconds=_INDEXES_SECONDS)

CHECKS: Final = (
    Check("machine.platform", "The platform", machine.platform),
    Check("machine.probes", "The machine", machine.probes),
    Check("gpu.devices", "The GPUs", gpu.devices),
    Check("gpu.driver", "The NVIDIA driver", gpu.driver),
    Check("gpu.build", "The build for this machine", gpu.build, _INDEXES_SECONDS),
    Check("gpu.catalog", "The catalog of builds", gpu.catalog),
    _here("gpu.trials", "What failed here", gpu.trials),
    Check("gpu.toolkit", "The CUDA toolkit", gpu.toolkit),
    _here("gpu.access", "Access to the GPU", gpu.access),
    Check("python.version", "The Python version", machine.python_version),
    Check("python.architecture", "Python's architecture", machine.python_architecture),
    _here("python.uv", "uv", machine.uv),
    _here("torch.installed", "The model's torch", model.torch),
    _here("torch.interpreter", "torch in this interpreter", machine.own_torch),
    _here("network.settings", "The settings of pip and uv", network.settings),
    _index("network.torch-index", "PyTorch's index", network.torch_index),
    _index("network.amd-index", "AMD's index", network.amd_index),
    _index("network.package-index", "The package index", network.package_index),
    _index("network.find-links", "find-links", network.find_links),
    _here("disk.home", "The home", home.files, 10.0),
    _here("disk.space", "The free space", home.space),
    _here("environments.active", "The model's environment", model.environment, _FILES_SECONDS),
    _here("environments.others", "The other models' environments", model.others, _FILES_SECONDS),
    _here("environments.leftovers", "Unfinished work", home.leftovers),
    Check("backends.manifest", "The manifest", model.manifest),
    Check("backends.model", "The model", model.support),
    _here("backends.code", "The backend's code", model.code, _FILES_SECONDS),
    _here("backends.worker", "The backend's worker", model.worker, _FILES_SECONDS),
    _here("backends.activation", "The last switch", model.last_switch, _FILES_SECONDS),
    _here("station.settings", "The settings", home.settings),
    _here("station.serving", "The serving station", home.serving, _STATION_SECONDS),
    _here("station.activation", "The running activation", home.activation, _STATION_SECONDS),
)
"""In the order of the report."""


async def examine(
    *,
    home: Home,
    settings: Settings,
    environ: Mapping[str, str],
    machine: Machine | None = None,
    offline: bool = False,
    on_finding: Callable[[Finding], None] | None = None,
    checks: Iterable[Check] = CHECKS,
) -> Report:
    """Examine a machine, this computer by default, and the station, and change nothing.

    The home need not exist. Of another machine only what its record can answer is checked; `offline`, no
    other computer is asked. `on_finding` is called as each check ends. The report is in the order of the
    checks, with nothing private in it.
    """
    machine, ordered, clean = machine or LocalMachine(environ), tuple(checks), cleaner(home, environ)
    findings: dict[str, Finding] = {}

    async def run(check: Check) -> None:
        began = time.perf_counter()
        finding = clean(await _examined(check, patient))
        findings[check.id] = replace(finding, id=check.id, seconds=time.perf_counter() - began)
        if on_finding is not None:
            on_finding(findings[check.id])

    async with anyio.create_task_group() as background:
        patient = Patient(
            tasks=background,
            home=home,
            settings=settings,
            environ=environ,
            machine=machine,
            is_offline=offline or not machine.is_local,
        )
        async with anyio.create_task_group() as examining:
            for check in ordered:
                examining.start_soon(run, check)
        background.cancel_scope.cancel()
    return Report(tuple(findings[check.id] for check in ordered))


async def _examined(check: Check, patient: Patient) -> Finding:
    """What a check concludes; one that fails or hangs is a finding like any other."""
    if check.needs_home and not patient.is_here:
        return skipped(f"{check.title}: not checked, because the record is of another machine.")
    if check.needs_network and patient.is_offline:
        return skipped(f"{check.title}: not checked, because no network is to be used.")
    why = f"no answer within {check.limit_seconds:g} s."
    remedy: str | None = "Run the doctor again when the computer is less busy."
    try:
        with anyio.move_on_after(check.limit_seconds):
            return await check.examine(patient)
    except Unknowable as unknown:  # another finding says why
        return skipped(f"{check.title}: not checked, because {unknown.fact} could not be read.")
    except StationError as error:
        why, remedy = error.message, error.hint
    except OSError as failure:
        why = f"{failure.filename or check.title}: {failure.strerror or failure}."
        remedy = "`moondream-station doctor --fix` repairs what it can; otherwise check the disk."
    except Exception as failure:  # noqa: BLE001  the boundary between checks: a fault in one is its own finding
        why = explain(failure)
        remedy = "Report it, with what MOONDREAM_STATION_LOG=debug makes the doctor print."
    return warning(f"{check.title} could not be checked: {why}", remedy)
