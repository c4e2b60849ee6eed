"""The NVIDIA driver: is it installed, does it work, is it new enough, and which one would be."""

from __future__ import annotations

from typing import Final

from moondream_station.core.builds.naming import Kind
from moondream_station.core.builds.visibility import describe
from moondream_station.core.capabilities.probes.nvidia import Trouble
from moondream_station.core.facts.capabilities import Outcome
from moondream_station.doctor.checks.findings import Remedy, Verdict, ok, problem, skipped, warning
from moondream_station.doctor.checks.patient import Examined, Patient
from moondream_station.doctor.checks.planned import Planned

_DRIVERS = "https://www.nvidia.com/drivers"
_TIMED_OUT, _NO_CUDA = "timed out", "no CUDA library"

_AILMENTS: Final = {
    Trouble.MISMATCH: (
        "The NVIDIA driver and its library have different versions.",
        Remedy("Restart the computer.", ("sudo reboot",)),
    ),
    Trouble.NO_PERMISSION: (
        "This user may not use the NVIDIA GPU.",
        Remedy(
            "Join the groups that own /dev/nvidia*, and log in again.",
            ('sudo usermod -aG video,render "$USER"',),
        ),
    ),
    Trouble.BLOCKED: (
        "Windows keeps the GPU from WSL.",
        Remedy("Update its driver for Windows, then WSL.", ("wsl --update",)),
    ),
    Trouble.NVML: (
        "nvidia-smi can't reach the GPU.",
        Remedy("In a container, restart the container; otherwise restart the computer."),
    ),
    _TIMED_OUT: (
        "nvidia-smi did not answer in time.",
        Remedy("Run it by hand; if it hangs there too, restart the computer.", ("nvidia-smi",)),
    ),
    _NO_CUDA: (
        "The NVIDIA driver's CUDA library is missing.",
        Remedy(
            "Give the container the driver's CUDA library, or reinstall the driver.",
            ("docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility IMAGE",),
        ),
    ),
}
"""What keeps an installed driver from working, the most telling first."""
_INCURABLE: Final = {Trouble.MISMATCH, Trouble.NO_PERMISSION}
"""With these no build is served."""


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
    summary = f"NVIDIA driver {version}{f', for CUDA up to {cuda}' if cuda else ''}."
    return ok(summary, _newer_build_note(planned))


def _ailing(machine: Examined, planned: Planned) -> Verdict | None:
    smi, kernel = machine.nvidia_smi, machine.kernel_driver
    ailments: set[str] = {*smi.troubles}
    if smi.version is not None and kernel is not None and smi.version != kernel:
        ailments.add(Trouble.MISMATCH)
    if smi.outcome is Outcome.TIMED_OUT:
        ailments.add(_TIMED_OUT)
    if smi.cuda_shown in {"N/A", "ERR!"}:
        ailments.add(_NO_CUDA)
    for ailment, (summary, remedy) in _AILMENTS.items():
        if ailment in ailments:
            fatal = ailment in _INCURABLE and planned.kind is Kind.CUDA
            return problem(summary, remedy, planned.capabilities.notes, fatal=fatal)
    return None


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
    return warning(summary, _install(planned, planned.lowest_driver()), planned.capabilities.notes)


def _too_old(planned: Planned) -> Verdict | None:
    """A driver that suffices for no build, or not for the one that was set by name."""
    installed, forced = planned.capabilities.nvidia_driver, planned.forced
    if installed is None or not planned.case.hardware.of_kind(Kind.CUDA).gpus:
        return None
    if forced is not None:
        chosen = planned.build if planned.kind is Kind.CUDA else None
        sentence = chosen and planned.case.hardware.why_not_build(chosen)
        needed = planned.needed_driver or planned.lowest_driver()
        return problem(sentence, _install(planned, needed), fatal=True) if sentence else None
    if planned.kind is Kind.CUDA or planned.with_newest_driver().kind is not Kind.CUDA:
        return None
    summary = f"NVIDIA driver {installed} is too old for every build that this machine could use."
    return warning(summary, _install(planned, planned.lowest_driver()), planned.idle_gpus)


def _install(planned: Planned, lowest: str | None) -> Remedy:
    newest = f"NVIDIA's newest driver for this GPU{f', {lowest} at least' if lowest else ''}"
    match planned.capabilities.surroundings, planned.capabilities.system:
        case "jetson", _:
            which = f" whose driver is {lowest} or newer" if lowest else ""
            text = f"On a Jetson the driver comes with JetPack: install one{which}."
        case "wsl2", _:
            text = f"Install {newest}, in Windows: WSL2 uses that one ({_DRIVERS})."
        case _, "Linux":
            text = f"Install {newest}, with your distribution's tool or from {_DRIVERS}. Then restart."
        case _:
            text = f"Install {newest}, from {_DRIVERS}. Then restart."
    return Remedy(text)


def _newer_build_note(planned: Planned) -> str | None:
    newest = planned.with_newest_driver()
    ours, theirs = planned.selection, newest.selection
    if newest.kind is not Kind.CUDA or (ours.build, ours.torch) == (theirs.build, theirs.torch):
        return None
    needed = newest.needed_driver
    return needed and f"Driver {needed} or newer would allow {theirs.build} with torch {theirs.torch}."
