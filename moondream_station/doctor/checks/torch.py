"""PyTorch: in the environment of the active model, and in this interpreter. It is never imported here."""

from __future__ import annotations

import shlex
from importlib import metadata

from packaging.version import InvalidVersion, Version

from moondream_station.core.builds.catalog import load_catalog
from moondream_station.core.builds.naming import Build, Kind, parse_build
from moondream_station.doctor.checks.findings import Remedy, Verdict, ok, problem, warning
from moondream_station.doctor.checks.patient import Patient, in_thread
from moondream_station.doctor.checks.planned import Planned

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
    text = "Reinstall it for the machine as it is now."
    if planned.forced is not None:
        text = f"Remove the setting that names {planned.request.strategy}, and reinstall it."
    model = shlex.quote(subject.model or "")
    reinstall = Remedy(text, (f"moondream-station switch {model} --strategy auto --upgrade",))
    torch = _release(record.torch)
    fatal, sentence = _misfit(build, torch, planned)
    if sentence is not None:
        summary = f"{subject.words} has torch {record.torch}, which does not fit this machine's GPU."
        return problem(summary, reinstall, sentence, fatal=fatal)
    if record.degraded is not None:
        summary = f"{subject.words} is degraded: it runs on {build.name} instead of {record.degraded.wanted}."
        return warning(summary, reinstall, record.degraded.reason)
    if build.kind is Kind.CPU and planned.kind in _ACCELERATED:
        summary = f"{subject.words} runs on the CPU, although this machine can run {planned.selection.build}."
        return warning(summary, reinstall, planned.selection.reason)
    verification = record.verification
    device = verification and (verification.device_name or verification.device)
    verified = f", verified on {device}" if verification else ""
    newest, newer = planned.selection.torch, None
    if newest is not None and torch is not None and Version(newest) > torch:
        on = f"torch {newest} on {planned.selection.build}"
        newer = f"{on} is available: `moondream-station switch MODEL --upgrade`."
    return ok(f"{subject.words} has torch {record.torch}{verified}.", newer)


def _misfit(build: Build, torch: Version | None, planned: Planned) -> tuple[bool, str | None]:
    """Why an installed build does not compute on each GPU in use, and whether on none; None: it does."""
    if build.kind not in {Kind.CUDA, Kind.ROCM, Kind.XPU}:
        return False, None
    hardware = planned.case.hardware
    sentence = hardware.why_not_build(build)
    if sentence is not None or torch is None:
        return True, sentence
    served = hardware.served(build, torch)
    if len(served) == len(hardware.of_kind(build.kind).gpus):
        return False, None
    return not served, hardware.why_not_torch(build, torch)


def _release(torch: str) -> Version | None:
    try:
        return Version(torch.partition("+")[0])
    except InvalidVersion:
        return None


async def interpreter(patient: Patient) -> Verdict:
    """What torch this interpreter has; no model uses it."""
    try:
        version = await in_thread(metadata.version, "torch")
    except metadata.PackageNotFoundError:
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
    summary = f"This interpreter has {words}, although this machine can run {planned.selection.build}."
    text = "The station's models do not use it. To replace it, which can't be undone:"
    return warning(summary, Remedy(text, (shlex.join(replaced),)))
