"""The GPUs, the build that serves them, the CUDA toolkit beside it, and access to the devices."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from packaging.version import Version

from moondream_station.core.builds.naming import Kind, parse_build
from moondream_station.core.builds.visibility import describe
from moondream_station.core.capabilities.probes.nvidia import Trouble
from moondream_station.core.facts.capabilities import Gpu, Vendor
from moondream_station.core.home.space import in_words
from moondream_station.doctor.checks.findings import Remedy, Verdict, error, ok, problem, skipped, warning
from moondream_station.doctor.checks.patient import Patient, in_thread
from moondream_station.doctor.checks.planned import Planned

_LOST = {Trouble.LOST, Trouble.UNREACHABLE}
_GPU_KINDS: Mapping[Kind, Vendor] = {Kind.CUDA: "nvidia", Kind.ROCM: "amd", Kind.XPU: "intel"}
_DEVICES = {Kind.CUDA: "nvidia[0-9]*", Kind.ROCM: "kfd", Kind.XPU: "dri/renderD*"}


async def devices(patient: Patient) -> Verdict:
    """Which GPUs there are, and whether PyTorch can see them."""
    machine, planned = await patient.examined.get(), await patient.planned.get()
    gpus = [_gpu_line(gpu) for gpu in machine.capabilities.gpus]
    if _LOST & set(machine.nvidia_smi.troubles):
        remedy = Remedy("Restart the computer; if that does not bring it back, check its power and slot.")
        return warning("An NVIDIA GPU no longer answers on its bus.", remedy, gpus)
    absence = _unusable(planned)
    if absence is not None:
        remedy = _visibility_remedy(absence, machine.capabilities.system)
        return warning(f"{absence[0].upper()}{absence[1:]}.", remedy, gpus)
    if gpus:
        variables = planned.capabilities.variables
        return ok(f"{', '.join(gpus)}.", [f"{name}={value}" for name, value in variables.items()])
    if any(planned.case.hardware.of_kind(kind).uncertain for kind in _GPU_KINDS):
        return skipped("GPUs could not be detected for certain.")
    return ok("No GPU that PyTorch supports was found; models run on the CPU.")


def _unusable(planned: Planned) -> str | None:
    """Why GPUs that are there, or should be, are not seen; a missing driver is the driver's own matter."""
    for kind, vendor in _GPU_KINDS.items():
        in_use, gpus = planned.case.hardware.of_kind(kind), planned.capabilities.gpus_of(vendor)
        is_hidden = bool(gpus) and not in_use.gpus and "hides" in (in_use.absence or "")
        is_missing = not gpus and in_use.driver is not None
        if in_use.absence and (is_hidden or is_missing):
            return in_use.absence
    return None


def _visibility_remedy(absence: str, system: str) -> Remedy:
    if "hides" in absence:
        variable = absence.partition("=")[0]
        command = f"Remove-Item Env:{variable}" if system == "Windows" else f"unset {variable}"
        return Remedy("Unset the variable, unless it is meant.", (command,))
    text = "Give the container its GPU: NVIDIA's container toolkit on the host, and `--gpus all`."
    return Remedy(text, ("docker run --gpus all IMAGE",))


def _gpu_line(gpu: Gpu) -> str:
    known = [
        f"compute capability {gpu.architecture}" if gpu.vendor == "nvidia" else gpu.architecture,
        in_words(gpu.memory_bytes) if gpu.memory_bytes else None,
        "integrated" if gpu.integrated else None,
    ]
    facts = ", ".join(fact for fact in known if fact) if gpu.architecture else ""
    return f"{describe(gpu)} ({facts})" if facts else describe(gpu)


async def build(patient: Patient) -> Verdict:
    """Which build this machine gets, and which GPUs it leaves idle."""
    planned, subject = await patient.planned_now(), await patient.subject.get()
    selection = planned.selection
    see = Remedy("`moondream-station plan --machine FILE` shows the verdict on every build.")
    if patient.is_here:
        text = "See the verdict on every build, and what would change it."
        see = Remedy(text, ("moondream-station plan",))
    if selection.build is None:
        # Without a requirement known here, nobody can say that the model can do without torch.
        fatal = subject.needs_torch or not patient.is_here
        return problem("No PyTorch build can be installed here.", see, selection.reason, fatal=fatal)
    if planned.refusal is not None:
        text = "Let the station choose: remove the setting `strategy` or MOONDREAM_STATION_STRATEGY."
        summary = f"You set {selection.build}, but it can't run here."
        return error(summary, Remedy(text), planned.refusal)
    would = f"This machine would get {selection.build} with torch {selection.torch}"
    if planned.idle_gpus:
        which = "its GPU" if planned.kind is Kind.CPU else "a better GPU"
        return warning(f"{would}, which leaves {which} idle.", see, planned.idle_gpus)
    if planned.doubts:
        return warning(f"{would}, because GPUs could not be detected for certain.", see, planned.doubts)
    if left_out := _left_out(planned):
        text = "Models run on the others. Hide the GPUs that are left out, or use them on another machine."
        return warning(f"{would}, which does not serve every GPU.", Remedy(text), left_out)
    return ok(f"{would.replace('would get', 'gets')}.", (selection.reason, *selection.warnings))


def _left_out(planned: Planned) -> list[str]:
    if planned.build is None or planned.selection.torch is None:
        return []
    hardware = planned.case.hardware
    served = hardware.served(planned.build, Version(planned.selection.torch))
    gpus = hardware.of_kind(planned.build.kind).gpus
    return [_gpu_line(gpu) for place, gpu in enumerate(gpus) if place not in served]


async def toolkit(patient: Patient) -> Verdict:
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
    return warning(f"CUDA toolkit {nvcc} is installed, torch's CUDA is {carried}.", Remedy(text))


async def access(patient: Patient) -> Verdict:
    """Whether this user may open the GPU's devices."""
    planned = await patient.planned.get()
    kind = planned.kind
    if kind not in _DEVICES or planned.capabilities.system != "Linux":
        return ok("No device needs a permission here.")
    refused = await in_thread(_refused, _DEVICES[kind])
    if refused is None:
        return ok("The GPU's devices can be opened.")
    text = "Join the groups that own the devices, and log in again."
    remedy = Remedy(text, ('sudo usermod -aG video,render "$USER"',))
    return error(f"This user may not open the GPU's device {refused}.", remedy)


def _refused(pattern: str) -> Path | None:
    """A device that this user may not open, None where one may be opened or there is none."""
    paths = sorted(Path("/dev").glob(pattern))
    is_open = any(os.access(path, os.R_OK | os.W_OK) for path in paths)
    return paths[0] if paths and not is_open else None
