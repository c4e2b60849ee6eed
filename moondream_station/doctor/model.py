"""The model: its manifest, environment, torch and code, and how the last attempts to run it ended."""

from __future__ import annotations

import shlex
from contextlib import suppress
from functools import partial, reduce

from packaging.version import InvalidVersion, Version

from moondream_station.core.backends.code_store import read_backend, requirements_of
from moondream_station.core.builds.naming import GPU_KINDS, Build, Kind, parse_build
from moondream_station.core.bus.journal import latest_activation, read_activation, read_history
from moondream_station.core.environments.packages import rewritten_files
from moondream_station.core.environments.store import Committed, check_whole, committed_at, place_of
from moondream_station.core.facts.activation_state import Active, WorkerState
from moondream_station.core.facts.errors import (
    BackendUnavailable,
    EnvironmentBroken,
    HomeUnusable,
    RequirementsUnsafe,
    UnknownModel,
)
from moondream_station.core.facts.events import ActivationFailed
from moondream_station.core.facts.state import StationState, apply
from moondream_station.core.home.active_file import ModelRecord, read_active
from moondream_station.core.home.layout import Home
from moondream_station.core.home.storage import read_file
from moondream_station.doctor.patient import Patient, Planned, Unknowable, in_thread
from moondream_station.doctor.report import Finding, error, ok, problem, warning

_LAST_LINES = 10
_RECENT_ACTIVATIONS = 5
_NAMED_AT_MOST = 3
_SET_BY = "MOONDREAM_STATION_MANIFEST or `manifest` in config.json"


async def manifest(patient: Patient) -> Finding:
    """Whether the manifest can be read."""
    try:
        read = await patient.manifest.get()
    except Unknowable as unknown:
        text = f"Correct {_SET_BY}; without both the built-in one is used."
        return error("The manifest can't be used.", text, detail=unknown.reason)
    if read.provenance.warning is not None:
        text = f"Check the network, and the address in {_SET_BY}."
        return warning("An older copy of the manifest is used.", text, detail=read.provenance.warning)
    count = len(read.models)
    return ok(f"The manifest names {count} {'model' if count == 1 else 'models'}.")


async def support(patient: Patient) -> Finding:
    """Whether the manifest has the active or default model, for this system."""
    catalog, subject = await patient.manifest.get(), await patient.subject.get()
    remedy = ("Switch to a model that can be used.", "moondream-station models")
    if subject.model is None:
        return warning("No model is active, and the manifest has no default one for this system.", *remedy)
    if subject.info is None:
        return error(f"The active model {subject.model} is not in the manifest.", *remedy)
    system = None if patient.is_here else patient.machine.facts.system
    reason = catalog.unsupported_reason(subject.model, system=system)
    if reason is not None:
        return error(f"{subject.words} can't be used here.", *remedy, detail=reason)
    if not subject.is_active:
        return ok(f"No model is active; the default one is {subject.model}.")
    return ok(f"{subject.words} is supported here.")


async def code(patient: Patient) -> Finding:
    """Whether the backend's code is what was installed."""
    subject = await patient.subject.get()
    if subject.committed is None:
        return ok("No backend's code is in use yet.")
    record = subject.committed.record
    stored = await in_thread(read_backend, patient.home, record.code_place)
    if stored is None:
        summary = f"The code of the backend {record.backend} is gone, or was changed."
        return error(summary, "Reinstall it.", _command("switch", subject.model))
    backends = (await patient.manifest.get()).backends
    try:
        requirements = await in_thread(requirements_of, stored, backends.get(record.backend))
    except (RequirementsUnsafe, BackendUnavailable) as unsafe:
        return warning(unsafe.message, unsafe.hint or "Correct the line.")
    summary = f"The code of the backend {record.backend} {record.backend_version} is whole."
    return ok(summary, requirements.warnings)


async def worker(patient: Patient) -> Finding:
    """How the model's worker last ended."""
    subject = await patient.subject.get()
    if subject.model is None or subject.record is None:
        return ok("No worker has run yet.")
    events = await in_thread(partial(read_history, patient.home, last=_RECENT_ACTIVATIONS))
    before = Active(
        model=subject.model, backend="", build=None, torch=None, environment=subject.record.environment
    )
    active = reduce(apply, events, StationState(active=before)).active
    if active is None or active.model != subject.model or active.worker is not WorkerState.FAILED:
        return ok(f"The worker of {subject.model} has not crashed since it was last started.")
    return error(
        f"The worker of {subject.model} crashed when it last ran.",
        "Read its last lines; if they do not help, reinstall it.",
        _command("logs", subject.model),
        _command("switch", subject.model, " --upgrade"),
        detail=await in_thread(_last_lines, patient.home, subject.model),
    )


def _command(verb: str, model: str | None, options: str = "") -> str:
    return f"moondream-station {verb} {shlex.quote(model or '')}{options}"


