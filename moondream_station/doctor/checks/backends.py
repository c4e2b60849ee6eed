"""Manifest, backend code, and how the last attempts to run it ended."""

from __future__ import annotations

import shlex
from functools import partial, reduce

from moondream_station.core.backends.code_store import read_backend, requirements_of
from moondream_station.core.bus.journal import latest_activation, read_activation, read_history
from moondream_station.core.facts.activation_state import Active, WorkerState
from moondream_station.core.facts.errors import BackendUnavailable, RequirementsUnsafe
from moondream_station.core.facts.events import ActivationFailed
from moondream_station.core.facts.state import StationState, apply
from moondream_station.core.home.layout import Home
from moondream_station.core.home.storage import open_file
from moondream_station.doctor.checks.findings import Remedy, Verdict, error, ok, problem, warning
from moondream_station.doctor.checks.patient import Patient, Unknowable, in_thread

_LAST_LINES = 10
_TAIL_BYTES = 64 << 10
_RECENT_ACTIVATIONS = 5
_SET_BY = "MOONDREAM_STATION_MANIFEST or `manifest` in config.json"


async def manifest(patient: Patient) -> Verdict:
    """Whether the manifest can be read."""
    try:
        read = await patient.manifest.get()
    except Unknowable as unknown:
        remedy = Remedy(f"Correct {_SET_BY}; without both the built-in one is used.")
        return error("The manifest can't be used.", remedy, unknown.reason)
    if read.warning is not None:
        remedy = Remedy(f"Check the network, and the address in {_SET_BY}.")
        return warning("An older copy of the manifest is used.", remedy, read.warning)
    count = len(read.models)
    return ok(f"The manifest names {count} {'model' if count == 1 else 'models'}.")


async def model(patient: Patient) -> Verdict:
    """Whether the manifest has the active or default model, for this system."""
    catalog, subject = await patient.manifest.get(), await patient.subject.get()
    remedy = Remedy("Switch to a model that can be used.", ("moondream-station models",))
    if subject.model is None:
        return warning("No model is active, and the manifest has no default one for this system.", remedy)
    if subject.info is None:
        return error(f"The active model {subject.model} is not in the manifest.", remedy)
    system = None if patient.is_here else patient.machine.facts.system
    reason = catalog.unsupported_reason(subject.model, system=system)
    if reason is not None:
        return error(f"{subject.words} can't be used here.", remedy, reason)
    if not subject.is_active:
        return ok(f"No model is active; the default one is {subject.model}.")
    return ok(f"{subject.words} is supported here.")


async def code(patient: Patient) -> Verdict:
    """Whether the backend's code is what was installed."""
    subject = await patient.subject.get()
    if subject.committed is None:
        return ok("No backend's code is in use yet.")
    record = subject.committed.record
    stored = await in_thread(read_backend, patient.home, record.code_place)
    if stored is None:
        switch = f"moondream-station switch {shlex.quote(subject.model or '')}"
        summary = f"The code of the backend {record.backend} is gone, or was changed."
        return error(summary, Remedy("Reinstall it.", (switch,)))
    backends = (await patient.manifest.get()).backends
    try:
        requirements = await in_thread(requirements_of, stored, backends.get(record.backend))
    except (RequirementsUnsafe, BackendUnavailable) as unsafe:
        return warning(unsafe.message, Remedy(unsafe.hint or "Correct the line."))
    summary = f"The code of the backend {record.backend} {record.backend_version} is whole."
    return ok(summary, requirements.warnings)


async def worker(patient: Patient) -> Verdict:
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
    name = shlex.quote(subject.model)
    remedy = Remedy(
        "Read its last lines; reinstall it if they do not tell what to do.",
        (f"moondream-station logs {name}", f"moondream-station switch {name} --upgrade"),
    )
    lines = await in_thread(_last_lines, patient.home, subject.model)
    return error(f"The worker of {subject.model} crashed when it last ran.", remedy, lines)


def _last_lines(home: Home, model: str) -> list[str]:
    """The last lines that a model's worker wrote; none where it never wrote any."""
    try:
        with open_file(home.worker_log(model)) as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return [line for line in text.splitlines() if line.strip()][-_LAST_LINES:]


async def activation(patient: Patient) -> Verdict:
    """Whether the last switch failed."""
    latest = await in_thread(latest_activation, patient.home)
    events = await in_thread(read_activation, patient.home, latest) if latest else []
    failed = next((event.fact for event in events if isinstance(event.fact, ActivationFailed)), None)
    if failed is None:
        return ok("The last switch did not fail." if events else "No switch has been made yet.")
    subject = await patient.subject.get()
    has_log = failed.stage in {"start", "verify"}
    lines = await in_thread(_last_lines, patient.home, failed.model) if has_log else []
    name = shlex.quote(failed.model)
    return problem(
        f"The last switch, to {failed.model}, failed at {failed.stage} ({failed.error.code}).",
        Remedy(
            failed.error.hint or "Retry once the cause is gone.",
            (f"moondream-station logs {name}", f"moondream-station switch {name}"),
        ),
        (failed.error.message, *lines),
        fatal=failed.model == subject.model and not subject.is_installed,
    )
