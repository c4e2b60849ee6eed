"""The GPUs, their driver, the build that serves them, the CUDA toolkit beside it, and who may use them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from packaging.version import Version

from moondream_station.core.activation.trials_file import load_trials
from moondream_station.core.builds.naming import Kind, parse_build
from moondream_station.core.builds.visibility import InUse, describe, named_by_device
from moondream_station.core.capabilities.probes.nvidia import Trouble
from moondream_station.core.facts.capabilities import Gpu, Outcome, Vendor
from moondream_station.core.facts.redact import redact_url
from moondream_station.core.home.storage import in_words
from moondream_station.core.selection.sentences import doubts, lowest_driver
from moondream_station.doctor.patient import Examined, Patient, Planned, in_thread
from moondream_station.doctor.report import Finding, error, ok, problem, skipped, warning

_LOST = {Trouble.LOST, Trouble.UNREACHABLE}
_GPU_KINDS: Mapping[Kind, Vendor] = {Kind.CUDA: "nvidia", Kind.ROCM: "amd", Kind.XPU: "intel"}
_DEVICES = {Kind.CUDA: "nvidia[0-9]*", Kind.ROCM: "kfd", Kind.XPU: "dri/renderD*"}
_DRIVERS = "https://www.nvidia.com/drivers"
_JOIN_GROUPS = 'sudo usermod -aG video,render "$USER"'
_TIMED_OUT, _NO_CUDA = "timed out", "no CUDA library"

_AILMENTS: Final = {
    Trouble.MISMATCH: (
        "The NVIDIA driver and its library have different versions.",
        *("Restart the computer.", "sudo reboot"),
    ),
    Trouble.NO_PERMISSION: (
        "This user may not use the NVIDIA GPU.",
        *("Join the groups that own /dev/nvidia*, and log in again.", _JOIN_GROUPS),
    ),
    Trouble.BLOCKED: (
        "Windows does not pass the GPU on to WSL.",
        *("Update its driver for Windows, then WSL.", "wsl --update"),
    ),
    Trouble.NVML: (
        "nvidia-smi can't reach the GPU.",
        "In a container, restart the container; otherwise restart the computer.",
    ),
    _TIMED_OUT: (
        "nvidia-smi did not answer in time.",
        *("Run it by hand; if it hangs there too, restart the computer.", "nvidia-smi"),
    ),
    _NO_CUDA: (
        "The NVIDIA driver's CUDA library is missing.",
        "Give the container the driver's CUDA library, or reinstall the driver.",
        "docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility IMAGE",
    ),
}
"""What keeps an installed driver from working, the most telling first: the summary, remedy and commands."""
_GONE = "Restart the computer; if that does not bring it back, check its power and slot."
_INCURABLE: Final = {Trouble.MISMATCH, Trouble.NO_PERMISSION}
"""With these no build is served."""


async def devices(patient: Patient) -> Finding:
    """Which GPUs there are, and whether PyTorch can see them."""
    machine, planned = await patient.examined.get(), await patient.planned.get()
    gpus = [_gpu_line(gpu, planned) for gpu in machine.capabilities.gpus]
    if _LOST & set(machine.nvidia_smi.troubles):
        return warning("An NVIDIA GPU no longer answers on its bus.", _GONE, detail=gpus)
    if unseen := _unseen(planned):
        absence, is_windows = unseen.absence or "", machine.capabilities.system == "Windows"
        remedy: tuple[str, ...] = (_GONE,)
        if variable := unseen.hidden_by:
            command = f"Remove-Item Env:{variable}" if is_windows else f"unset {variable}"
            remedy = ("Unset the variable, unless it is meant.", command)
        elif not is_windows and machine.capabilities.surroundings is None:
            text = "Give the container its GPU: NVIDIA's container toolkit on the host, and `--gpus all`."
            remedy = (text, "docker run --gpus all IMAGE")
        return warning(f"{absence[0].upper()}{absence[1:]}.", *remedy, detail=gpus)
    if gpus:
        variables = planned.capabilities.variables
        return ok(f"{', '.join(gpus)}.", [f"{name}={value}" for name, value in variables.items()])
    if any(planned.case.hardware.of_kind(kind).uncertain for kind in _GPU_KINDS):
        return skipped("GPUs could not be detected for certain.")
    return ok("No GPU that PyTorch supports was found; models run on the CPU.")


def _unseen(planned: Planned) -> InUse | None:
    """Why GPUs that are there, or should be, are not seen; a missing driver is the driver's own matter."""
    for kind, vendor in _GPU_KINDS.items():
        in_use, gpus = planned.case.hardware.of_kind(kind), planned.capabilities.gpus_of(vendor)
        is_missing = not gpus and in_use.driver is not None
        if in_use.absence and (in_use.hidden_by or is_missing):
            return in_use
    return None