def _last_lines(home: Home, model: str) -> list[str]:
    try:
        text = read_file(home.worker_log(model)).decode(errors="replace")
    except FileNotFoundError:
        return []
    return [line for line in text.splitlines() if line.strip()][-_LAST_LINES:]


async def last_switch(patient: Patient) -> Finding:
    """Whether the last switch failed."""
    latest = await in_thread(latest_activation, patient.home)
    events = await in_thread(read_activation, patient.home, latest) if latest else []
    failed = next((event.fact for event in events if isinstance(event.fact, ActivationFailed)), None)
    if failed is None:
        return ok("The last switch did not fail." if events else "No switch has been made yet.")
    subject = await patient.subject.get()
    has_log = failed.stage in {"start", "verify"}
    lines = await in_thread(_last_lines, patient.home, failed.model) if has_log else []
    # A model that the manifest doesn't have fails again.
    retry = () if failed.error.code == UnknownModel.code else (_command("switch", failed.model),)
    return problem(
        f"The last switch, to {failed.model}, failed at {failed.stage} ({failed.error.code}).",
        failed.error.hint or "Retry once the cause is gone.",
        _command("logs", failed.model),
        *retry,
        detail=(failed.error.message, *lines),
        fatal=failed.model == subject.model and not subject.is_installed,
    )


async def environment(patient: Patient) -> Finding:
    """Whether the model's environment is as it was committed, file by file."""
    try:
        await in_thread(read_active, patient.home)
    except HomeUnusable as unusable:
        return error(unusable.message, unusable.hint or "Move the file away.")
    subject = await patient.subject.get()
    if subject.record is None:
        return ok("No model has an environment yet.")
    switch = _command("switch", subject.model or "MODEL")
    committed, broken = await _examined(patient.home, subject.record)
    if broken is not None or committed is None:
        # One without a record is not taken for one that is whole, so a switch makes another.
        text = "Rebuild it; an environment is never repaired in place."
        return error(f"The environment of {subject.model} is not whole.", text, switch, detail=broken)
    place = committed.place
    if names := await in_thread(rewritten_files, place.venv, place.commit.stat().st_mtime_ns):
        more = f", and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
        return warning(
            f"The environment of {subject.model} changed since it was committed.",
            "Reinstall it; an environment is never repaired in place.",
            _command("remove", subject.model or "MODEL"),
            switch,
            detail=f"Changed since they were installed: {', '.join(names[:_NAMED_AT_MOST])}{more}.",
        )
    return ok(f"The environment of {subject.model} is whole ({committed.record.file_count} files).")


async def others(patient: Patient) -> Finding:
    """Whether the other models' environments are whole."""
    subject = await patient.subject.get()
    models = (await in_thread(read_active, patient.home)).models
    records = {model: record for model, record in models.items() if model != subject.model}
    examined = {model: await _examined(patient.home, record) for model, record in records.items()}
    broken = {model: why for model, (_, why) in examined.items() if why is not None}
    if broken:
        return warning(
            "A model that is not active has a broken environment; a switch to it rebuilds it.",
            "Leave it, or remove the model.",
            *(_command("remove", model) for model in broken),
            detail=[f"{model}: {why}" for model, why in broken.items()],
        )
    if not records:
        return ok("No other model has an environment.")
    return ok(f"The environments of the other models are whole ({', '.join(records)}).")


async def _examined(home: Home, record: ModelRecord) -> tuple[Committed | None, str | None]:
    """The environment that a record names, and why it is not whole."""
    committed = None
    try:
        committed = await in_thread(committed_at, place_of(home, record.environment))
        await check_whole(committed)
    except EnvironmentBroken as broken:
        return committed, broken.message
    return committed, None


async def torch(patient: Patient) -> Finding:
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
        text = f"Remove the setting that names {planned.case.request.strategy}, and reinstall it."
    reinstall = (text, _command("switch", subject.model, " --strategy auto --upgrade"))
    torch = None
    with suppress(InvalidVersion):
        torch = Version(record.torch.partition("+")[0])
    fatal, sentence = _misfit(build, torch, planned)
    if sentence is not None:
        summary = f"{subject.words} has torch {record.torch}, which does not fit this machine's GPU."
        return problem(summary, *reinstall, detail=sentence, fatal=fatal)
    if record.degraded is not None:
        summary = f"{subject.words} is degraded: it runs on {build.name} instead of {record.degraded.wanted}."
        return warning(summary, *reinstall, detail=record.degraded.reason)
    if build.kind is Kind.CPU and planned.kind not in {None, Kind.CPU}:
        summary = f"{subject.words} runs on the CPU, although this machine can run {planned.selection.build}."
        return warning(summary, *reinstall, detail=planned.selection.reason)
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
    if build.kind not in GPU_KINDS:
        return False, None
    hardware = planned.case.hardware
    sentence = hardware.why_not_build(build)
    if sentence is not None or torch is None:
        return True, sentence
    served = hardware.served(build, torch)
    if len(served) == len(hardware.of_kind(build.kind).gpus):
        return False, None
    return not served, hardware.why_not_torch(build, torch)
