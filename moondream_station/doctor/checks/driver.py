"""The NVIDIA driver: is it there, is it well, does it suffice, and which one would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from moondream_station.core.builds.naming import Kind
from moondream_station.core.builds.visibility import describe
from moondream_station.core.capabilities.probes.nvidia_smi_output import Trouble
from moondream_station.core.facts.capabilities import Outcome
from moondream_station.doctor.patient.patient import Looked, Patient
from moondream_station.doctor.patient.planned import Planned
from moondream_station.doctor.report.findings import Remedy, Verdict, ok, problem, skipped, warning

_DRIVERS = "https://www.nvidia.com/drivers"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ailment:
    """A driver that is there and not well.

    Args:
        shows: Whether the machine's answers show it.
        summary: It, in a sentence.
        remedy: What to do.
        is_incurable: Whether no build computes with it, so that a CUDA build can't work.
    """

    shows: Callable[[Looked], bool]
    summary: str
    remedy: Remedy
    is_incurable: bool = False


def _complains(trouble: Trouble) -> Callable[[Looked], bool]:
    return lambda looked: trouble in looked.nvidia_smi.troubles


def _is_out_of_step(looked: Looked) -> bool:
    told, kernel = looked.nvidia_smi.driver, looked.kernel_driver
    differ = told is not None and kernel is not None and told != kernel
    return differ or Trouble.MISMATCH in looked.nvidia_smi.troubles


_AILMENTS: Final = (
    _Ailment(
        shows=_is_out_of_step,
        summary="The NVIDIA driver and its library are out of step.",
        remedy=Remedy(text="Restart the computer.", commands=("sudo reboot",)),
        is_incurable=True,
    ),
    _Ailment(
        shows=_complains(Trouble.NO_PERMISSION),
        summary="This user may not use the NVIDIA GPU.",
        remedy=Remedy(
            text="Join the groups that own /dev/nvidia*, and log in again.",
            commands=('sudo usermod -aG video,render "$USER"',),
        ),
        is_incurable=True,
    ),
    _Ailment(
        shows=_complains(Trouble.BLOCKED),
        summary="Windows keeps the GPU from WSL.",
        remedy=Remedy(text="Update its driver for Windows, then WSL.", commands=("wsl --update",)),
    ),
    _Ailment(
        shows=_complains(Trouble.NVML),
        summary="nvidia-smi can't reach the GPU.",
        remedy=Remedy(text="In a container, start the container again; else restart the computer."),
    ),
    _Ailment(
        shows=lambda looked: looked.nvidia_smi.outcome is Outcome.TIMED_OUT,
        summary="nvidia-smi did not answer in time.",
        remedy=Remedy(
            text="Run it by hand; if it hangs there too, restart the computer.", commands=("nvidia-smi",)
        ),
    ),
    _Ailment(
        shows=lambda looked: looked.nvidia_smi.cuda_shown in {"N/A", "ERR!"},
        summary="The NVIDIA driver's CUDA library is missing.",
        remedy=Remedy(
            text="Give the container the driver's CUDA library, or install the driver again.",
            commands=("docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility IMAGE",),
        ),
    ),
)


async def look_at_driver(patient: Patient) -> Verdict:
    """Look at the NVIDIA driver; the most telling trouble is named, the others stand in the detail."""
    looked, planned = await patient.looked.get(), await patient.planned.get()
    for look in (_ailing, _missing, _too_old):
        verdict = look(looked, planned)
        if verdict is not None:
            return verdict
    driver = planned.capabilities.nvidia_driver
    if driver is None and planned.case.hardware.of_kind(Kind.CUDA).uncertain:
        return skipped("Whether there is an NVIDIA driver could not be found out.")
    if driver is None:
        return ok("There is no NVIDIA GPU, and no NVIDIA driver is needed.")
    cuda = planned.capabilities.nvidia_cuda
    known = f"NVIDIA driver {driver}" + (f", for CUDA up to {cuda}" if cuda else "")
    return ok(f"{known}.", detail=_what_newer_would_give(planned))


def _ailing(looked: Looked, planned: Planned) -> Verdict | None:
    ailment = next((ailment for ailment in _AILMENTS if ailment.shows(looked)), None)
    if ailment is None:
        return None
    fatal = ailment.is_incurable and planned.kind is Kind.CUDA
    return problem(ailment.summary, fatal=fatal, detail=_notes(planned), remedy=ailment.remedy)


def _notes(planned: Planned) -> str | None:
    return "\n".join(planned.capabilities.notes) or None


def _missing(looked: Looked, planned: Planned) -> Verdict | None:
    gpus = planned.capabilities.gpus_of("nvidia")
    if not gpus or planned.capabilities.nvidia_driver is not None:
        return None
    name = describe(gpus[0])
    if Trouble.NOT_LOADED in looked.nvidia_smi.troubles:
        why = f"{name} is there, and its driver is not loaded, or not built for this kernel."
    elif Trouble.NO_LIBRARY in looked.nvidia_smi.troubles:
        why = f"{name} is there, and its driver's library is missing."
    else:
        why = f"{name} has no NVIDIA driver."
    return warning(why, detail=_notes(planned), remedy=_get(planned))


def _too_old(_: Looked, planned: Planned) -> Verdict | None:
    """A driver that suffices for no build, or not for the one that was asked for."""
    driver = planned.capabilities.nvidia_driver
    if driver is None or not planned.case.hardware.of_kind(Kind.CUDA).gpus:
        return None
    build = planned.build
    if planned.is_forced and build is not None and build.kind is Kind.CUDA:
        sentence = planned.case.hardware.why_not_build(build)
        if sentence is None:
            return None
        needed = planned.case.hardware.needed_driver(build, planned.case.hardware.of_kind(Kind.CUDA).gpus)
        return problem(sentence, fatal=True, remedy=_get(planned, needed))
    if planned.kind is Kind.CUDA or planned.is_forced or planned.with_newest_driver().kind is not Kind.CUDA:
        return None
    needed = planned.lowest_driver()
    summary = f"NVIDIA driver {driver} is too old for every build that could be used here."
    return warning(summary, detail="\n".join(planned.idle_gpus) or None, remedy=_get(planned, needed))


def _get(planned: Planned, needed: str | None = None) -> Remedy:
    lowest = needed or planned.lowest_driver()
    newest = f"NVIDIA's newest driver for this GPU{f', {lowest} at least' if lowest else ''}"
    if planned.capabilities.surroundings == "jetson":
        which = f" whose driver is {lowest} or newer" if lowest else ""
        return Remedy(text=f"On a Jetson the driver comes with JetPack: install one{which}.")
    if planned.capabilities.surroundings == "wsl2":
        return Remedy(text=f"Install {newest}, in Windows: WSL2 uses that one ({_DRIVERS}).")
    if planned.capabilities.system == "Linux":
        return Remedy(
            text=f"Install {newest}, with your distribution's tool or from {_DRIVERS}. Then restart."
        )
    return Remedy(text=f"Install {newest}, from {_DRIVERS}. Then restart.")


def _what_newer_would_give(planned: Planned) -> str | None:
    newest = planned.with_newest_driver()
    ours, theirs = planned.selection, newest.selection
    if newest.kind is not Kind.CUDA or (ours.build, ours.torch) == (theirs.build, theirs.torch):
        return None
    build = newest.build
    gpus = newest.case.hardware.of_kind(Kind.CUDA).gpus
    needed = newest.case.hardware.needed_driver(build, gpus) if build else None
    if needed is None:
        return None
    return f"Driver {needed} or newer would allow {theirs.build} with torch {theirs.torch}."