def _gpu_line(gpu: Gpu, planned: Planned) -> str:
    if gpu.vendor == "amd":
        gpu = named_by_device(gpu, planned.case.catalog)
    known = [
        f"compute capability {gpu.architecture}" if gpu.vendor == "nvidia" else gpu.architecture,
        in_words(gpu.memory_bytes) if gpu.memory_bytes else None,
        "integrated" if gpu.integrated else None,
    ]
    facts = ", ".join(fact for fact in known if fact) if gpu.architecture else ""
    return f"{describe(gpu)} ({facts})" if facts else describe(gpu)


async def driver(patient: Patient) -> Finding:
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
    newest = planned.with_newest_driver()
    ours, theirs = planned.selection, newest.selection
    note = None
    if newest.kind is Kind.CUDA and (ours.build, ours.torch) != (theirs.build, theirs.torch):
        needed = newest.needed_driver
        note = needed and f"Driver {needed} or newer would allow {theirs.build} with torch {theirs.torch}."
    return ok(summary, note)


def _ailing(machine: Examined, planned: Planned) -> Finding | None:
    smi, kernel = machine.nvidia_smi, machine.kernel_driver
    ailments: set[str] = {*smi.troubles}
    if smi.version is not None and kernel is not None and smi.version != kernel:
        ailments.add(Trouble.MISMATCH)
    if smi.outcome is Outcome.TIMED_OUT:
        ailments.add(_TIMED_OUT)
    if smi.cuda_shown in {"N/A", "ERR!"}:
        ailments.add(_NO_CUDA)
    for ailment, (summary, *remedy) in _AILMENTS.items():
        if ailment in ailments:
            fatal = ailment in _INCURABLE and planned.kind is Kind.CUDA
            return problem(summary, *remedy, detail=planned.capabilities.notes, fatal=fatal)
    return None


def _missing(machine: Examined, planned: Planned) -> Finding | None:
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
    return warning(summary, _install(planned), detail=planned.capabilities.notes)


def _too_old(planned: Planned) -> Finding | None:
    """A driver that suffices for no build, or not for the one that was set by name."""
    installed, forced = planned.capabilities.nvidia_driver, planned.forced
    if installed is None or not planned.case.hardware.of_kind(Kind.CUDA).gpus:
        return None
    if forced is not None:
        chosen = planned.build if planned.kind is Kind.CUDA else None
        sentence = chosen and planned.case.hardware.why_not_build(chosen)
        return error(sentence, _install(planned, planned.needed_driver)) if sentence else None
    if planned.kind is Kind.CUDA or planned.with_newest_driver().kind is not Kind.CUDA:
        return None
    summary = f"NVIDIA driver {installed} is too old for every build that this machine could use."
    return warning(summary, _install(planned), detail=planned.idle_gpus)


def _install(planned: Planned, lowest: str | None = None) -> str:
    """What to install: the driver that a build needs, or the lowest that makes any CUDA build possible."""
    if lowest is None and (needed := lowest_driver(planned.case)):
        lowest = needed[0]
    newest = f"NVIDIA's newest driver for this GPU{f', {lowest} at least' if lowest else ''}"
    match planned.capabilities.surroundings, planned.capabilities.system:
        case "jetson", _:
            which = f" whose driver is {lowest} or newer (580 comes with JetPack 7)" if lowest else ""
            return f"On a Jetson the driver comes with JetPack: on an Orin or Thor, install one{which}."
        case "wsl2", _:
            return f"Install {newest}, in Windows: WSL2 uses that one ({_DRIVERS})."
        case _, "Linux":
            return f"Install {newest}, with your distribution's tool or from {_DRIVERS}. Then restart."
        case _:
            return f"Install {newest}, from {_DRIVERS}. Then restart."


async def build(patient: Patient) -> Finding:
    """Which build this machine gets, and which GPUs it leaves idle."""
    planned, subject = await patient.planned_now(), await patient.subject.get()
    selection = planned.selection
    see: tuple[str, ...] = ("`moondream-station plan --machine FILE` shows the verdict on every build.",)
    if patient.is_here:
        see = ("See the verdict on every build, and what would change it.", "moondream-station plan")
    if selection.build is None:
        # Without a requirement known here, nobody can say that the model can do without torch.
        fatal = subject.needs_torch or not patient.is_here
        summary = "No PyTorch build can be installed here."
        return problem(summary, *see, detail=selection.reason, fatal=fatal)
    if planned.refusal is not None:
        text = "Let the station choose: remove the setting `strategy` or MOONDREAM_STATION_STRATEGY."
        summary = f"You set {selection.build}, but it can't run here."
        return error(summary, text, detail=planned.refusal)
    would = f"This machine would get {selection.build} with torch {selection.torch}"
    if planned.idle_gpus:
        which = "its GPU" if planned.kind is Kind.CPU else "a better GPU"
        return warning(f"{would}, which leaves {which} idle.", *see, detail=planned.idle_gpus)
    unsure = doubts(planned.case) if planned.kind is Kind.CPU and planned.forced is None else ()
    if unsure:
        return warning(f"{would}, because GPUs could not be detected for certain.", *see, detail=unsure)
    if left_out := _left_out(planned):
        text = "Models run on the others. Hide the GPUs that are left out, or use them on another machine."
        return warning(f"{would}, which does not serve every GPU.", text, detail=left_out)
    return ok(f"{would.replace('would get', 'gets')}.", (selection.reason, *selection.warnings))


