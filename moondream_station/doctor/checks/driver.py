"""The NVIDIA driver: is it installed, does it work, is it new enough, and which one would be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from moondream_station.core.builds.naming import Kind
from moondream_station.core.builds.visibility import describe
from moondream_station.core.capabilities.probes.nvidia_smi import Trouble
from moondream_station.core.facts.capabilities import Outcome
from moondream_station.doctor.patient.patient import Examined, Patient
from moondream_station.doctor.patient.planned import Planned
from moondream_station.doctor.report.findings import Remedy, Verdict, ok, problem, skipped, warning

_DRIVERS = "https://www.nvidia.com/drivers"


@dataclass(frozen=True, slots=True)
class _Ailment:
    """A driver that is installed and does not work; an incurable one serves no build."""

    shows: Callable[[Examined], bool]
    summary: str
    remedy: Remedy
    is_incurable: bool = False


def _complains(trouble: Trouble) -> Callable[[Examined], bool]:
    return lambda machine: trouble in machine.nvidia_smi.troubles


def _is_out_of_step(machine: Examined) -> bool:
    loaded, kernel = machine.nvidia_smi.version, machine.kernel_driver
    differ = loaded is not None and kernel is not None and loaded != kernel
    return differ or Trouble.MISMATCH in machine.nvidia_smi.troubles


_AILMENTS: Final = (
    _Ailment(
        _is_out_of_step,
        "The NVIDIA driver and its library have different versions.",
        Remedy("Restart the computer.", ("sudo reboot",)),
        is_incurable=True,
    ),
    _Ailment(
        _complains(Trouble.NO_PERMISSION),
        "This user may not use the NVIDIA GPU.",
        Remedy(
            "Join the groups that own /dev/nvidia*, and log in again.",
            ('sudo usermod -aG video,render "$USER"',),
        ),
        is_incurable=True,
    ),
    _Ailment(
        _complains(Trouble.BLOCKED),
        "Windows keeps the GPU from WSL.",
        Remedy("Update its driver for Windows, then WSL.", ("wsl --update",)),
    ),
    _Ailment(
        _complains(Trouble.NVML),
        "nvidia-smi can't reach the GPU.",
        Remedy("In a container, restart the container; otherwise restart the computer."),
    ),
    _Ailment(
        lambda machine: machine.nvidia_smi.outcome is Outcome.TIMED_OUT,
        "nvidia-smi did not answer in time.",
        Remedy("Run it by hand; if it hangs there too, restart the computer.", ("nvidia-smi",)),
    ),
    _Ailment(
        lambda machine: machine.nvidia_smi.cuda_shown in {"N/A", "ERR!"},
        "The NVIDIA driver's CUDA library is missing.",
        Remedy(
            "Give the container the driver's CUDA library, or reinstall the driver.",
            ("docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility IMAGE",),
        ),
    ),
)


async def driver(patient: Patient) -> Verdict:
    """The most telling trouble with the NVIDIA driver; others stand in the detail."""
    machine, planned = await patient.examined.get(), await patient.planned.get()
    verdict = _ailing(machine, planned) or _missing(machine, planned) or _too_old(planned)
    if verdict is not None:
        return verdict
    version = planned.capabilities.nvidia_driver
    if version is None and planned.case.hardware.of_kind(Kind.CUDA).uncertain:
        return skipped("The NVIDIA driver could not be detected for certain.")
    if version is None:
        return ok("No NVIDIA GPU was found, so no NVIDIA driver is needed.")
    cuda = planned.capabilities.nvidia_cuda
    return ok(
        f"NVIDIA driver {version}{f', for CUDA up to {cuda}' if cuda else ''}.", _newer_build_note(planned)
    )


def _ailing(machine: Examined, planned: Planned) -> Verdict | None:
    ailment = next((ailment for ailment in _AILMENTS if ailment.shows(machine)), None)
    if ailment is None:
        return None
    fatal = ailment.is_incurable and planned.kind is Kind.CUDA
    return problem(ailment.summary, ailment.remedy, fatal=fatal, detail=planned.capabilities.notes)


def _missing(machine: Examined, planned: Planned) -> Verdict | None:
    gpus = planned.capabilities.gpus_of("nvidia")
    if not gpus or planned.capabilities.nvidia_driver is not None:
        return None
    name = describe(gpus[0])
    if Trouble.NOT_LOADED in machine.nvidia_smi.troubles:
        summary = f"The driver of {name} is not loaded, or not built for this kernel."
    elif Trouble.NO_LIBRARY in machine.nvidia_smi.troubles:
        summary = f"The library of the driver of {name} is missing."
    else:
        summary = f"{name} has no NVIDIA driver."
    return warning(summary, _install(planned, planned.lowest_driver()), detail=planned.capabilities.notes)


def _too_old(planned: Planned) -> Verdict | None:
    """A driver that suffices for no build, or not for the one that was set by name."""
    installed, build = planned.capabilities.nvidia_driver, planned.build
    if installed is None or not planned.case.hardware.of_kind(Kind.CUDA).gpus:
        return None
    if planned.is_forced and build is not None and build.kind is Kind.CUDA:
        sentence = planned.case.hardware.why_not_build(build)
        if sentence is None:
            return None
        needed = planned.needed_driver or planned.lowest_driver()
        return problem(sentence, _install(planned, needed), fatal=True)
    if planned.kind is Kind.CUDA or planned.is_forced or planned.with_newest_driver().kind is not Kind.CUDA:
        return None
    summary = f"NVIDIA driver {installed} is too old for every build that this machine could use."
    return warning(summary, _install(planned, planned.lowest_driver()), detail=planned.idle_gpus)


def _install(planned: Planned, lowest: str | None) -> Remedy:
    newest = f"NVIDIA's newest driver for this GPU{f', {lowest} at least' if lowest else ''}"
    match planned.capabilities.surroundings, planned.capabilities.system:
        case "jetson", _:
            which = f" whose driver is {lowest} or newer" if lowest else ""
            return Remedy(f"On a Jetson the driver comes with JetPack: install one{which}.")
        case "wsl2", _:
            return Remedy(f"Install {newest}, in Windows: WSL2 uses that one ({_DRIVERS}).")
        case _, "Linux":
            return Remedy(
                f"Install {newest}, with your distribution's tool or from {_DRIVERS}. Then restart."
            )
        case _:
            return Remedy(f"Install {newest}, from {_DRIVERS}. Then restart.")


def _newer_build_note(planned: Planned) -> str | None:
    newest = planned.with_newest_driver()
    ours, theirs = planned.selection, newest.selection
    if newest.kind is not Kind.CUDA or (ours.build, ours.torch) == (theirs.build, theirs.torch):
        return None
    needed = newest.needed_driver
    return needed and f"Driver {needed} or newer would allow {theirs.build} with torch {theirs.torch}."
