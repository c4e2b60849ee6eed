"""GPUs and what is made of them: which are there, which build serves them, and the CUDA toolkit beside it."""

from __future__ import annotations

import os
from pathlib import Path

from packaging.version import Version

from moondream_station.core.builds.naming import Kind, parse_build
from moondream_station.core.builds.visibility import describe
from moondream_station.core.capabilities.probes.nvidia_smi_output import Trouble
from moondream_station.core.facts.capabilities import Gpu
from moondream_station.core.home.space import in_words
from moondream_station.doctor.checks.driver import look_at_driver
from moondream_station.doctor.patient.check import OFFERS_SECONDS, Check
from moondream_station.doctor.patient.patient import Patient, in_thread
from moondream_station.doctor.patient.planned import Planned
from moondream_station.doctor.report.findings import (
    Remedy,
    Section,
    Verdict,
    error,
    ok,
    problem,
    skipped,
    warning,
)

_LOST = {Trouble.LOST, Trouble.UNREACHABLE}
_GPU_KINDS = {Kind.CUDA: "nvidia", Kind.ROCM: "amd", Kind.XPU: "intel"}
_DEVICES = {Kind.CUDA: "nvidia[0-9]*", Kind.ROCM: "kfd", Kind.XPU: "dri/renderD*"}


async def _devices(patient: Patient) -> Verdict:
    looked, planned = await patient.looked.get(), await patient.planned.get()
    capabilities = looked.capabilities
    detail = "\n".join(map(_gpu_line, capabilities.gpus)) or None
    if _LOST & set(looked.nvidia_smi.troubles):
        remedy = Remedy(
            text="Restart the computer; if that does not bring it back, check its power and slot."
        )
        return warning("An NVIDIA GPU does not answer on its bus any more.", detail=detail, remedy=remedy)
    absence = _unusable(planned)
    if absence is not None:
        remedy = _remedy_of(absence, capabilities.system)
        return warning(f"{absence[0].upper()}{absence[1:]}.", detail=detail, remedy=remedy)
    if not capabilities.gpus:
        if any(planned.case.hardware.of_kind(kind).uncertain for kind in _GPU_KINDS):
            return skipped("Whether there is a GPU could not be found out.")
        return ok("There is no GPU that PyTorch supports; models compute on the processor.")
    return ok(f"{', '.join(map(_gpu_line, capabilities.gpus))}.", detail=_variables(planned))


def _unusable(planned: Planned) -> str | None:
    """Why GPUs that are there, or should be, are not seen; a missing driver is the driver's own matter."""
    for kind, vendor in _GPU_KINDS.items():
        in_use = planned.case.hardware.of_kind(kind)
        gpus = [gpu for gpu in planned.capabilities.gpus if gpu.vendor == vendor]
        is_hidden = bool(gpus) and not in_use.gpus and "hides" in (in_use.absence or "")
        is_missing = not gpus and in_use.driver is not None
        if in_use.absence and (is_hidden or is_missing):
            return in_use.absence
    return None


def _remedy_of(absence: str, system: str) -> Remedy:
    if "hides" in absence:
        variable = absence.partition("=")[0]
        command = f"Remove-Item Env:{variable}" if system == "Windows" else f"unset {variable}"
        return Remedy(text="Unset the variable, if that was not meant.", commands=(command,))
    return Remedy(
        text="Give the container its GPU: NVIDIA's container toolkit on the host, and `--gpus all`.",
        commands=("docker run --gpus all IMAGE",),
    )


def _gpu_line(gpu: Gpu) -> str:
    known = [
        f"compute capability {gpu.architecture}" if gpu.vendor == "nvidia" else gpu.architecture,
        in_words(gpu.memory_bytes) if gpu.memory_bytes else None,
        "integrated" if gpu.integrated else None,
    ]
    facts = ", ".join(fact for fact in known if fact) if gpu.architecture else ""
    return f"{describe(gpu)} ({facts})" if facts else describe(gpu)


def _variables(planned: Planned) -> str | None:
    return "\n".join(f"{key}={value}" for key, value in planned.capabilities.variables.items()) or None