def _left_out(planned: Planned) -> list[str]:
    if planned.build is None or planned.selection.torch is None:
        return []
    hardware = planned.case.hardware
    served = hardware.served(planned.build, Version(planned.selection.torch))
    gpus = hardware.of_kind(planned.build.kind).gpus
    return [_gpu_line(gpu, planned) for place, gpu in enumerate(gpus) if place not in served]


async def catalog(patient: Patient) -> Finding:
    """Which catalog of builds counts."""
    known = await patient.catalog.get()
    if known.doubt:
        text = "Correct or remove MOONDREAM_STATION_CATALOG, or `catalog` in config.json."
        return warning(known.doubt, text)
    named = (patient.settings.catalog or "").strip()
    which = f"The catalog of builds {redact_url(named)}" if named else "The bundled catalog of builds"
    return ok(f"{which} was reviewed on {known.reviewed}.", known.staleness(datetime.now(UTC).date()))


async def trials(patient: Patient) -> Finding:
    """Whether what earlier switches learned of builds can be used, and what failed here."""
    place = patient.home.trials
    try:
        kept = await in_thread(load_trials, patient.home)
    except (OSError, ValueError) as flaw:
        text = "A build that failed here may be tried again. Remove the file:"
        return warning(f"{place} can't be used: {flaw}.", text, f"rm {shlex.quote(str(place))}")
    request = (await patient.planned.get()).case.request
    failed = [
        f"{trial.build} with torch {trial.torch} failed on {trial.day}: {trial.failure}"
        for trial in kept.trials
        if trial.failure and trial.circumstances == request.circumstances
    ]
    if failed:
        return ok("Builds failed on this machine, and are tried after the others.", failed)
    return ok("No build that could be used here has failed on this machine.")


async def toolkit(patient: Patient) -> Finding:
    """Whether nvcc and torch have the same CUDA."""
    planned, subject = await patient.planned.get(), await patient.subject.get()
    nvcc = planned.capabilities.nvcc
    if nvcc is None:
        return ok("No CUDA toolkit (nvcc) is installed, and none is needed.")
    if planned.capabilities.nvidia_driver is None:
        return ok(f"CUDA toolkit {nvcc} is installed without a driver; it is ignored.")
    record = subject.committed.record if subject.committed else None
    carrier = parse_build(record.build) if record and record.build else planned.build
    if carrier is None or carrier.kind is not Kind.CUDA:
        return ok(f"CUDA toolkit {nvcc} is installed; the build here does not use CUDA.")
    verification = record and record.verification
    carried = (verification and verification.cuda_version) or carrier.toolkit
    if nvcc.split(".")[:2] == carried.split(".")[:2]:
        return ok(f"CUDA toolkit {nvcc} is the version that torch carries.")
    text = (
        "torch brings its own CUDA and computes without nvcc. Only where a backend compiles extensions must "
        f"the two agree: then install CUDA toolkit {carried}."
    )
    return warning(f"CUDA toolkit {nvcc} is installed, torch's CUDA is {carried}.", text)


async def access(patient: Patient) -> Finding:
    """Whether this user may open the GPU's devices."""
    planned = await patient.planned.get()
    kind = planned.kind
    if kind not in _DEVICES or planned.capabilities.system != "Linux":
        return ok("No device needs a permission here.")
    refused = await in_thread(_refused, _DEVICES[kind])
    if refused is None:
        return ok("The GPU's devices can be opened.")
    text = "Join the groups that own the devices, and log in again."
    return error(f"This user may not open the GPU's device {refused}.", text, _JOIN_GROUPS)


def _refused(pattern: str) -> Path | None:
    """A device that this user may not open, None where one may be opened or there is none."""
    paths = sorted(Path("/dev").glob(pattern))
    is_open = any(os.access(path, os.R_OK | os.W_OK) for path in paths)
    return paths[0] if paths and not is_open else None
