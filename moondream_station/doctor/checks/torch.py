"""PyTorch: in the environment of the active model, and in this interpreter. It is never imported here."""

from __future__ import annotations

import shlex
from importlib import metadata

from packaging.version import InvalidVersion, Version

from moondream_station.core.builds.catalog import load_catalog
from moondream_station.core.builds.naming import Kind, parse_build
from moondream_station.core.environments.store import CommitRecord
from moondream_station.doctor.patient.check import Check
from moondream_station.doctor.patient.patient import Patient, in_thread
from moondream_station.doctor.patient.planned import Planned
from moondream_station.doctor.patient.subject import Subject
from moondream_station.doctor.report.findings import Remedy, Section, Verdict, error, ok, warning

_ACCELERATED = {Kind.CUDA, Kind.ROCM, Kind.XPU, Kind.MPS}
_INDEX_OPTIONS_AT = 4
"""Where options stand in `python -m pip install …`."""


async def _installed(patient: Patient) -> Verdict:
    subject, planned = await patient.subject.get(), await patient.planned.get()
    if subject.committed is None:
        return ok("No environment with torch is installed yet; `moondream-station switch` makes one.")
    record = subject.committed.record
    build = parse_build(record.build or "")
    if build is None or record.torch is None:
        return ok(f"{subject.words} needs no torch.")
    unserved = _unserved(record, planned)
    again = _again(subject, planned)
    if unserved is not None:
        fatal, sentence = unserved
        summary = f"{subject.words} has torch {record.torch}, which does not fit this machine's GPU."
        return (error if fatal else warning)(summary, detail=sentence, remedy=again)
    if record.degraded is not None:
        summary = f"{subject.words} is degraded: it runs on {build.name} instead of {record.degraded.wanted}."
        return warning(summary, detail=record.degraded.reason, remedy=again)
    if build.kind is Kind.CPU and planned.kind in _ACCELERATED:
        summary = (
            f"{subject.words} runs on the processor, although this machine can run {planned.build_name}."
        )
        return warning(summary, detail=planned.selection.reason, remedy=again)
    return ok(f"{subject.words} has torch {record.torch}{_device(record)}.", detail=_newer(record, planned))


def _unserved(record: CommitRecord, planned: Planned) -> tuple[bool, str] | None:
    """Whether an installed build can compute on no GPU in use, and a sentence; None where all are served."""
    build = parse_build(record.build or "")
    if build is None or build.kind not in {Kind.CUDA, Kind.ROCM, Kind.XPU}:
        return None
    hardware = planned.case.hardware
    sentence = hardware.why_not_build(build)
    if sentence is not None:
        return True, sentence
    try:
        torch = Version((record.torch or "").partition("+")[0])
    except InvalidVersion:
        return None
    gpus = hardware.of_kind(build.kind).gpus
    served = hardware.served(build, torch)
    if len(served) == len(gpus):
        return None
    return not served, hardware.why_not_torch(build, torch)


def _again(subject: Subject, planned: Planned) -> Remedy:
    model = shlex.quote(subject.model or "")
    text = "Install it anew for the machine as it is now."
    if planned.is_forced:
        text = f"Take away the setting that names {planned.request.strategy}, and install it anew."
    return Remedy(text=text, commands=(f"moondream-station switch {model} --strategy auto --upgrade",))


def _device(record: CommitRecord) -> str:
    verification = record.verification
    if verification is None:
        return ""
    return f"; it computed on {verification.device_name or verification.device}"


def _newer(record: CommitRecord, planned: Planned) -> str | None:
    newest = planned.selection.torch
    try:
        is_newer = newest is not None and Version(newest) > Version((record.torch or "").partition("+")[0])
    except InvalidVersion:
        return None
    if not is_newer:
        return None
    return f"torch {newest} on {planned.build_name} could be had: `moondream-station switch MODEL --upgrade`."


async def _interpreter(patient: Patient) -> Verdict:
    version = await in_thread(_own_torch)
    if version is None:
        return ok("This interpreter has no torch, and needs none: every model has an environment of its own.")
    planned = await patient.planned.get()
    public, _, local = version.partition("+")
    platform = planned.case.target.platform
    name = local or (load_catalog().pypi_build(public, platform) if platform else None)
    build = parse_build(name or "")
    words = f"torch {version}" + (f" ({name})" if name and not local else "")
    if build is None or build.kind is not Kind.CPU or planned.kind not in _ACCELERATED:
        return ok(f"This interpreter has {words}; the station does not use it.")
    command = planned.selection.command
    replaced = (*command[:_INDEX_OPTIONS_AT], "--force-reinstall", *command[_INDEX_OPTIONS_AT:])
    summary = f"This interpreter has {words}, although the machine can run {planned.build_name}."
    text = "The station's models are not concerned. To replace it here, which can't be undone:"
    return warning(summary, remedy=Remedy(text=text, commands=(shlex.join(replaced),)))


def _own_torch() -> str | None:
    """The version of torch in this interpreter, by its metadata."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


CHECKS = (
    Check(
        id="torch.installed",
        section=Section.TORCH,
        title="The model's torch",
        look=_installed,
        needs_home=True,
    ),
    Check(
        id="torch.interpreter",
        section=Section.TORCH,
        title="Torch in this interpreter",
        look=_interpreter,
        needs_home=True,
    ),
)