async def _build(patient: Patient) -> Verdict:
    planned, subject = await patient.planned_now(), await patient.subject.get()
    selection = planned.selection
    if selection.build is None:
        summary = "No PyTorch build can be installed here."
        # Without a requirement known here, nobody can say that the model can't do without torch.
        fatal = subject.wants_torch or not patient.is_here
        return problem(summary, fatal=fatal, detail=selection.reason, remedy=_plan_remedy(patient))
    chosen = f"{selection.build} with torch {selection.torch}"
    if planned.refusal is not None:
        summary = f"{selection.build} is set by name, and can't work here."
        text = "Let the station choose: take away the setting `strategy` or MOONDREAM_STATION_STRATEGY."
        return error(summary, detail=planned.refusal, remedy=Remedy(text=text))
    if planned.idle_gpus:
        which = "its GPU" if planned.kind is Kind.CPU else "a better GPU"
        summary = f"This machine would get {chosen}, and {which} would not be used."
        idle = "\n".join(planned.idle_gpus)
        return warning(summary, detail=idle, remedy=_plan_remedy(patient))
    if planned.doubts:
        summary = (
            f"This machine would get {chosen}, because it could not be found out whether there is a GPU."
        )
        return warning(summary, detail="\n".join(planned.doubts), remedy=_plan_remedy(patient))
    left_out = _left_out(planned)
    if left_out:
        summary = f"This machine would get {chosen}, which does not serve every GPU."
        text = "Models run on the others. Hide those that are left out, or use them on another machine."
        return warning(summary, detail=left_out, remedy=Remedy(text=text))
    detail = "\n".join((selection.reason, *selection.warnings))
    return ok(f"This machine gets {chosen}.", detail=detail)


def _plan_remedy(patient: Patient) -> Remedy:
    text = "See what is said of every build, and what would change it."
    if patient.is_here:
        return Remedy(text=text, commands=("moondream-station plan",))
    return Remedy(text=f"{text} Of this record `moondream-station plan --machine FILE` says it.")


def _left_out(planned: Planned) -> str | None:
    build = planned.build
    if build is None or planned.selection.torch is None:
        return None
    hardware = planned.case.hardware
    gpus = hardware.of_kind(build.kind).gpus
    served = hardware.served(build, Version(planned.selection.torch))
    return "\n".join(_gpu_line(gpu) for place, gpu in enumerate(gpus) if place not in served) or None


async def _toolkit(patient: Patient) -> Verdict:
    planned, subject = await patient.planned.get(), await patient.subject.get()
    nvcc = planned.capabilities.nvcc
    if nvcc is None:
        return ok("No CUDA toolkit (nvcc) is installed, and none is needed.")
    if planned.capabilities.nvidia_driver is None:
        return ok(f"nvcc {nvcc} without a driver is no GPU, and chooses no build.")
    build = parse_build(subject.build) if subject.build else planned.build
    if build is None or build.kind is not Kind.CUDA:
        return ok(f"nvcc {nvcc} is installed; the build here does not carry CUDA.")
    carried = build.toolkit
    if subject.committed and (verification := subject.committed.record.verification):
        carried = verification.cuda_version or carried
    if _minor(nvcc) == _minor(carried):
        return ok(f"nvcc {nvcc} is of the CUDA that torch carries.")
    text = (
        "Torch brings its own CUDA and computes without nvcc. Only where a backend compiles extensions must "
        f"the two agree: install the CUDA toolkit {carried} then."
    )
    return warning(f"nvcc is of CUDA {nvcc}, torch's is {carried}.", remedy=Remedy(text=text))


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


async def _access(patient: Patient) -> Verdict:
    planned = await patient.planned.get()
    kind = planned.kind
    if kind not in _DEVICES or planned.capabilities.system != "Linux":
        return ok("Nothing here needs a permission on a device.")
    refused = await in_thread(_refused, _DEVICES[kind])
    if refused is None:
        return ok("The GPU's devices can be opened.")
    commands = ('sudo usermod -aG video,render "$USER"',)
    remedy = Remedy(text="Join the groups that own the devices, and log in again.", commands=commands)
    return error(f"This user may not open the GPU's device {refused}.", remedy=remedy)


def _refused(pattern: str) -> str | None:
    """A device that this user may not open, None where one may be opened or there is none."""
    devices = sorted(Path("/dev").glob(pattern))
    if not devices or any(os.access(device, os.R_OK | os.W_OK) for device in devices):
        return None
    return str(devices[0])


CHECKS = (
    Check(id="gpu.devices", section=Section.GPU, title="The GPUs", look=_devices),
    Check(id="gpu.driver", section=Section.GPU, title="The NVIDIA driver", look=look_at_driver),
    Check(
        id="gpu.build",
        section=Section.GPU,
        title="The build for this machine",
        look=_build,
        limit_seconds=OFFERS_SECONDS,
    ),
    Check(id="gpu.toolkit", section=Section.GPU, title="The CUDA toolkit", look=_toolkit),
    Check(id="gpu.access", section=Section.GPU, title="The GPU's devices", look=_access, needs_home=True),
)
