"""PyTorch: in the environment of the active model, and in this interpreter. It is never imported here."""

from __future__ import annotations

import shlex
from importlib import metadata

from packaging.version import InvalidVersion, Version

from moondream_station.core.builds.catalog import load_catalog
from moondream_station.core.builds.naming import Kind, parse_build
from moondream_station.core.environments.store import CommitRecord
from moondream_station.doctor.patient.patient import Patient, in_thread
from moondream_station.doctor.patient.planned import Planned
from moondream_station.doctor.patient.subject import Subject
from moondream_station.doctor.report.findings import Remedy, Verdict, ok, problem, warning

_ACCELERATED = {Kind.CUDA, Kind.ROCM, Kind.XPU, Kind.MPS}
_INDEX_OPTIONS_AT = 4
"""Where options stand in `python -m pip install …`."""


async def installed(patient: Patient) -> Verdict:
    """Whether the model's torch computes on this machine as well as one could."""
    subject, planned = await patient.subject.get(), await patient.planned.get()
    if subject.committed is None:
        return ok("No environment with torch is installed yet; `moondream-station switch` makes one.")
    record = subject.committed.record
    build = parse_build(record.build or "")
    if build is None or record.torch is None:
        return ok(f"{subject.words} needs no torch.")
    reinstall = _reinstall(subject, planned)
    unserved = _unserved(record, planned)
    if unserved is not None:
        fatal, sentence = unserved
        summary = f"{subject.words} has torch {record.torch}, which does not fit this machine's GPU."
        return problem(summary, reinstall, fatal=fatal, detail=sentence)
    if record.degraded is not None:
        summary = f"{subject.words} is degraded: it runs on {build.name} instead of {record.degraded.wanted}."
        return warning(summary, reinstall, detail=record.degraded.reason)
    if build.kind is Kind.CPU and planned.kind in _ACCELERATED:
        summary = f"{subject.words} runs on the CPU, although this machine can run {planned.build_name}."
        return warning(summary, reinstall, detail=planned.selection.reason)
    verification = record.verification
    device = verification and (verification.device_name or verification.device)
    verified = f", verified on {device}" if verification else ""
    return ok(f"{subject.words} has torch {record.torch}{verified}.", _newer(record, planned))


def _unserved(record: CommitRecord, planned: Planned) -> tuple[bool, str | None] | None:
    """Whether an installed build can compute on no GPU in use, and a sentence; None where all are served."""
    build = parse_build(record.build or "")
    if build is None or build.kind not in {Kind.CUDA, Kind.ROCM, Kind.XPU}:
        return None
    hardware = planned.case.hardware
    sentence = hardware.why_not_build(build)
    if sentence is not None:
        return True, sentence
    torch = _release(record.torch)
    if torch is None:
        return None
    served = hardware.served(build, torch)
    if len(served) == len(hardware.of_kind(build.kind).gpus):
        return None
    return not served, hardware.why_not_torch(build, torch)


def _release(torch: str | None) -> Version | None:
    try:
        return Version((torch or "").partition("+")[0])
    except InvalidVersion:
        return None


def _reinstall(subject: Subject, planned: Planned) -> Remedy:
    text = "Reinstall it for the machine as it is now."
    if planned.is_forced:
        text = f"Remove the setting that names {planned.request.strategy}, and reinstall it."
    model = shlex.quote(subject.model or "")
    return Remedy(text, (f"moondream-station switch {model} --strategy auto --upgrade",))


def _newer(record: CommitRecord, planned: Planned) -> str | None:
    newest, ours = planned.selection.torch, _release(record.torch)
    if newest is None or ours is None or Version(newest) <= ours:
        return None
    return f"torch {newest} on {planned.build_name} is available: `moondream-station switch MODEL --upgrade`."


async def interpreter(patient: Patient) -> Verdict:
    """What torch this interpreter has; no model uses it."""
    version = await in_thread(_own_torch)
    if version is None:
        return ok("This interpreter has no torch, and needs none: each model has its own environment.")
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
    summary = f"This interpreter has {words}, although this machine can run {planned.build_name}."
    text = "The station's models do not use it. To replace it, which can't be undone:"
    return warning(summary, Remedy(text, (shlex.join(replaced),)))


def _own_torch() -> str | None:
    """The version of torch in this interpreter, by its metadata."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None
